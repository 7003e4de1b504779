"""A vendor like Intel, made of TEST-ONLY keys that anybody can compute: its chains, statements, platforms and quotes.

Everything is deterministic. A `Recipe` says what is to be made; without any change it makes genuine evidence, so what
a test changes is the one defect.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256, sha384
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from aigovtool.attestation.event_list import EventList
from aigovtool.attestation.model import Evidence, Label, MeasuredEvents, MeasurementHex, TeeType
from aigovtool.attestation.tee.intel.collateral import Collateral
from aigovtool.codec import encode

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
NOW_MS = int(NOW.timestamp()) * 1000
DAY = timedelta(days=1)
VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
REPORT_DATA = bytes(range(64))
PPID = bytes.fromhex("11" * 16)
FMSPC = "00906EA10000"
CPU_SVN = bytes([7, 7, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0])
TEE_TCB_SVN = bytes([6, 1, 3, *[0] * 13])
QE_SIGNER = "ab" * 32
EVENTS = tuple(MeasurementHex(sha384(b"event %d" % index).hexdigest()) for index in range(3))
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}

Part = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to make. Mappings override fields by name; `signed_by` names another key than the right one.

    Parts that are certificates: `root`, `authority`, `leaf`, `signing`. Parts that are signed besides: `root_crl`,
    `pck_crl`, `tcb_info`, `qe_identity`, `qe_report`, `quote`.
    """

    tee: TeeType = TeeType.TDX
    version: int = 4
    header: Part = field(default_factory=dict)
    body: Part = field(default_factory=dict)
    td15: bool = False
    qe: Part = field(default_factory=dict)
    qe_auth: bytes = bytes(range(32))
    qe_key: str | None = None
    quoted_key: bytes | None = None
    pck: Part = field(default_factory=dict)
    certificate: Mapping[str, Part] = field(default_factory=dict)
    signed_by: Mapping[str, str] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()
    lists: Mapping[str, Part] = field(default_factory=dict)
    tcb_info: Part = field(default_factory=dict)
    qe_identity: Part = field(default_factory=dict)
    status: str = "UpToDate"
    qe_status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    pem_end: bytes = b"\0"
    padding: int = 0
    events: bool = False


SGX = Recipe(tee=TeeType.SGX, version=3)
TDX4 = Recipe()
TDX4_EVENTS = Recipe(events=True)
TDX5 = Recipe(version=5)
TDX15 = Recipe(version=5, td15=True, padding=30)


def but(recipe: Recipe, **changes: Any) -> Recipe:
    """Return the recipe with these changes."""
    return replace(recipe, **changes)


# -- Keys and signatures ------------------------------------------------------------------------------------


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """Return the TEST-ONLY key of this name; `NAME@p384` is on another curve."""
    seed = int.from_bytes(sha256(b"TEST-ONLY Intel-like " + name.encode()).digest(), "big")
    return ec.derive_private_key(seed >> 8, CURVES[name.partition("@")[2] or "p256"])


def raw_key(name: str) -> bytes:
    """Return x and y of a public key."""
    return key(name).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def sign(name: str, data: bytes) -> bytes:
    """Return r and s over `data`."""
    der = key(name).sign(data, ec.ECDSA(SHA256(), deterministic_signing=True))
    return b"".join(part.to_bytes(32, "big") for part in decode_dss_signature(der))


def _signer(recipe: Recipe, part: str, usual: str) -> str:
    return recipe.signed_by.get(part, usual)


# -- Certificates and lists ---------------------------------------------------------------------------------

NAMES = {
    "root": "Intel SGX Root CA",
    "authority": "Intel SGX PCK Platform CA",
    "leaf": "Intel SGX PCK Certificate",
    "signing": "Intel SGX TCB Signing",
}
ISSUERS = {"root": "root", "authority": "root", "leaf": "authority", "signing": "root"}
SERIALS = {"root": 1, "authority": 2, "leaf": 3, "signing": 4}


