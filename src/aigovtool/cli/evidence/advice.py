"""What can be done about evidence that is not genuine, by the reason of its first failed step.

Only where there is a way on: evidence that was changed or is somebody else's has none.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_FETCH: Final = (
    "fetch it where there is a network with `aigovtool endorsements fetch`, and bring what it writes: with --fetched, "
    "or into a custodian's cache with `aigovtool endorsements add`"
)
_AT: Final = "to judge it as of another time there is --at"
_NEWER: Final = f"{_AT}; what is newer comes from the vendor: {_FETCH}"

FIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "leaf_missing": f"{_FETCH}; or give the certificate with --endorsements, as a VLEK's, which its provider has",
        "endorsement_count": f"{_FETCH}; or give it with --endorsements",
        "collateral_expired": _NEWER,
        "expired": f"{_AT}; for today the platform must be certified anew",
        "not_yet_valid": f"{_AT}; for today compare this machine's clock",
        "revocation_stale": _NEWER,
        "chain_root": "of a TPM: bring the certificates between its own and its maker's root, with --tpm-issuers where "
        "the evidence is made; and name the maker's root, with --root here and in tpm-roots/ of the custodian's "
        "directory",
    }
)
