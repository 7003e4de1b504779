"""Vectors of AMD SEV-SNP."""
# ruff: noqa: ANN401 - a maker takes any value of any field

from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.x509.oid import ObjectIdentifier
from tests.attestation.tee.snp import maker
from tests.attestation.tee.snp.maker import DAY, GENOA, MILAN, NOW, NOW_MS, TCB, TURIN

from aigovtool.attestation.model import TeeType, VerifiedEvidence
from aigovtool.attestation.tee.snp.product import Product
from conformance.make.case import Case
from conformance.make.policies import policy_for

_VCEK = "a report of Milan with its VCEK"


def roots(product: Product = MILAN) -> tuple[tuple[str, bytes], ...]:
    """Return the self-made AMD's authorities of a product: root, VCEK's authority and VLEK's authority."""
    made = maker.authorities(product)
    return tuple(
        (f"amd-{product.lower()}-{kind}.der", maker.der(getattr(made, kind))[0]) for kind in ("ark", "ask", "asvk")
    )


def _case(name: str, title: str, data: bytes | None = None, *endorsements: bytes, **more: Any) -> Case:
    given = {"at_ms": NOW_MS, "roots": roots(), **more}
    evidence = maker.bundle(data, *endorsements, tee=given.pop("tee", TeeType.SEV_SNP))
    return Case(name, title, evidence, **given)


def cases() -> Iterator[Case]:
    """Yield all vectors of this platform."""
    yield from _genuine()
    yield from _reports()
    yield from _endorsements()
    yield from _leaves()
    yield from _chains()
    yield from _revocation()
    yield from _keys()
    yield from _container()
    yield from _judged()


def _genuine() -> Iterator[Case]:
    for product in Product:
        for kind in ("vcek", "vlek"):
            data = maker.report(product, kind=kind)
            name = f"genuine-{product.lower()}-{kind}"
            says = {"measurements": {"launch": "5a" * 48}, "facts": {"product": str(product), "signing_key": kind}}
            parts = maker.der(maker.usual_leaf(product, kind))
            yield _case(name, "without a defect", data, *parts, roots=roots(product), says=says)
    for version in (2, 5):
        yield _case(f"genuine-version-{version}", "another version of the report", maker.report(version=version))
    known = maker.authorities()
    whole = (maker.usual_leaf(), known.ask, known.ark, maker.revocation_list())
    yield _case("genuine-chain-and-list", "leaf, authority, root and list in DER", None, *maker.der(*whole))
    chain, lists = maker.pem(*whole[:3]), maker.pem(whole[3])
    yield _case("genuine-pem", "the same in PEM", None, chain, lists)
    entries = list(zip(("vcek", "ask", "ark", "crl"), maker.der(*whole), strict=True))
    yield _case("genuine-table", "the same in the host's certificate table", None, maker.table(entries, gap=3))
    again = maker.authority("SEV-Milan", "ARK-Milan", path_length=0, serial=77)
    title = "another authority that the pinned root has issued"
    yield _case("genuine-other-authority", title, None, *maker.der(maker.usual_leaf(), again))


