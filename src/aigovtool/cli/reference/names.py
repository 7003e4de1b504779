"""Measurements as they are given on the command line, and by which names each platform has them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from aigovtool.errors import InvalidValueError

#: A name that no platform has would be in a policy that no enclave can satisfy, and nobody would be told why.
NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "sev-snp": ("launch",),
        "tdx": (
            *("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id", "mr_owner", "mr_owner_config"),
            *("mr_seam", "mr_signer_seam", "mr_service_td"),
        ),
        "sgx": ("mr_enclave", "mr_signer"),
        "nitro": tuple(f"pcr{index}" for index in range(32)),
        "tpm": tuple(f"pcr{index}" for index in range(24)),
        "simulated": ("source",),
    }
)


def named_values(tee: str, values: Sequence[str]) -> dict[str, str]:
    """Return measurements by name; each is given as NAME=HEX.

    Raises:
        InvalidValueError: it is given otherwise, twice, or no measurement of this TEE (`bad_value`).
    """
    from aigovtool.attestation.model import MeasurementHex  # noqa: PLC0415
    from aigovtool.codec import convert  # noqa: PLC0415

    pairs = [value.partition("=") for value in values]
    found = {name: digest.lower() for name, _, digest in pairs}
    if len(found) != len(pairs) or not all(separator for _, separator, _ in pairs):
        raise InvalidValueError("a measurement is given as NAME=HEX, each name once", reason="bad_value")
    for name, digest in found.items():
        if name not in NAMES[tee]:
            raise InvalidValueError(
                f"{tee} has no measurement {name[:40]!r}", reason="bad_value", fix=f"name one of {_listed(NAMES[tee])}"
            )
        try:
            convert(digest, MeasurementHex)
        except InvalidValueError as error:
            raise InvalidValueError(f"--value {name}: {error.message}", reason="bad_value") from None
    return found


def _listed(names: Sequence[str]) -> str:
    return f"{names[0]} to {names[-1]}" if names[0] == "pcr0" else ", ".join(names)
