"""A quote of Intel's quoting enclaves, byte by byte (spec: attestation/intel, section 1).

Formats: "Intel SGX ECDSA QuoteLibReference DCAP API", appendix A (version 3), and "Intel TDX DCAP Quoting Library API",
appendix A (versions 4 and 5). Read are only the forms that verification supports: SGX in version 3, TDX in 4 and 5,
attestation keys on P-256, the PCK chain inside. Every other form is refused by name.

One quote has one encoding here: exact lengths, reserved fields zero, and whatever follows it, because guests copy
quotes out of buffers of a fixed size, is zero too. Integers are little-endian.
"""

import struct
from dataclasses import dataclass
from typing import Final

from aigovtool.errors import EvidenceError

TEE_SGX: Final = 0x00
TEE_TDX: Final = 0x81
HEADER_BYTES: Final = 48
ENCLAVE_REPORT_BYTES: Final = 384
TD_REPORT_10_BYTES: Final = 584
TD_REPORT_15_BYTES: Final = 648

#: ECDSA with P-256: the only kind of attestation key that is verified.
KEY_TYPE_P256: Final = 2
#: Intel's quoting enclaves; others follow rules of their own.
INTEL_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
CERTIFICATION_PCK_CHAIN: Final = 5
CERTIFICATION_QE_REPORT: Final = 6
#: The DCAP quoting enclaves always write this many bytes of authentication data.
QE_AUTH_BYTES: Final = 32