def _reports() -> Iterator[Case]:
    def bad(name: str, title: str, reason: str, **fields: Any) -> Case:
        return _case(f"report-{name}", title, maker.report(**fields), reason=reason)

    for version in (0, 1, 4, 6):
        yield bad(f"version-{version}", "a version that is not known", "report_version", version=version)
    yield _case("report-short", "a byte is missing", maker.report()[:-1], reason="report_length")
    yield _case("report-long", "a byte too many", maker.report() + b"\0", reason="report_length")
    reserved = (0x04C, 0x18B, 0x1EB, 0x1EF, 0x1F8, 0x208, 0x29F)
    for offset in reserved:
        title = "a reserved byte is not zero, and signed"
        yield bad(f"reserved-{offset:03x}", title, "report_reserved", patches={offset: b"\1"})
    for offset in (0x330, 0x49F):
        title = "a byte behind the signature is not zero"
        yield bad(f"reserved-{offset:03x}", title, "report_reserved", patches={offset: b"\1"})
    yield bad("policy-bit-17", "the bit that is always one is zero", "report_policy", policy=0x1001F)
    for bit in (26, 63):
        yield bad(f"policy-bit-{bit}", "an unknown policy bit", "report_policy", policy=0x3001F | 1 << bit)
    for bit in (8, 63):
        yield bad(f"platform-bit-{bit}", "an unknown platform bit", "report_platform", platform=1 << bit)
    for flags in (8, 32):
        yield bad(f"flags-{flags}", "an unknown signing key or flag", "report_flags", flags=flags)
    yield bad("vmpl-4", "a privilege level that does not exist", "report_vmpl", vmpl=4)
    yield bad("vmpl-host", "a report that the host asked for", "report_vmpl", vmpl=0xFFFFFFFF)
    yield bad("algorithm", "another signature algorithm", "report_algorithm", signature_algo=2)
    yield bad("processor", "an unknown processor", "product_unknown", cpuid=bytes((0x19, 0x20, 0)))
    wide = bytearray(maker.report())
    wide[0x2A0 + 48] = 1
    yield _case("report-wide-r", "r has more than 48 bytes", bytes(wide), reason="report_signature")
    for index in (2, 5):
        tcb = bytearray(TCB[MILAN])
        tcb[index] = 1
        title = "a reserved byte of the TCB version is not zero"
        yield bad(f"tcb-reserved-{index}", title, "report_reserved", launch_tcb=bytes(tcb))


def _endorsements() -> Iterator[Case]:
    known, leaf = maker.authorities(), maker.usual_leaf()

    def bad(name: str, title: str, reason: str, *parts: bytes) -> Case:
        return _case(f"endorsement-{name}", title, None, *parts, reason=reason)

    yield bad("none", "no certificate of the signing key", "leaf_missing", *maker.der(known.ask, known.ark))
    yield bad("unknown", "something that is no endorsement", "endorsement_unknown", *maker.der(leaf), b"{}")
    stranger = maker.certify("SEV-Milan2", "ARK-Milan", maker.leaf_key().public_key(), "root")
    yield bad("name", "a certificate of no known name", "endorsement_unknown", *maker.der(leaf, stranger))
    yield bad("empty", "an empty endorsement", "endorsement_unknown", *maker.der(leaf), b"")
    yield bad("other-leaf", "leaves of two products", "endorsement_twice", *maker.der(leaf, maker.usual_leaf(GENOA)))
    yield bad("leaves", "VCEK and VLEK", "endorsement_twice", *maker.der(leaf, maker.usual_leaf(MILAN, "vlek")))
    yield bad("authorities", "two authorities", "endorsement_twice", *maker.der(leaf, known.ask, known.asvk))
    trailing = maker.der(leaf)[0] + b"\0"
    yield bad("trailing", "a byte behind the certificate", "endorsement_unknown", trailing)
    extra = maker.table([("vcek", maker.der(leaf)[0]), ("ecae0c0f-9502-43b1-afa2-0ae2e0d565b6", b"x")])
    yield bad("table-guid", "an unknown entry of the table", "table_entry", extra)
    twice = maker.table([("vcek", maker.der(leaf)[0]), ("vcek", maker.der(leaf)[0])])
    yield bad("table-twice", "an entry of the table twice", "table_entry", twice)
    padded = bytearray(maker.table([("vcek", maker.der(leaf)[0])], padding_bytes=8))
    padded[-1] = 1
    yield bad("table-padding", "a byte of the table that no entry has", "table_padding", bytes(padded))
    wrong = maker.table([("ask", maker.der(leaf)[0])])
    yield bad("table-kind", "a VCEK under the GUID of an authority", "table_entry", wrong)
    overlap = bytearray(maker.table([("vcek", maker.der(leaf)[0])]))
    overlap[16:20] = (40).to_bytes(4, "little")
    yield bad("table-overlap", "a content that overlaps the entries", "table_overlap", bytes(overlap))


