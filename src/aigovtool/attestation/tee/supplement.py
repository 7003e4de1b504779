"""Evidence with endorsements that somebody else added: the custodian knows more than a guest without a network.

This loads no verifier: enclaves use it.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from aigovtool.attestation.model import Evidence

#: Intel's collateral is recognised by how its only encoding begins.
COLLATERAL_PREFIX: Final = b'{"pck_crl_issuer_chain":'


def supplemented(evidence: Evidence, added: Sequence[bytes]) -> Evidence:
    """Return the evidence with what was added; Intel's collateral, of which there is one, takes the place of its own.

    Raises:
        TooLargeError: together it is too much.
    """
    new = [part for part in added if part not in evidence.endorsements]
    replaced = any(part.startswith(COLLATERAL_PREFIX) for part in added)
    kept = [part for part in evidence.endorsements if not (replaced and part.startswith(COLLATERAL_PREFIX))]
    if replaced:
        new = list(added)
    return msgspec.structs.replace(evidence, endorsements=(*kept, *new))
