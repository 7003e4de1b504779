"""A second verifier of SEV-SNP, written from the specifications alone: integers, hashes, and DER read by hand.

It shares no code with the product and uses no library for certificates or signatures: RSASSA-PSS is `pow` and a mask
(RFC 8017, 9.1), ECDSA is affine arithmetic on P-384 (FIPS 186-5), certificates are walked byte by byte (X.690). It
reads one report and its chain in DER, and answers with the fields of the report or an error. It is slow, and knows no
revocation lists.
"""

import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256, sha384
from typing import Any, NamedTuple

P = 2**384 - 2**128 - 2**96 + 2**32 - 1
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
B = 0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF
G = (
    0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7,
    0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F,
)
Point = tuple[int, int] | None

#: SHA-256 of the three ARKs, as published.
ROOTS = {
    "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd": "Milan",
    "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1": "Genoa",
    "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a": "Turin",
}
#: id-RSASSA-PSS with SHA-384, MGF1 of SHA-384, salt of 48; AMD writes it without and with the default trailer.
_PSS_BODY = "a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130"
PSS = {
    bytes.fromhex("304106092a864886f70d01010a3034" + _PSS_BODY),
    bytes.fromhex("304606092a864886f70d01010a3039" + _PSS_BODY + "a303020101"),
}
AMD = bytes.fromhex("2b060104019c7801")
RSA_KEY = bytes.fromhex("300d06092a864886f70d0101010500")
P384_KEY = bytes.fromhex("301006072a8648ce3d020106052b81040022")


class Wrong(Exception):  # noqa: N818 - a verdict
    """The evidence is not genuine."""


def demand(holds: object, what: str) -> None:
    if not holds:
        raise Wrong(what)


# -- DER ----------------------------------------------------------------------------------------------------


def element(data: bytes, at: int) -> tuple[int, int, int]:
    """Return tag, start and end of the content of the element at `at`."""
    demand(at + 2 <= len(data), "short")
    tag, length, start = data[at], data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        demand(0 < size <= 3 and start + size <= len(data), "length")
        length = int.from_bytes(data[start : start + size], "big")
        demand(length >= 0x80 and length >> 8 * (size - 1), "length is not minimal")
        start += size
    demand(start + length <= len(data), "beyond the end")
    return tag, start, start + length