def _leaves() -> Iterator[Case]:
    def bad(name: str, title: str, reason: str, **changes: Any) -> Case:
        return _case(f"leaf-{name}", title, None, *maker.der(maker.leaf(**changes)), reason=reason)

    for curve in (ec.SECP256R1(), ec.SECP521R1()):
        title = "a signing key on another curve, certified"
        yield bad(f"curve-{curve.name}", title, "leaf_key", key=ec.derive_private_key(5, curve))
    yield bad("rsa", "a signing key of RSA, certified", "leaf_key", key=maker.rsa_key("small"))
    for oid in ("1", "2", "3.1", "3.3", "3.8", "4"):
        yield bad(f"without-{oid}", "one of AMD's extensions is missing", "leaf_extension", changes={oid: None})
    yield bad("extension-6", "an unknown extension of AMD's", "leaf_extension", changes={"6": maker.integer(0)})
    yield bad("both", "chip and provider in one leaf", "leaf_extension", changes={"5": maker.text("CN=x")})
    short = maker.CHIP[MILAN][:63]
    yield bad("short-chip", "a hardware id of 63 bytes", "leaf_extension", changes={"4": short})
    yield bad("long-integer", "a level in a longer encoding", "leaf_extension", changes={"3.8": b"\x02\x02\x00\x7f"})
    yield bad("product", "an unknown product", "leaf_product", changes={"2": maker.text("Rome-B0")})
    yield bad("structure", "the structure of another product", "leaf_product", changes={"1": maker.integer(1)})
    yield bad("subject", "another subject", "leaf_name", subject="SEV-VLEK")
    yield bad("issuer", "another product's authority as issuer", "leaf_name", issuer="SEV-Genoa")