_VERSIONS: Final = {TEE_SGX: (3,), TEE_TDX: (4, 5)}
#: Of version 5: the body's type says what it is, and so how long.
_BODIES: Final = {2: TD_REPORT_10_BYTES, 3: TD_REPORT_15_BYTES}
_HEADER: Final = struct.Struct("<HHIHH16s20s")
_ENCLAVE: Final = struct.Struct("<16sI12s16s8sQ32s32s32s32s64sHHH42s16s64s")
_TD: Final = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first 48 bytes. `qe_svn` and `pce_svn` are 0 in versions 4 and 5, where these fields are reserved."""

    version: int
    tee: int
    qe_svn: int
    pce_svn: int
    user_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """The body of a report of an SGX enclave (REPORTBODY): the quoted enclave's, or the quoting enclave's own.

    Byte strings are as they stand in the report; `attributes` are its 8 bytes of flags, `xfrm` the 64 bits behind them.
    """

    cpu_svn: bytes
    misc_select: int
    isv_ext_prod_id: bytes
    attributes: bytes
    xfrm: int
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """The body of a TD's report: 1.0, or 1.5 with its two additional fields. Byte strings are as they stand there."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A quote in its parts; nothing of it is verified.

    Attributes:
        signed: header and body, which `signature` covers.
        signature: r and s, 32 bytes each, by `attestation_key`.
        attestation_key: x and y, 32 bytes each.
        qe_report: what the quoting enclave is; `qe_report_bytes` are the bytes that `qe_report_signature` covers.
        pck_chain: certificates in PEM, leaf first, without the NUL that ends them in most quotes.
        padded: whether nothing follows the quote but zeros, as in a buffer of a guest.
    """

    header: Header
    body: EnclaveReport | TdReport
    signed: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_report_bytes: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    pck_chain: bytes
    padded: bool


def read_quote(data: bytes) -> Quote:
    """Return the parts of the quote that `data` is.

    Raises:
        EvidenceError: `quote_length`, `quote_version`, `quote_tee`, `quote_key_type`, `quote_vendor`,
            `quote_reserved`, `quote_body`, `quote_certification`.
    """
    cursor = _Cursor(data)
    header = _header(cursor.take(HEADER_BYTES))
    body = cursor.take(_body_bytes(header, cursor))
    report = _enclave(body) if header.tee == TEE_SGX else _td(body)
    signed = data[: cursor.offset]
    section = _Cursor(cursor.sized(4))
    signature, key = section.take(64), section.take(64)
    # Versions 4 and 5 put everything about the quoting enclave into certification data of its own type.
    certified = section if header.version == 3 else _Cursor(_certification(section, CERTIFICATION_QE_REPORT))
    qe_report, qe_signature, auth = certified.take(ENCLAVE_REPORT_BYTES), certified.take(64), certified.sized(2)
    if len(auth) != QE_AUTH_BYTES:
        raise EvidenceError(f"authentication data has {QE_AUTH_BYTES} bytes, not {len(auth)}", reason="quote_length")
    return Quote(
        header=header,
        body=report,
        signed=signed,
        signature=signature,
        attestation_key=key,
        qe_report=_enclave(qe_report),
        qe_report_bytes=qe_report,
        qe_report_signature=qe_signature,
        qe_auth_data=auth,
        pck_chain=_certification(certified, CERTIFICATION_PCK_CHAIN).removesuffix(b"\0"),
        padded=not any(cursor.rest()),
    )


class _Cursor:
    """Takes exact numbers of bytes off the front."""

    __slots__ = ("_data", "offset")

    def __init__(self, data: bytes) -> None:
        self._data: Final = data
        self.offset = 0

    def take(self, count: int) -> bytes:
        taken = self._data[self.offset : self.offset + count]
        if len(taken) != count:
            raise EvidenceError(f"a quote ends at byte {len(self._data)} of a part", reason="quote_length")
        self.offset += count
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def sized(self, size: int) -> bytes:
        """Take what a length of `size` bytes announces; taking, not announcing, is what allocates."""
        return self.take(self.number(size))

    def rest(self) -> bytes:
        return self._data[self.offset :]


def _header(data: bytes) -> Header:
    version, key_type, tee, qe_svn, pce_svn, vendor, user_data = _HEADER.unpack(data)
    if tee not in _VERSIONS:
        raise EvidenceError(f"a quote of TEE type {tee:#x} is neither SGX nor TDX", reason="quote_tee")
    if version not in _VERSIONS[tee]:
        raise EvidenceError(f"version {version} of quotes of TEE type {tee:#x} is not verified", reason="quote_version")
    if key_type != KEY_TYPE_P256:
        raise EvidenceError(f"attestation keys of type {key_type} are not verified", reason="quote_key_type")
    if vendor != INTEL_VENDOR:
        raise EvidenceError("the quoting enclave is not Intel's", reason="quote_vendor")
    if version != 3 and (qe_svn or pce_svn):
        raise EvidenceError("reserved bytes of the header are not zero", reason="quote_reserved")
    return Header(version=version, tee=tee, qe_svn=qe_svn, pce_svn=pce_svn, user_data=user_data)


def _body_bytes(header: Header, cursor: _Cursor) -> int:
    """Return how long the body is; version 5 says so itself, in two ways."""
    if header.version != 5:
        return ENCLAVE_REPORT_BYTES if header.tee == TEE_SGX else TD_REPORT_10_BYTES
    kind, size = cursor.number(2), cursor.number(4)
    if _BODIES.get(kind) != size:
        raise EvidenceError(f"a body of type {kind} with {size} bytes is not known", reason="quote_body")
    return size


def _certification(cursor: _Cursor, kind: int) -> bytes:
    """Take certification data of this kind, which must be the last of its part."""
    found = cursor.number(2)
    if found != kind:
        raise EvidenceError(f"certification data of type {found} where {kind} is read", reason="quote_certification")
    data = cursor.sized(4)
    if cursor.rest():
        raise EvidenceError("a part of the quote is longer than what it holds", reason="quote_length")
    return data


def _enclave(data: bytes) -> EnclaveReport:
    (
        cpu_svn,
        misc_select,
        reserved1,
        isv_ext_prod_id,
        attributes,
        xfrm,
        mr_enclave,
        reserved2,
        mr_signer,
        reserved3,
        config_id,
        isv_prod_id,
        isv_svn,
        config_svn,
        reserved4,
        isv_family_id,
        report_data,
    ) = _ENCLAVE.unpack(data)
    if any(reserved1 + reserved2 + reserved3 + reserved4):
        raise EvidenceError("reserved bytes of an enclave's report are not zero", reason="quote_reserved")
    return EnclaveReport(
        cpu_svn=cpu_svn,
        misc_select=misc_select,
        isv_ext_prod_id=isv_ext_prod_id,
        attributes=attributes,
        xfrm=xfrm,
        mr_enclave=mr_enclave,
        mr_signer=mr_signer,
        config_id=config_id,
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        config_svn=config_svn,
        isv_family_id=isv_family_id,
        report_data=report_data,
    )


def _td(data: bytes) -> TdReport:
    tcb, seam, seam_signer, seam_attributes, attributes, xfam, td, config, owner, owner_config, *rtmrs, report_data = (
        _TD.unpack_from(data)
    )
    more = data[TD_REPORT_10_BYTES:]
    return TdReport(
        tee_tcb_svn=tcb,
        mr_seam=seam,
        mr_signer_seam=seam_signer,
        seam_attributes=seam_attributes,
        td_attributes=attributes,
        xfam=xfam,
        mr_td=td,
        mr_config_id=config,
        mr_owner=owner,
        mr_owner_config=owner_config,
        rtmrs=(rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]),
        report_data=report_data,
        tee_tcb_svn2=more[:16] or None,
        mr_service_td=more[16:] or None,
    )
