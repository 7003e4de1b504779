"""Evidence and endorsements as vendors and other tools write them, brought into the one form that verifiers read.

What comes from files may be spelled in many ways (PEM with other line lengths, JSON with spaces, base64), and is
brought into its only encoding here, where nothing is decided; verifiers accept no other. Nothing is fetched.
"""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from aigovtool.errors import ConfigurationError, EvidenceError, InputError

if TYPE_CHECKING:
    from aigovtool.attestation.model import Evidence, TeeType

T = TypeVar("T")

#: An event log of a server with all its option ROMs; everything else is far smaller.
_MAX_FILE_BYTES: Final = 1 << 20
_MOST_FILES: Final = 32
# No dash inside: each byte is looked at once, however many blocks begin and never end.
_PEM_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----")


def read_evidence(tee: "TeeType | None", path: Path, endorsements: Sequence[Path], log: Path | None) -> "Evidence":
    """Return the evidence in a file (or, of a TPM, in a directory), with endorsements and an event log from others.

    Args:
        tee: whose evidence it is; not needed for a file in this program's own form.
        path: a report, quote or document as the platform gave it (also in base64), `{"tee": ..., "data": ...}`, an
            `attest.Attestation` of go-tpm-tools, or a directory of files by tpm2-tools.
        endorsements: certificates, revocation lists, certificate tables, collateral: DER, PEM or JSON; of a directory
            all files. They come after those that the evidence brings.
        log: a firmware's event log; for TDX and TPM. It takes the place of one that the evidence brings.

    Raises:
        ConfigurationError: a file cannot be read (`unreadable_file`), or the TEE is not named (`no_tee`).
        EvidenceError: a file is not what it should be.
    """
    from aigovtool.attestation.model import TeeType  # noqa: PLC0415

    if path.is_dir():
        return _from_directory(tee, path, endorsements, log)
    content = _content(path)
    own = about(path, lambda: _own_form(content))
    if own is not None:
        if tee not in {None, own.tee}:
            raise EvidenceError(f"{path} is evidence of {own.tee.value}, not of {tee}", reason="tee_mismatch")
        tee, content, brought = own.tee, own.data, list(own.endorsements)
    else:
        brought = []
    if tee is None:
        raise ConfigurationError(f"{path} does not say whose evidence it is", reason="no_tee", fix="name it with --tee")
    added = _endorsements(tee, endorsements)
    if tee is TeeType.TPM and own is None:
        return _from_protobuf(path, content, added, log)
    if log is not None:
        added.append(_events(tee, log))
    return _evidence(tee, _unwrapped(content), [*brought, *added])


def read_roots(paths: Sequence[Path]) -> list[bytes]:
    """Return the DER encodings of the certificates in files: whom to believe instead of the vendor.

    Raises:
        ConfigurationError: a file cannot be read (`unreadable_file`).
        EvidenceError: a file holds no certificates; it is named.
    """
    return [der for path in paths for der in about(path, partial(_read_with, _issuers, path))]


def about(path: Path, read: Callable[[], T]) -> T:
    """Return what `read` returns; where the file is at fault, the message begins with its name."""
    try:
        return read()
    except EvidenceError as error:
        if str(path) in error.message:
            raise
        raise EvidenceError(f"{path}: {error.message}", reason=error.reason, fix=error.fix) from None


def _endorsements(tee: "TeeType", paths: Sequence[Path]) -> list[bytes]:
    """Return what is in files, each read by itself."""
    read = _reader(tee)
    files = [one for path in paths for one in _files(path)]
    return [part for one in files for part in about(one, partial(_read_with, read, one))]


def _read_with(read: Callable[[bytes], list[bytes]], path: Path) -> list[bytes]:
    return read(_content(path))


def _evidence(tee: "TeeType", data: bytes, endorsements: Sequence[bytes]) -> "Evidence":
    from aigovtool.attestation.model import Evidence  # noqa: PLC0415

    try:
        return Evidence(tee=tee, data=data, endorsements=tuple(endorsements))
    except InputError as error:
        raise EvidenceError(error.message, reason=error.reason) from None


def _own_form(content: bytes) -> "Evidence | None":
    from aigovtool.attestation.model import Evidence  # noqa: PLC0415
    from aigovtool.codec import decode  # noqa: PLC0415

    if not content.lstrip().startswith(b"{"):
        return None
    try:
        return decode(content, Evidence)
    except InputError as error:
        raise EvidenceError(
            f"the file is JSON, but not evidence: {error.message}", reason="evidence_encoding"
        ) from None


def _unwrapped(content: bytes) -> bytes:
    """Return the bytes in a file that may have them in base64."""
    text = b"".join(content.split())
    try:
        return base64.b64decode(text, validate=True) if text.isascii() and len(text) > 64 else content
    except binascii.Error:
        return content