def _chains() -> Iterator[Case]:
    known, leaf = maker.authorities(), maker.usual_leaf()

    def bad(name: str, title: str, reason: str, *parts: Any, **more: Any) -> Case:
        return _case(f"chain-{name}", title, None, *maker.der(*parts), reason=reason, **more)

    def wrong(**changes: Any) -> x509.Certificate:
        usual = {"subject": "SEV-Milan", "issuer": "ARK-Milan", "path_length": 0}
        return maker.authority(**{**usual, **changes})

    stranger = wrong(signer="authority")
    yield bad("authority-forged", "an authority that the root has not signed", "chain_signature", leaf, stranger)
    yield bad("authority-issuer", "an authority by another issuer", "chain_issuer", leaf, wrong(issuer="ARK-Genoa"))
    yield bad("authority-no-ca", "an authority that is none", "chain_ca", leaf, wrong(ca=False))
    yield bad("authority-usage", "an authority that may sign nothing", "chain_usage", leaf, wrong(signs=False))
    yield bad("authority-pkcs1", "RSASSA-PKCS1-v1_5 in place of PSS", "chain_algorithm", leaf, wrong(pss=False))
    for algorithm in (SHA256(), SHA512()):
        name = f"authority-{algorithm.name}"
        yield bad(name, "another hash than SHA-384", "chain_algorithm", leaf, wrong(algorithm=algorithm))
    small = maker.authority("SEV-Milan", "ARK-Milan", "small", path_length=0)
    weak = maker.leaf(signer=maker.rsa_key("small"))
    yield bad("authority-small", "an authority with a small key", "chain_algorithm", weak, small)
    yield bad("swapped-authorities", "a VCEK with the VLEKs' authority", "chain_issuer", leaf, known.asvk)
    yield bad("swapped-product", "the authority of another product", "chain_issuer", leaf, maker.authorities(GENOA).ask)
    yield bad("wrong-root", "the root of another product", "chain_root", leaf, maker.authorities(GENOA).ark)
    again = maker.authority("ARK-Milan", "ARK-Milan", "root", serial=99)
    yield bad("copied-root", "another certificate with name and key of the root", "chain_root", leaf, again)
    yield bad("leaf-forged", "a leaf by the root's key", "chain_signature", maker.leaf(signer="root"))
    yield bad("leaf-pkcs1", "RSASSA-PKCS1-v1_5 in place of PSS", "chain_algorithm", maker.leaf(pss=False))
    critical = [(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]
    title = "a critical extension that nobody knows"
    yield bad("leaf-critical", title, "chain_extension", maker.leaf(further=critical))
    amds = {"roots": ()}
    title = "a self-made chain before AMD's own roots"
    yield bad("vendor-roots", title, "chain_root", leaf, known.ask, known.ark, **amds)
    title = "roots of another product only"
    yield bad("no-root", title, "chain_root", leaf, roots=roots(TURIN))
    yield bad("vendor-roots-leaf", "a leaf of a stranger who has AMD's names", "chain_signature", leaf, **amds)
    for name, part in (("leaf", maker.leaf), ("authority", wrong)):
        rest = () if name == "leaf" else (leaf,)
        for when, since, until, reason in (
            ("expired", NOW - 30 * DAY, NOW - timedelta(seconds=1), "expired"),
            ("early", NOW + timedelta(seconds=1), NOW + DAY, "not_yet_valid"),
        ):
            made = part(since=since, until=until)
            yield bad(f"{name}-{when}", f"the {name} is not valid at that time", reason, *rest, made)
    late = NOW_MS + 301 * 86_400_000
    yield bad("root-expired", "the root has run out", "expired", maker.leaf(until=NOW + 900 * DAY), at_ms=late)


def _revocation() -> Iterator[Case]:
    delta = [(x509.DeltaCRLIndicator(1), True)]
    for name, title, reason, made in (
        ("authority", "the authority is revoked", "revoked", maker.revocation_list(11)),
        ("root", "the root is revoked", "revoked", maker.revocation_list(10)),
        ("issuer", "another root's list", "revocation_issuer", maker.revocation_list(issuer="ARK-Genoa")),
        ("forged", "a list by another key", "revocation_signature", maker.revocation_list(signer="authority")),
        ("sha256", "a list with another hash", "revocation_signature", maker.revocation_list(algorithm=SHA256())),
        ("early", "a list of tomorrow", "revocation_stale", maker.revocation_list(since=NOW + DAY)),
        (
            "stale",
            "a list that has run out",
            "revocation_stale",
            maker.revocation_list(since=NOW - 9 * DAY, until=NOW - DAY),
        ),
        ("delta", "a list of changes only", "revocation_extension", maker.revocation_list(extensions=delta)),
    ):
        yield _case(f"revocation-{name}", title, None, *maker.der(maker.usual_leaf(), made), reason=reason)
    both = maker.der(maker.usual_leaf(), maker.revocation_list(), maker.revocation_list(11, since=NOW - 2 * DAY))
    yield _case("revocation-second", "revoked by the second of two lists", None, *both, reason="revoked")


def _keys() -> Iterator[Case]:
    def bad(name: str, title: str, reason: str, *parts: bytes, **fields: Any) -> Case:
        return _case(f"key-{name}", title, maker.report(**fields), *parts, reason=reason)

    yield bad("product", "report and leaf of different products", "product_mismatch", cpuid=bytes((0x19, 0x11, 1)))
    yield bad("masked", "a host that has nothing signed", "unsigned", flags=0b10)
    yield bad("none", "a report that says it is not signed", "unsigned", flags=0b11100)
    yield bad("kind-vlek", "a report that names a VLEK, with a VCEK", "signing_key_mismatch", flags=4)
    vlek = maker.der(maker.usual_leaf(MILAN, "vlek"))
    yield bad("kind-vcek", "a report that names a VCEK, with a VLEK", "signing_key_mismatch", *vlek, flags=0)
    yield bad("stranger", "a report by another key", "signature", key=maker.leaf_key(2))
    yield bad("chip", "another chip's VCEK", "chip_mismatch", chip_id=maker.CHIP[GENOA])
    yield bad("chip-hidden", "a report that hides its chip", "chip_mismatch", chip_id=bytes(64))
    unsigned = maker.report()[:0x2A0] + bytes(512)
    yield _case("key-zero-signature", "a signature of zeros", unsigned, reason="signature")
    for index in (0, 1, 6, 7):
        lower, higher = bytearray(TCB[MILAN]), bytearray(TCB[MILAN])
        lower[index] -= 1
        higher[index] += 1
        yield bad(f"tcb-{index}", "the VCEK of another TCB", "tcb_mismatch", reported_tcb=bytes(lower))
        title = "more is committed than runs"
        yield bad(f"tcb-committed-{index}", title, "tcb_order", committed_tcb=bytes(higher))
    fields = {"current_firmware": bytes((29, 55, 1)), "committed_firmware": bytes((30, 55, 1))}
    yield bad("firmware", "newer firmware is committed than runs", "tcb_order", **fields)
    reasons = {
        TeeType.TDX: "endorsement_count",
        TeeType.NITRO: "endorsements",
        TeeType.TPM: "evidence_encoding",
    }
    for tee, reason in reasons.items():
        title = f"a report of SEV-SNP under the label {tee.value}"
        yield _case("label-of-a-report", title, tee=tee, roots=(), reason=reason)


def _container() -> Iterator[Case]:
    inner = maker.report(report_data=maker.claims_hash())
    says = {"facts": {"paravisor": "azure-hcl"}}
    yield _case("container-genuine", "in the container of Azure's paravisor", maker.container(inner), says=says)
    other = maker.container(inner, b'{"keys":[1]}')
    yield _case("container-claims", "claims that the report does not have", other, reason="runtime_claims")
    own = maker.container(maker.report())
    yield _case("container-report-data", "report data of the guest's own", own, reason="runtime_claims")
    words: tuple[dict[str, Any], ...] = ({"version": 2}, {"kind": 4}, {"hash": 2}, {"length": 12}, {"a": 1})
    for changed in words:
        name = "-".join(f"{key}-{value}" for key, value in changed.items())
        data = maker.container(inner, **changed)
        yield _case(f"container-{name}", "a field of the container is not exact", data, reason="container")
    filled = maker.container(inner)[:-1] + b"\1"
    yield _case("container-filling", "a byte of the filling is not zero", filled, reason="container")


@cache
def _usual() -> VerifiedEvidence:
    return maker.examine(maker.bundle()).genuine()


def _judged() -> Iterator[Case]:
    """Yield genuine evidence that the policy for a usual Milan refuses: every bit that a policy may judge."""
    policy = ("sev-snp.json", policy_for(_usual()))

    def judged(name: str, title: str, refused: str | None, *parts: bytes, **fields: Any) -> Case:
        return _case(f"policy-{name}", title, maker.report(**fields), *parts, policy=policy, refused=refused)

    yield judged("accepted", _VCEK, None)
    yield judged("debug", "debugging is allowed (bit 19)", "debug", policy=0x3001F | 1 << 19)
    for bit in (16, 18, 20, 21, 22, 23, 24, 25):
        yield judged(f"guest-bit-{bit}", "a bit of the guest policy differs", "facts", policy=0x3001F ^ 1 << bit)
    yield judged("guest-abi", "another ABI version is required", "facts", policy=0x30020)
    for bit in range(8):
        yield judged(f"platform-bit-{bit}", "a bit of the platform differs", "facts", platform=1 << bit)
    yield judged("vmpl", "asked from another privilege level", "facts", vmpl=1)
    yield judged("author-key", "an author key signed the id key", "facts", flags=1)
    for name, size in (("host_data", 32), ("family_id", 16), ("image_id", 16), ("id_key_digest", 48)):
        yield judged(name.replace("_", "-"), "the field differs", "facts", **{name: b"\x11" * size})
    yield judged("measurement", "another image", "measurements", measurement=b"\x5b" * 48)
    yield judged("guest-svn", "an older guest", "tcb", guest_svn=6)
    yield judged("firmware", "older firmware is committed", "tcb", committed_firmware=bytes((28, 55, 1)))
    older = bytearray(TCB[MILAN])
    older[7] -= 1
    yield judged("launch-tcb", "launched with an older TCB", "tcb", launch_tcb=bytes(older))
    vlek = maker.der(maker.usual_leaf(MILAN, "vlek"))
    yield judged("chip", "a VLEK, which names no chip", "chip", *vlek, kind="vlek")
    turin = maker.der(maker.usual_leaf(TURIN))
    yield _case(
        "policy-product",
        "another product",
        maker.report(TURIN),
        *turin,
        roots=roots(TURIN),
        policy=policy,
        refused="tcb",
    )
