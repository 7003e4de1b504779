"""The container in which Azure's paravisor hands out a report (spec: attestation/snp, 2).

The guest does not choose the report data there: the paravisor (HCL) does, and it is the SHA-256 of a JSON text that the
paravisor made, among others with the public key of the guest's virtual TPM. So such evidence is bound to no
conversation by its report data; a quote by that TPM key would have to be.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from aigovtool.attestation.tee.snp.report import REPORT_BYTES
from aigovtool.errors import EvidenceError

MAGIC: Final = b"HCLA"
_REPORT_OFFSET: Final = 0x20
_RUNTIME_OFFSET: Final = _REPORT_OFFSET + REPORT_BYTES
_CLAIMS_OFFSET: Final = _RUNTIME_OFFSET + 20

_VERSION: Final = 1
_ATTESTATION_REQUEST: Final = 2
_SNP_REPORT: Final = 2
_SHA256: Final = 1


@dataclass(frozen=True, slots=True)
class Container:
    """A report as it came, and what it says it came from; `claims` is None where the guest asked the processor."""

    report: bytes
    claims: bytes | None

    @property
    def paravisor(self) -> str:
        """Who stands between guest and processor."""
        return "none" if self.claims is None else "azure-hcl"


def open_container(data: bytes) -> Container:
    """Return the report in `data`: of an Azure container if it begins as one, and else `data` itself.

    Raises:
        EvidenceError: `container` for a container that is not exactly as specified.
    """
    if not data.startswith(MAGIC):
        return Container(data, None)
    words = [int.from_bytes(data[offset : offset + 4], "little") for offset in range(4, _REPORT_OFFSET, 4)]
    runtime = data[_RUNTIME_OFFSET:_CLAIMS_OFFSET]
    size, version, kind, algorithm, length = (int.from_bytes(runtime[at : at + 4], "little") for at in range(0, 20, 4))
    end = _CLAIMS_OFFSET + length
    _require("header", holds=words == [_VERSION, end, _ATTESTATION_REQUEST, 0, 0, 0, 0])
    _require("header of the runtime claims", holds=(version, kind, algorithm) == (1, _SNP_REPORT, _SHA256))
    _require("length", holds=length > 0 and size == length + 20 and end <= len(data))
    # It is read from an NV index of fixed size, which is filled with zeros.
    _require("filling", holds=not any(data[end:]))
    return Container(data[_REPORT_OFFSET:_RUNTIME_OFFSET], data[_CLAIMS_OFFSET:end])


def require_claims(container: Container, report_data: bytes) -> None:
    """Require that the report data is the SHA-256 of the runtime claims, then zeros.

    Raises:
        EvidenceError: `runtime_claims`.
    """
    if container.claims is not None and report_data != sha256(container.claims).digest() + bytes(32):
        raise EvidenceError("the report data is not the hash of the runtime claims", reason="runtime_claims")


def _require(part: str, *, holds: bool) -> None:
    if not holds:
        raise EvidenceError(f"a container of Azure's paravisor with a bad {part}", reason="container")