def name(common: str) -> x509.Name:
    """Return a name as Intel writes them."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "TEST-ONLY"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )


def certificate(recipe: Recipe, part: str) -> x509.Certificate:
    """Return the certificate of `root`, `authority`, `leaf` or `signing`."""
    own: Part = recipe.certificate.get(part, {})
    issuer = recipe.certificate.get(ISSUERS[part], {}).get("name", NAMES[ISSUERS[part]])
    is_authority = own.get("ca", part in {"root", "authority"})
    path_length = {"root": 1, "authority": 0}.get(part) if is_authority else None
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(own.get("name", NAMES[part])))
        .issuer_name(name(own.get("issuer", issuer)))
        .serial_number(SERIALS[part])
        .public_key(key(own.get("key", part)).public_key())
        .not_valid_before(own.get("since", NOW - 900 * DAY))
        .not_valid_after(own.get("until", NOW + 900 * DAY))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=path_length), critical=True)
        .add_extension(_usage(authority=own.get("usage", is_authority)), critical=True)
    )
    if part == "leaf":
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.1"), pck_extension(recipe.pck)),
            critical=False,
        )
    if "critical" in own:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), critical=True
        )
    signer = key(_signer(recipe, part, ISSUERS[part]))
    return builder.sign(signer, own.get("hash", SHA256()), ecdsa_deterministic=True)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=not authority,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def pem(*certificates: x509.Certificate) -> str:
    """Return a chain as it stands in collateral."""
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)


def root_der(recipe: Recipe = TDX4) -> bytes:
    """Return the root that is to be believed."""
    return certificate(recipe, "root").public_bytes(Encoding.DER)


def revocation_list(recipe: Recipe, part: str) -> bytes:
    """Return the DER encoding of `root_crl` or `pck_crl`."""
    own: Part = recipe.lists.get(part, {})
    issuer = {"root_crl": "root", "pck_crl": "authority"}[part]
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name(own.get("issuer", recipe.certificate.get(issuer, {}).get("name", NAMES[issuer]))))
        .last_update(own.get("since", NOW - 10 * DAY))
        .next_update(own.get("until", NOW + 20 * DAY))
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    if "delta" in own:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    for revoked in sorted(recipe.revoked):
        if ISSUERS[revoked] == issuer:
            entry = x509.RevokedCertificateBuilder().serial_number(SERIALS[revoked]).revocation_date(NOW - 11 * DAY)
            builder = builder.add_revoked_certificate(entry.build())
    signer = key(_signer(recipe, part, issuer))
    made = builder.sign(signer, own.get("hash", SHA256()), ecdsa_deterministic=True)
    return _endless(made, signer) if "endless" in own else made.public_bytes(Encoding.DER)


def _endless(made: x509.CertificateRevocationList, signer: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the list without its next update, signed again: the library's builder makes no such list."""
    until = made.next_update_utc
    assert until is not None
    body = made.tbs_certlist_bytes
    short = body.replace(_der(0x17, until.strftime("%y%m%d%H%M%SZ").encode()), b"", 1)
    assert len(body) - len(short) == 15
    signed = _der(0x30, short[3:] if short[1] == 0x81 else short[2:])
    signature = signer.sign(signed, ec.ECDSA(SHA256(), deterministic_signing=True))
    # ecdsa-with-SHA256
    algorithm = _der(0x30, _der(0x06, bytes.fromhex("2a8648ce3d040302")))
    return _der(0x30, signed + algorithm + _der(0x03, b"\0" + signature))


# -- The extension of a PCK certificate ---------------------------------------------------------------------


def _der(tag: int, value: bytes) -> bytes:
    size = len(value)
    head = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + head + value


def _entry(path: str, value: bytes) -> bytes:
    # 1.2.840.113741.1.13.1 and what follows, all below 128.
    oid = bytes.fromhex("2a864886f84d010d01") + bytes(int(part) for part in path.split("."))
    return _der(0x30, _der(0x06, oid) + value)


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def pck_extension(own: Part) -> bytes:
    """Return the SGX extension; `platform` is None for a certificate of the Processor CA, which says less."""
    cpu_svn, pce_svn = own.get("cpu_svn", CPU_SVN), own.get("pce_svn", 11)
    tcb = b"".join(_entry(f"2.{index}", _integer(svn)) for index, svn in enumerate(cpu_svn, 1))
    tcb += _entry("2.17", _integer(pce_svn)) + _entry("2.18", _der(0x04, cpu_svn))
    entries = [
        _entry("1", _der(0x04, own.get("ppid", PPID))),
        _entry("2", _der(0x30, tcb)),
        _entry("3", _der(0x04, own.get("pce_id", bytes(2)))),
        _entry("4", _der(0x04, bytes.fromhex(own.get("fmspc", FMSPC)))),
        _entry("5", _der(0x0A, bytes([own.get("sgx_type", 1)]))),
    ]
    platform = own.get("platform", (True, False, True))
    if platform is not None:
        flags = b"".join(
            _entry(f"7.{index}", _der(0x01, b"\xff" if flag else b"\x00")) for index, flag in enumerate(platform, 1)
        )
        entries += [_entry("6", _der(0x04, bytes.fromhex("22" * 16))), _entry("7", _der(0x30, flags))]
    return _der(0x30, b"".join(entries))


