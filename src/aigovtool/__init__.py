"""AIGovTool: lend an AI model without giving it away.

Only the version lives here. Nothing is re-exported: importing the package must never drag the
consumer SDK or an attestation verifier into the enclave, where loaded code is attack surface.
"""

__version__ = "0.1.0"