def _certificates(content: bytes) -> list[bytes]:
    """Return what is in a file: its certificates and revocation lists in DER if it is PEM, or its bytes as they are."""
    if b"-----BEGIN " not in content:
        return [content]
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    from aigovtool.attestation import certificates  # noqa: F401, PLC0415 - it silences what means nothing here

    readers: dict[bytes, Callable[[bytes], x509.Certificate | x509.CertificateRevocationList]] = {
        b"CERTIFICATE": x509.load_pem_x509_certificate,
        b"X509 CRL": x509.load_pem_x509_crl,
    }
    blocks = list(_PEM_BLOCK.finditer(content))
    # What stands between blocks is for people (RFC 7468, section 2), but no block is passed over.
    if b"-----" in _PEM_BLOCK.sub(b"", content) or not {block[1] for block in blocks} <= readers.keys():
        raise EvidenceError("a PEM file has other things than certificates and lists", reason="certificate_encoding")
    try:
        return [readers[block[1]](block[0]).public_bytes(Encoding.DER) for block in blocks]
    except (ValueError, x509.InvalidVersion):
        raise EvidenceError("a PEM file cannot be parsed", reason="certificate_encoding") from None


def _collateral(content: bytes) -> list[bytes]:
    """Return Intel's collateral in its only encoding; other files as they are."""
    from aigovtool.attestation.tee.intel.collateral import collateral_from_json  # noqa: PLC0415

    return [collateral_from_json(content)] if content.lstrip().startswith(b"{") else [content]


def _amd(content: bytes) -> list[bytes]:
    """Return the certificates, lists and tables in a file, which is refused here where it has something else."""
    from aigovtool.attestation.tee.snp.endorsements import read_parts  # noqa: PLC0415

    found = _certificates(content)
    for one in found:
        read_parts([one])
    return found


def _issuers(content: bytes) -> list[bytes]:
    """Return the certificates in a file, which is refused here where it has something else."""
    from aigovtool.attestation.certificates import read_certificates  # noqa: PLC0415

    found = _certificates(content)
    for one in found:
        read_certificates(one)
    return found


def _reader(tee: "TeeType") -> Callable[[bytes], list[bytes]]:
    readers = {"sgx": _collateral, "tdx": _collateral, "sev-snp": _amd, "tpm": _issuers}
    return readers.get(tee.value, _certificates)


def _events(tee: "TeeType", log: Path) -> bytes:
    """Return the digests in an event log of a TD: its registers 1 to 4 are RTMR0 to RTMR3."""
    from aigovtool.attestation.model import TeeType  # noqa: PLC0415
    from aigovtool.attestation.tee.tpm.event_log import parse_log  # noqa: PLC0415
    from aigovtool.codec import encode  # noqa: PLC0415

    if tee is not TeeType.TDX:
        raise ConfigurationError(f"evidence of {tee.value} comes with no event log of its own", reason="no_event_log")
    content = _content(log)
    found = about(log, lambda: parse_log(content))
    return encode(found.event_list("sha384", found.registers(), lambda register: f"rtmr{register - 1}"))


def _from_directory(tee: "TeeType | None", path: Path, endorsements: Sequence[Path], log: Path | None) -> "Evidence":
    from aigovtool.attestation.model import TeeType  # noqa: PLC0415
    from aigovtool.attestation.tee.tpm.bundle import EVENT_LOG_FILE, evidence_from_directory  # noqa: PLC0415

    if tee not in {None, TeeType.TPM}:
        raise ConfigurationError(f"{path} is a directory; of {tee} give a file", reason="unreadable_file")
    files = {one.name: _content(one) for one in _files(path)}
    if log is not None:
        files[EVENT_LOG_FILE] = _log(log)
    issuers = _endorsements(TeeType.TPM, endorsements)
    return about(path, lambda: evidence_from_directory(files, issuers))


def _from_protobuf(path: Path, content: bytes, issuers: Sequence[bytes], log: Path | None) -> "Evidence":
    from aigovtool.attestation.tee.tpm.bundle import evidence_from_protobuf  # noqa: PLC0415

    events = None if log is None else _log(log)
    return about(path, lambda: evidence_from_protobuf(content, issuers=issuers, log=events))


def _log(path: Path) -> bytes:
    """Return the bytes of an event log; it is read here once so that a bad one is named."""
    from aigovtool.attestation.tee.tpm.event_log import parse_log  # noqa: PLC0415

    content = _content(path)
    about(path, lambda: parse_log(content))
    return content


def _files(path: Path) -> list[Path]:
    return sorted(one for one in path.iterdir() if one.is_file())[:_MOST_FILES] if path.is_dir() else [path]


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_file") from None
    if len(content) > _MAX_FILE_BYTES:
        raise EvidenceError(f"{path} is larger than {_MAX_FILE_BYTES:,} bytes", reason="evidence_too_large")
    return content
