"""A TEE that exists only as a protocol: complete evidence, no protection (spec: attestation, section 6).

`abi` the report's bytes · `root` the TEST-ONLY keys and certificates · `attester` makes evidence ·
`verify` says whether it is genuine. It has its own TEE type and its own root, whose private key anybody can
compute; custodian and consumer refuse it unless their appraisal policy allows it by name.
"""

from typing import Final

#: Shown wherever the simulated TEE is used: pages, log lines, receipts, answers of the command line.
BANNER: Final = "SIMULATED TEE: protects nothing"
