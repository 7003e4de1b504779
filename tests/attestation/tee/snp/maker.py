"""A processor and an AMD of the tests' own: reports, certificates, tables and lists with any content, signed for real.

Offsets and codes here are the specification's numbers, not the code's.
"""

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID, ObjectIdentifier

from aigovtool.attestation.examination import Examined, StepOutcome
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.snp.authorities import Authorities
from aigovtool.attestation.tee.snp.product import Product
from aigovtool.attestation.tee.snp.verify import SnpVerifier

Hash = SHA256 | SHA384 | SHA512
KEYS = Path(__file__).resolve().parents[3] / "vectors" / "attestation" / "snp"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
DAY = timedelta(days=1)
ARC = "1.3.6.1.4.1.3704.1."

MILAN, GENOA, TURIN = Product.MILAN, Product.GENOA, Product.TURIN
CPUID = {MILAN: (0x19, 0x01, 0x01), GENOA: (0x19, 0x11, 0x01), TURIN: (0x1A, 0x02, 0x01)}
CHIP = {MILAN: bytes(range(64)), GENOA: bytes(range(64, 128)), TURIN: bytes(range(1, 9))}
#: blSPL 3, teeSPL 1, snpSPL 8, ucodeSPL 0xD1, and of Turin fmcSPL 2, where the specification puts them.
TCB = {
    MILAN: bytes.fromhex("03010000000008d1"),
    GENOA: bytes.fromhex("03010000000008d1"),
    TURIN: bytes.fromhex("02030108000000d1"),
}
PROVIDER = "CN=cc-test.example"
GUIDS = {
    "ark": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
    "ask": "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "vcek": "63da758d-e664-4564-adc5-f4b93be8accd",
    "vlek": "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "crl": "92f81bc3-5811-4d3d-97ff-d19f88dc67ea",
}
#: Where each field of a report lies: offset, size.
FIELDS = {
    "version": (0x000, 4),
    "guest_svn": (0x004, 4),
    "policy": (0x008, 8),
    "family_id": (0x010, 16),
    "image_id": (0x020, 16),
    "vmpl": (0x030, 4),
    "signature_algo": (0x034, 4),
    "current_tcb": (0x038, 8),
    "platform": (0x040, 8),
    "flags": (0x048, 4),
    "report_data": (0x050, 64),
    "measurement": (0x090, 48),
    "host_data": (0x0C0, 32),
    "id_key_digest": (0x0E0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "reported_tcb": (0x180, 8),
    "cpuid": (0x188, 3),
    "chip_id": (0x1A0, 64),
    "committed_tcb": (0x1E0, 8),
    "current_firmware": (0x1E8, 3),
    "committed_firmware": (0x1EC, 3),
    "launch_tcb": (0x1F0, 8),
    "launch_mitigations": (0x1F8, 8),
    "current_mitigations": (0x200, 8),
}


@cache
def rsa_key(which: str) -> rsa.RSAPrivateKey:
    key = load_pem_private_key((KEYS / f"TEST-ONLY-{which}.pem").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


@cache
def leaf_key(number: int = 1) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number + 2**300, ec.SECP384R1())


def label(value: object) -> str:
    """Return an id of a parameter that is the same in every run."""
    if isinstance(value, dict):
        return ",".join(f"{key}={label(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return "+".join(map(label, value)) or "none"
    return (
        value.hex()
        if isinstance(value, bytes)
        else str(value)
        if isinstance(value, str | int)
        else type(value).__name__
    )


def name(common: str) -> x509.Name:
    parts = [
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
        (NameOID.COUNTRY_NAME, "US"),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
        (NameOID.COMMON_NAME, common),
    ]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def certify(
    subject: str,
    issuer: str,
    public_key: Any,
    signer: Any,
    *,
    serial: int = 1,
    since: datetime = NOW - 30 * DAY,
    until: datetime = NOW + 300 * DAY,
    algorithm: Hash | None = None,
    pss: bool = True,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> x509.Certificate:
    """Return a certificate; with no keyword it is signed as AMD signs, and has no extension."""
    chosen, signer = algorithm or SHA384(), rsa_key(signer) if isinstance(signer, str) else signer
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(since)
        .not_valid_after(until)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    scheme = padding.PSS(padding.MGF1(chosen), chosen.digest_size) if pss else None
    return builder.sign(signer, chosen, rsa_padding=scheme if isinstance(signer, rsa.RSAPrivateKey) else None)


def authority(
    subject: str, issuer: str, which: str = "authority", *, ca: bool = True, path_length: int | None = None, **more: Any
) -> x509.Certificate:
    """Return the certificate of an authority with the key `which`, signed by the root's key."""
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    extensions = (
        (x509.BasicConstraints(ca, path_length if ca else None), True),
        (x509.KeyUsage(key_cert_sign=more.pop("signs", True), crl_sign=which == "root", **usage), True),
    )
    more.setdefault("signer", "root")
    return certify(subject, issuer, rsa_key(which).public_key(), extensions=extensions, **more)


def authorities(product: Product = MILAN) -> Authorities:
    return roots()[product]


def _authorities(product: Product) -> Authorities:
    root = f"ARK-{product}"
    return Authorities(
        ark=authority(root, root, "root", serial=10),
        ask=authority(f"SEV-{product}", root, path_length=0, serial=11),
        asvk=authority(f"SEV-VLEK-{product}", root, path_length=0, serial=12),
    )


@cache
def roots() -> Mapping[Product, Authorities]:
    return {product: _authorities(product) for product in Product}


def integer(value: int) -> bytes:
    """Return an INTEGER from 0 to 255 in DER."""
    return bytes((2, 1, value)) if value < 128 else bytes((2, 2, 0, value))


def text(value: str) -> bytes:
    return bytes((0x16, len(value))) + value.encode()


def leaf_extensions(product: Product = MILAN, kind: str = "vcek", tcb: bytes | None = None) -> dict[str, bytes]:
    """Return AMD's extensions by the end of their OIDs, as the specification of the key service lists them."""
    levels = TCB[product] if tcb is None else tcb
    oids = "3.9 3.1 3.2 3.3 3.5 3.6 3.7 3.8" if product is TURIN else "3.1 3.2 3.4 3.5 3.6 3.7 3.3 3.8"
    found = {
        "1": integer(1 if product is TURIN else 0),
        "2": text(f"{product}-B0" if product is not TURIN else "Turin"),
    }
    found |= {oid: integer(level) for oid, level in zip(oids.split(), levels, strict=True)}
    return found | ({"4": CHIP[product]} if kind == "vcek" else {"5": text(PROVIDER)})


def leaf(
    product: Product = MILAN,
    kind: str = "vcek",
    *,
    changes: Mapping[str, bytes | None] | None = None,
    tcb: bytes | None = None,
    subject: str | None = None,
    issuer: str | None = None,
    key: Any = None,
    signer: Any = None,
    further: Sequence[tuple[x509.ExtensionType, bool]] = (),
    **more: Any,
) -> x509.Certificate:
    """Return a leaf; `changes` sets or (None) leaves out AMD's extensions, `further` adds others."""
    values = {**leaf_extensions(product, kind, tcb), **(changes or {})}
    amd = [
        (x509.UnrecognizedExtension(ObjectIdentifier(ARC + oid), value), False)
        for oid, value in values.items()
        if value is not None
    ]
    return certify(
        subject or f"SEV-{kind.upper()}",
        issuer or (f"SEV-{product}" if kind == "vcek" else f"SEV-VLEK-{product}"),
        (key or leaf_key()).public_key(),
        signer or "authority",
        extensions=(*amd, *further),
        **more,
    )


@cache
def usual_leaf(product: Product = MILAN, kind: str = "vcek") -> x509.Certificate:
    return leaf(product, kind)


def report(
    product: Product = MILAN,
    *,
    version: int = 3,
    kind: str = "vcek",
    key: ec.EllipticCurvePrivateKey | None = None,
    patches: Mapping[int, bytes] | None = None,
    **fields: int | bytes,
) -> bytes:
    """Return a signed report with these fields; `patches` are written over it by offset before it is signed."""
    values: dict[str, int | bytes] = {
        "version": version,
        "guest_svn": 7,
        "policy": 0x3001F,
        "signature_algo": 1,
        "flags": 0 if kind == "vcek" else 4,
        "report_data": bytes(range(100, 164)),
        "measurement": b"\x5a" * 48,
        "report_id_ma": b"\xff" * 32,
        "cpuid": bytes(CPUID[product]) if version >= 3 else bytes(3),
        "chip_id": CHIP[product].ljust(64, b"\0"),
        "current_firmware": bytes((29, 55, 1)),
        "committed_firmware": bytes((29, 55, 1)),
        **dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), TCB[product]),
        **fields,
    }
    data = bytearray(1184)
    for field, value in values.items():
        offset, size = FIELDS[field]
        data[offset : offset + size] = value.to_bytes(size, "little") if isinstance(value, int) else value
    for offset, piece in (patches or {}).items():
        data[offset : offset + len(piece)] = piece
    return signed(bytes(data), key)


def signed(data: bytes, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """Return `data` with the signature of its first 672 bytes; what else stands behind them is kept."""
    signature = (key or leaf_key()).sign(data[:0x2A0], ec.ECDSA(SHA384(), deterministic_signing=True))
    r, s = decode_dss_signature(signature)
    return data[:0x2A0] + r.to_bytes(72, "little") + s.to_bytes(72, "little") + data[0x330:]


def der(*parts: x509.Certificate | x509.CertificateRevocationList) -> tuple[bytes, ...]:
    return tuple(part.public_bytes(Encoding.DER) for part in parts)


def pem(*parts: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    return b"".join(part.public_bytes(Encoding.PEM) for part in parts)


def table(entries: Sequence[tuple[str, bytes]], *, gap: int = 0, padding_bytes: int = 0) -> bytes:
    """Return a certificate table with `gap` zeros before each content, and more behind the last."""
    position, head, body = (len(entries) + 1) * 24, b"", b""
    for guid, content in entries:
        position += gap
        head += UUID(GUIDS.get(guid, guid)).bytes + struct.pack("<II", position, len(content))
        body += bytes(gap) + content
        position += len(content)
    return head + bytes(24) + body + bytes(padding_bytes)


def revocation_list(
    *serials: int,
    issuer: str = "ARK-Milan",
    since: datetime = NOW - DAY,
    until: datetime = NOW + 10 * DAY,
    signer: str = "root",
    algorithm: Hash | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> x509.CertificateRevocationList:
    chosen = algorithm or SHA384()
    builder = x509.CertificateRevocationListBuilder().issuer_name(name(issuer)).last_update(since).next_update(until)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
        builder = builder.add_revoked_certificate(entry)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    scheme = padding.PSS(padding.MGF1(chosen), chosen.digest_size)
    return builder.sign(rsa_key(signer), chosen, rsa_padding=scheme)


def container(data: bytes, claims: bytes = b'{"keys":[]}', filling: int = 40, **words: int) -> bytes:
    """Return an Azure container of the report `data`; `words` changes fields of its two headers by name."""
    head = {"version": 1, "size": 32 + 1184 + 20 + len(claims), "request": 2, "status": 0, "a": 0, "b": 0, "c": 0}
    runtime = {"runtime_size": 20 + len(claims), "runtime_version": 1, "kind": 2, "hash": 1, "length": len(claims)}
    both = {**head, **runtime, **words}
    return (
        b"HCLA"
        + struct.pack("<7I", *(both[field] for field in head))
        + data
        + struct.pack("<5I", *(both[field] for field in runtime))
        + claims
        + bytes(filling)
    )


def claims_hash(claims: bytes = b'{"keys":[]}') -> bytes:
    return sha256(claims).digest() + bytes(32)


def bundle(data: bytes | None = None, *endorsements: bytes, tee: TeeType = TeeType.SEV_SNP) -> Evidence:
    """Return evidence; without arguments a genuine Milan report with its VCEK."""
    return Evidence(tee=tee, data=report() if data is None else data, endorsements=endorsements or der(usual_leaf()))


def examine(evidence: Evidence, now_ms: int = NOW_MS) -> Examined:
    return SnpVerifier(roots()).examine(evidence, now_ms)


def failures(examined: Examined) -> dict[str, str]:
    """Return the reason of each failed step by its name."""
    return {str(step.name): step.reason for step in examined.steps if step.outcome is StepOutcome.FAILED}


def refused(evidence: Evidence, now_ms: int = NOW_MS) -> dict[str, str]:
    """Return why `evidence` is refused; `internal` never is a reason."""
    found = examine(evidence, now_ms)
    reasons = failures(found)
    assert found.verified is None, "it was believed"
    assert reasons, "it was refused without a reason"
    assert "internal" not in reasons.values()
    return reasons