# -- What the vendor says about platforms -------------------------------------------------------------------


def stamp(time: datetime) -> str:
    """Return a time as the vendor writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def tcb_info(recipe: Recipe) -> str:
    """Return TCB information with one level: this platform's."""
    tdx = recipe.tee is TeeType.TDX
    tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": svn} for svn in CPU_SVN], "pcesvn": 11}
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    module_level = {"tcb": {"isvsvn": 5}, "tcbDate": "2026-05-13T00:00:00Z", "tcbStatus": "UpToDate"}
    if tdx:
        tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in [5, 0, 3, *[0] * 13]]
    level = {"tcb": tcb, "tcbDate": "2026-05-13T00:00:00Z", "tcbStatus": recipe.status}
    if recipe.advisories:
        level["advisoryIDs"] = list(recipe.advisories)
    said = {
        "id": "TDX" if tdx else "SGX",
        "version": 3,
        "issueDate": stamp(NOW - 5 * DAY),
        "nextUpdate": stamp(NOW + 25 * DAY),
        "fmspc": FMSPC,
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 20,
        **(
            {"tdxModule": module, "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": [module_level]}]}
            if tdx
            else {}
        ),
        "tcbLevels": [level],
        **recipe.tcb_info,
    }
    return json.dumps(said, separators=(",", ":"))


def qe_identity(recipe: Recipe) -> str:
    """Return the identity of the quoting enclave."""
    said = {
        "id": "TD_QE" if recipe.tee is TeeType.TDX else "QE",
        "version": 2,
        "issueDate": stamp(NOW - 4 * DAY),
        "nextUpdate": stamp(NOW + 26 * DAY),
        "tcbEvaluationDataNumber": 21,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_SIGNER.upper(),
        "isvprodid": 2,
        "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": "2026-05-13T00:00:00Z", "tcbStatus": recipe.qe_status}],
        **recipe.qe_identity,
    }
    return json.dumps(said, separators=(",", ":"))


def collateral(recipe: Recipe) -> Collateral:
    """Return the nine parts."""
    root, signing = certificate(recipe, "root"), certificate(recipe, "signing")
    said, identity = tcb_info(recipe), qe_identity(recipe)
    return Collateral(
        pck_crl_issuer_chain=pem(certificate(recipe, "authority"), root),
        root_ca_crl=revocation_list(recipe, "root_crl").hex(),
        pck_crl=revocation_list(recipe, "pck_crl").hex(),
        tcb_info_issuer_chain=pem(signing, root),
        tcb_info=said,
        tcb_info_signature=sign(_signer(recipe, "tcb_info", "signing"), said.encode()).hex(),
        qe_identity_issuer_chain=pem(signing, root),
        qe_identity=identity,
        qe_identity_signature=sign(_signer(recipe, "qe_identity", "signing"), identity.encode()).hex(),
    )


# -- Reports and quotes -------------------------------------------------------------------------------------

#: name, offset, size: numbers of the specification, not of the code.
ENCLAVE = {
    "cpu_svn": (0, 16),
    "misc_select": (16, 4),
    "reserved1": (20, 12),
    "isv_ext_prod_id": (32, 16),
    "attributes": (48, 8),
    "xfrm": (56, 8),
    "mr_enclave": (64, 32),
    "reserved2": (96, 32),
    "mr_signer": (128, 32),
    "reserved3": (160, 32),
    "config_id": (192, 64),
    "isv_prod_id": (256, 2),
    "isv_svn": (258, 2),
    "config_svn": (260, 2),
    "reserved4": (262, 42),
    "isv_family_id": (304, 16),
    "report_data": (320, 64),
}
TD = {
    "tee_tcb_svn": (0, 16),
    "mr_seam": (16, 48),
    "mr_signer_seam": (64, 48),
    "seam_attributes": (112, 8),
    "td_attributes": (120, 8),
    "xfam": (128, 8),
    "mr_td": (136, 48),
    "mr_config_id": (184, 48),
    "mr_owner": (232, 48),
    "mr_owner_config": (280, 48),
    "rtmr0": (328, 48),
    "rtmr1": (376, 48),
    "rtmr2": (424, 48),
    "rtmr3": (472, 48),
    "report_data": (520, 64),
    "tee_tcb_svn2": (584, 16),
    "mr_service_td": (600, 48),
}
HEADER = {
    "version": (0, 2),
    "key_type": (2, 2),
    "tee": (4, 4),
    "qe_svn": (8, 2),
    "pce_svn": (10, 2),
    "vendor": (12, 16),
    "user_data": (28, 20),
}