def children(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield tag, content and whole encoding of each element in `data`, which is nothing but elements."""
    at = 0
    while at < len(data):
        tag, start, end = element(data, at)
        yield tag, data[start:end], data[at:end]
        at = end


class Certificate(NamedTuple):
    """What is needed of one."""

    issuer: bytes
    subject: bytes
    common_name: bytes
    since: datetime
    until: datetime
    key: bytes
    amd: dict[str, bytes]
    ca: bool
    signed: bytes
    signature: bytes
    der: bytes


def certificate(der: bytes) -> Certificate:
    whole = list(children(der))
    demand(len(whole) == 1 and whole[0][0] == 0x30, "one SEQUENCE")
    body, algorithm, signature = children(whole[0][1])
    demand((body[0], signature[0], signature[1][:1]) == (0x30, 3, b"\0") and algorithm[2] in PSS, "algorithm")
    parts = list(children(body[1]))
    demand(len(parts) == 8, "eight parts")
    version, serial, inner, issuer, validity, subject, key, extensions = parts
    demand(version[2] == bytes.fromhex("a003020102") and serial[0] == 2 and inner[2] == algorithm[2], "version 3")
    demand((extensions[0], [part[0] for part in children(extensions[1])]) == (0xA3, [0x30]), "extensions")
    found = dict(extension(part[1]) for part in children(next(children(extensions[1]))[1]))
    since, until = (moment(tag, content) for tag, content, _ in children(validity[1]))
    return Certificate(
        issuer=issuer[2],
        subject=subject[2],
        common_name=common_name(subject[1]),
        since=since,
        until=until,
        key=key[2],
        amd={".".join(map(str, oid[len(AMD) :])): value for oid, value in found.items() if oid[: len(AMD)] == AMD},
        ca=found.get(bytes.fromhex("551d13"), b"")[:5] in {bytes.fromhex("30030101ff"), bytes.fromhex("30060101ff")},
        signed=body[2],
        signature=signature[1][1:],
        der=der,
    )


def extension(content: bytes) -> tuple[bytes, bytes]:
    parts = list(children(content))
    demand(parts[0][0] == 6 and parts[-1][0] == 4 and 2 <= len(parts) <= 3, "extension")
    demand(len(parts) == 2 or parts[1][2] == b"\x01\x01\xff", "critical")
    return parts[0][1], parts[-1][1]


def common_name(subject: bytes) -> bytes:
    for _, attribute, _ in children(subject):
        oid, value = children(next(children(attribute))[1])
        if oid[1] == bytes.fromhex("550403"):
            return value[1]
    raise Wrong("no name")


def moment(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    demand(tag in {0x17, 0x18}, "time")
    return datetime.strptime(text, "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


# -- Signatures ---------------------------------------------------------------------------------------------


def rsa_numbers(key: bytes) -> tuple[int, int]:
    algorithm, bits = children(next(children(key))[1])
    demand(algorithm[2] == RSA_KEY and bits[1][:1] == b"\0", "an RSA key")
    modulus, exponent = children(next(children(bits[1][1:]))[1])
    return int.from_bytes(modulus[1], "big"), int.from_bytes(exponent[1], "big")


def require_pss(message: bytes, signature: bytes, key: bytes) -> None:
    """EMSA-PSS-VERIFY with SHA-384 and a salt of 48 bytes, for a key of 4096 bits."""
    modulus, exponent = rsa_numbers(key)
    number = int.from_bytes(signature, "big")
    demand(modulus.bit_length() == 4096 and len(signature) == 512 and number < modulus, "size")
    encoded = pow(number, exponent, modulus).to_bytes(512, "big")
    masked, digest = encoded[:-49], encoded[-49:-1]
    demand(encoded[-1] == 0xBC and not masked[0] >> 7, "trailer")
    mask = b"".join(sha384(digest + counter.to_bytes(4, "big")).digest() for counter in range(10))
    block = bytearray(a ^ b for a, b in zip(masked, mask, strict=False))
    block[0] &= 0x7F
    demand(len(block) == 463 and block[:-48] == bytes(414) + b"\1", "padding")
    demand(sha384(bytes(8) + sha384(message).digest() + bytes(block[-48:])).digest() == digest, "RSA signature")


def add(one: Point, two: Point) -> Point:
    if one is None or two is None:
        return two if one is None else one
    if one[0] == two[0]:
        if (one[1] + two[1]) % P == 0:
            return None
        slope = (3 * one[0] * one[0] - 3) * pow(2 * one[1], -1, P)
    else:
        slope = (two[1] - one[1]) * pow(two[0] - one[0], -1, P)
    x = (slope * slope - one[0] - two[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def multiply(point: Point, scalar: int) -> Point:
    total: Point = None
    for bit in f"{scalar:b}":
        total = add(add(total, total), point if bit == "1" else None)
    return total


def require_ecdsa(message: bytes, r: int, s: int, key: bytes) -> None:
    algorithm, bits = children(next(children(key))[1])
    demand(algorithm[2] == P384_KEY and bits[1][:2] == b"\0\4" and len(bits[1]) == 98, "a P-384 key")
    public = int.from_bytes(bits[1][2:50], "big"), int.from_bytes(bits[1][50:], "big")
    x, y = public
    demand(max(public) < P and (y * y - x * x * x + 3 * x - B) % P == 0, "a point of the curve")
    demand(0 < r < N and 0 < s < N, "range")
    inverse = pow(s, -1, N)
    number = int.from_bytes(sha384(message).digest(), "big")
    found = add(multiply(G, number * inverse % N), multiply(public, r * inverse % N))
    demand(found is not None and found[0] % N == r, "ECDSA signature")


# -- The verdict --------------------------------------------------------------------------------------------


def small(value: bytes) -> int:
    demand(value[:1] == b"\2" and value[1] == len(value) - 2, "INTEGER")
    return int.from_bytes(value[2:], "big")


def verify(report: bytes, chain: tuple[bytes, bytes, bytes], now: datetime) -> dict[str, Any]:
    """Return what `report` says, endorsed by leaf, authority and root in DER, or raise `Wrong`."""
    leaf, authority, root = map(certificate, chain)
    product = ROOTS.get(sha256(root.der).hexdigest(), "")
    demand(product, "root")
    for one, issuer in ((leaf, authority), (authority, root), (root, root)):
        demand(one.issuer == issuer.subject and issuer.ca and one.since <= now <= one.until, "chain")
        require_pss(one.signed, one.signature, issuer.key)
    vlek = "5" in leaf.amd
    expected = b"SEV-VLEK-" if vlek else b"SEV-"
    demand(authority.common_name == expected + product.encode(), "authority")
    demand(leaf.amd["2"][2:].split(b"-")[0] == product.encode(), "product")
    said = fields(report, product)
    require_ecdsa(report[:0x2A0], said.pop("r"), said.pop("s"), leaf.key)
    demand(said.pop("key") == int(vlek) and not said.pop("masked"), "kind of key")
    chip = report[0x1A0:0x1E0]
    demand(vlek or chip == leaf.amd["4"].ljust(64, b"\0"), "chip")
    names = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8"}
    names |= {"fmc": "3.9"} if product == "Turin" else {}
    demand(said["tcb"] == {name: small(leaf.amd[oid]) for name, oid in names.items()}, "TCB")
    return said | {"product": product, "vlek": vlek, "chip": None if vlek else chip.hex()}


def fields(report: bytes, product: str) -> dict[str, Any]:
    demand(len(report) == 1184, "length")
    version, svn, policy = struct.unpack_from("<IIQ", report)
    vmpl, algorithm = struct.unpack_from("<II", report, 0x30)
    (flags,) = struct.unpack_from("<Q", report, 0x48)
    zero = report[0x18B:0x1A0] + report[0x208:0x2A0] + report[0x330:]
    zero += bytes((report[0x1EB], report[0x1EF])) + report[0x2D0:0x2E8] + report[0x318:0x330]
    zero += (report[0x188:0x18B] if version == 2 else b"") + (report[0x1F8:0x208] if version < 5 else b"")
    demand(version in {2, 3, 5} and algorithm == 1 and vmpl < 4 and not any(zero) and flags < 32, "form")
    demand(policy >> 17 & 1 and policy < 1 << 26 and not any(report[0x41:0x48]), "bits")
    families = {(0x19, 0): "Milan", (0x19, 1): "Genoa", (0x19, 10): "Genoa", (0x1A, 0): "Turin", (0x1A, 1): "Turin"}
    demand(version == 2 or families.get((report[0x188], report[0x189] >> 4)) == product, "CPUID")
    order = "fmc bootloader tee snp . . . microcode" if product == "Turin" else "bootloader tee . . . . snp microcode"
    tcb = dict(zip(order.split(), report[0x180:0x188], strict=True))
    for start in (0x38, 0x180, 0x1E0, 0x1F0):
        spare = [byte for name, byte in zip(order.split(), report[start : start + 8], strict=True) if name == "."]
        demand(not any(spare), "spare bytes")
    tcb.pop(".", None)
    return {
        "tcb": tcb,
        "svn": svn,
        "vmpl": vmpl,
        "debug": bool(policy >> 19 & 1),
        "measurement": report[0x90:0xC0].hex(),
        "report_data": report[0x50:0x90].hex(),
        "host_data": report[0xC0:0xE0].hex(),
        "masked": flags >> 1 & 1,
        "key": flags >> 2,
        "r": int.from_bytes(report[0x2A0:0x2D0], "little"),
        "s": int.from_bytes(report[0x2E8:0x318], "little"),
    }