def layout(fields: Mapping[str, tuple[int, int]], size: int, values: Part) -> bytes:
    """Return `size` bytes with these values at their offsets."""
    data = bytearray(size)
    for label, value in values.items():
        offset, length = fields[label]
        raw = value if isinstance(value, bytes) else value.to_bytes(length, "little")
        data[offset : offset + length] = raw.ljust(length, b"\0")
    return bytes(data)


def rtmr(count: int) -> bytes:
    """Return what a register holds after the first events."""
    value = bytes(48)
    for event in EVENTS[:count]:
        value = sha384(value + bytes.fromhex(event)).digest()
    return value


def body(recipe: Recipe) -> bytes:
    """Return the quoted report."""
    if recipe.tee is TeeType.SGX:
        usual: Part = {
            "cpu_svn": CPU_SVN,
            "attributes": 0x05,
            "xfrm": 0xE7,
            "mr_enclave": b"\xe1" * 32,
            "mr_signer": b"\xe2" * 32,
            "isv_prod_id": 7,
            "isv_svn": 3,
            "report_data": REPORT_DATA,
        }
        return layout(ENCLAVE, 384, {**usual, **recipe.body})
    usual = {
        "tee_tcb_svn": TEE_TCB_SVN,
        "mr_seam": b"\xd1" * 48,
        "td_attributes": 1 << 28,
        "xfam": 0x618E7,
        "mr_td": b"\xd2" * 48,
        "rtmr0": rtmr(1),
        "rtmr1": rtmr(2),
        "rtmr2": rtmr(3),
        "report_data": REPORT_DATA,
        **({"tee_tcb_svn2": TEE_TCB_SVN} if recipe.td15 else {}),
    }
    return layout(TD, 648 if recipe.td15 else 584, {**usual, **recipe.body})


def qe_report(recipe: Recipe) -> bytes:
    """Return what the quoting enclave says of itself, and of the attestation key."""
    vouched = sha256(raw_key(recipe.qe_key or "attestation") + recipe.qe_auth).digest()
    usual: Part = {
        "cpu_svn": CPU_SVN,
        "attributes": 0x15,
        "xfrm": 0xE7,
        "mr_enclave": b"\xe3" * 32,
        "mr_signer": bytes.fromhex(QE_SIGNER),
        "isv_prod_id": 2,
        "isv_svn": 6,
        "report_data": vouched,
    }
    return layout(ENCLAVE, 384, {**usual, **recipe.qe})


def quote(recipe: Recipe) -> bytes:
    """Return the quote, with the zeros behind it."""
    head: Part = {
        "version": recipe.version,
        "key_type": 2,
        "tee": 0x81 if recipe.tee is TeeType.TDX else 0,
        "vendor": VENDOR,
        **({"qe_svn": 6, "pce_svn": 11} if recipe.version == 3 else {}),
        **recipe.header,
    }
    report = body(recipe)
    descriptor = struct.pack("<HI", 3 if recipe.td15 else 2, len(report)) if recipe.version == 5 else b""
    signed = layout(HEADER, 48, head) + descriptor + report
    enclave = qe_report(recipe)
    chain = pem(*(certificate(recipe, part) for part in ("leaf", "authority", "root"))).encode() + recipe.pem_end
    vouched = enclave + sign(
        _signer(recipe, "qe_report", recipe.certificate.get("leaf", {}).get("key", "leaf")), enclave
    )
    vouched += struct.pack("<H", len(recipe.qe_auth)) + recipe.qe_auth + struct.pack("<HI", 5, len(chain)) + chain
    if recipe.version != 3:
        vouched = struct.pack("<HI", 6, len(vouched)) + vouched
    attestation_key = raw_key("attestation") if recipe.quoted_key is None else recipe.quoted_key
    section = sign(_signer(recipe, "quote", "attestation"), signed) + attestation_key + vouched
    return signed + struct.pack("<I", len(section)) + section + bytes(recipe.padding)


def event_list(*counts: int) -> bytes:
    """Return the list of events of the first registers: so many for each."""
    return encode(
        EventList(
            registers=tuple(
                MeasuredEvents(register=Label(f"rtmr{index}"), digests=EVENTS[:count])
                for index, count in enumerate(counts)
            )
        )
    )


def evidence(recipe: Recipe = TDX4) -> Evidence:
    """Return evidence by this recipe; genuine if nothing in it was changed to a defect."""
    endorsements = [encode(collateral(recipe))]
    if recipe.events:
        endorsements.append(event_list(1, 2, 3))
    return Evidence(tee=recipe.tee, data=quote(recipe), endorsements=tuple(endorsements))
