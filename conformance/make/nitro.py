"""Vectors of AWS Nitro Enclaves."""
# ruff: noqa: ANN401 - a maker takes any value of any field

from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from tests.attestation.tee.nitro import maker

from aigovtool.attestation.model import Evidence, TeeType, VerifiedEvidence
from aigovtool.attestation.tee.nitro.cbor import write
from aigovtool.attestation.tee.nitro.verify import NitroVerifier
from conformance.make.case import Case
from conformance.make.policies import policy_for, with_facts

_HOUR_MS = 3_600_000


def roots() -> tuple[tuple[str, bytes], ...]:
    """Return the root of the self-made AWS."""
    return (("nitro-root.der", maker.chain()[0]),)


def _case(name: str, title: str, data: bytes, **more: Any) -> Case:
    given = {"at_ms": maker.NOW_MS, "roots": roots(), **more}
    evidence = Evidence(tee=given.pop("tee", TeeType.NITRO), data=data, endorsements=given.pop("endorsements", ()))
    return Case(name, title, evidence, **given)


def cases() -> Iterator[Case]:
    """Yield all vectors of this platform."""
    yield from _genuine()
    yield from _structures()
    yield from _members()
    yield from _chains()
    yield from _signatures()
    yield from _judged()


def _genuine() -> Iterator[Case]:
    says = {"measurements": {"pcr0": "a0" * 48}, "debug": False, "report_data": maker.REPORT_DATA.hex()}
    yield _case("genuine", "without a defect", maker.document(), says=says)
    absent = maker.document(public_key=None, user_data=None, nonce=None)
    yield _case("genuine-null", "optional members that are null", absent)
    turned = maker.sealed(write(dict(reversed(maker.members().items()))))
    yield _case("genuine-order", "members in another order", turned)
    short = maker.document(maker.chain((maker.ROOT, maker.LEAF)))
    yield _case("genuine-short-chain", "root and leaf alone", short)
    largest = maker.document(user_data=b"\x01" * 1024, nonce=b"\x02" * 1024, public_key=b"\x03" * 1024)
    yield _case("genuine-largest", "the three claims at their largest size", largest)
    debug = maker.document(pcrs=maker.PCRS | {0: bytes(48), 1: bytes(48), 2: bytes(48)})
    yield _case("genuine-debug", "debug mode: genuine, and says so", debug, says={"debug": True})


def _structures() -> Iterator[Case]:
    genuine = maker.document()
    for name, title, data in (
        ("tag", "the tag 18", b"\xd2" + genuine),
        ("indefinite", "an array of indefinite length", b"\x9f" + genuine[1:] + b"\xff"),
        ("long-head", "a head that is longer than necessary", b"\x98\x04" + genuine[1:]),
        ("trailing", "a byte behind the structure", genuine + b"\0"),
        ("cut", "the last byte is missing", genuine[:-1]),
    ):
        yield _case(f"envelope-{name}", title, data, reason="envelope_encoding")
    payload = write(maker.members())
    for name, title, reason, data in (
        ("es512", "another algorithm, signed so", "envelope_algorithm", _sealed("a1013823")),
        ("key-id", "a header beside the algorithm, signed so", "envelope_algorithm", _sealed("a2013822044101")),
        ("unprotected", "an unprotected header", "envelope_headers", maker.sealed(payload, unprotected={4: b"key"})),
        ("null-header", "null in place of the unprotected header", "envelope_headers", _items(unprotected=None)),
        ("detached", "a detached payload", "envelope_shape", _items(payload=None)),
        ("five", "five items", "envelope_shape", write([*_list(), b""])),
        ("long-signature", "97 bytes of signature", "envelope_signature", _items(signature=bytes(97))),
    ):
        yield _case(f"envelope-{name}", title, data, reason=reason)
    twice = bytes([payload[0] + 1]) + payload[1:] + write({"nonce": maker.NONCE})[1:]
    yield _case("document-member-twice", "a member twice, signed", maker.sealed(twice), reason="document_encoding")
    loose = payload.replace(b"\x66digest", b"\x78\x06digest", 1)
    yield _case("document-long-head", "a longer head, signed", maker.sealed(loose), reason="document_encoding")
    tagged = payload.replace(b"\x69timestamp\x1b", b"\x69timestamp\xc1\x1b")
    yield _case("document-tag", "a tag in the payload, signed", maker.sealed(tagged), reason="document_encoding")
    behind = maker.sealed(payload + b"\0")
    yield _case("document-trailing", "a byte behind the payload, signed", behind, reason="document_encoding")


def _list() -> list[Any]:
    payload = write(maker.members())
    return [maker.PROTECTED, {}, payload, maker.signature(payload)]


def _items(**changed: Any) -> bytes:
    items = dict(zip(("protected", "unprotected", "payload", "signature"), _list(), strict=True))
    return write(list({**items, **changed}.values()))


def _sealed(protected: str) -> bytes:
    return maker.sealed(write(maker.members()), protected=bytes.fromhex(protected))


_MEMBERS: tuple[tuple[str, str, Any], ...] = (
    ("module_id", "empty", ""),
    ("module_id", "space", "i 0"),
    ("digest", "sha256", "SHA256"),
    ("timestamp", "zero", 0),
    ("pcrs", "none", {}),
    ("pcrs", "without-0", {1: b"\1" * 48, 2: b"\1" * 48}),
    ("pcrs", "index-32", maker.PCRS | {32: bytes(48)}),
    ("pcrs", "short", maker.PCRS | {3: bytes(32)}),
    ("certificate", "empty", b""),
    ("cabundle", "empty", []),
    ("cabundle", "seventeen", [b"\x30"] * 17),
    ("public_key", "empty", b""),
    ("user_data", "long", b"\x01" * 1025),
    ("nonce", "long", b"\x01" * 1025),
)


def _members() -> Iterator[Case]:
    for member, name, value in _MEMBERS:
        data = maker.document(**{member: value})
        title = f"{member} out of its type or bounds, signed"
        yield _case(f"document-{member}-{name}", title, data, reason=f"document_{member}")
    extra = maker.sealed(write(maker.members() | {"version": 2}))
    yield _case("document-unknown", "an unknown member, signed", extra, reason="document_members")
    left = {name: value for name, value in maker.members().items() if name != "digest"}
    yield _case("document-missing", "a missing member, signed", maker.sealed(write(left)), reason="document_members")


_SECOND = timedelta(seconds=1)
_CRITICAL = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
_CHAINS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("regional", "expired", "expired", {"ends": -_SECOND}),
    ("zonal", "expired", "expired", {"ends": -_SECOND}),
    ("instance", "expired", "expired", {"ends": -_SECOND}),
    ("leaf", "expired", "expired", {"ends": -_SECOND}),
    ("zonal", "early", "not_yet_valid", {"starts": _SECOND}),
    ("leaf", "early", "not_yet_valid", {"starts": _SECOND}),
    ("leaf", "p256", "chain_algorithm", {"curve": "secp256r1"}),
    ("leaf", "p521", "chain_algorithm", {"curve": "secp521r1"}),
    ("instance", "p256", "chain_algorithm", {"curve": "secp256r1"}),
    ("zonal", "sha256", "chain_algorithm", {"hashed": SHA256}),
    ("leaf", "forged", "chain_signature", {"signer": "stranger"}),
    ("regional", "forged", "chain_signature", {"signer": "stranger"}),
    ("leaf", "self-signed", "chain_signature", {"signer": "leaf"}),
    ("leaf", "issuer", "chain_issuer", {"issuer_name": "zonal"}),
    ("zonal", "issuer", "chain_issuer", {"issuer_name": "root"}),
    ("instance", "no-ca", "chain_ca", {"ca": False, "path_length": None}),
    ("zonal", "usage", "chain_usage", {"cert_sign": False}),
    ("zonal", "no-usage", "chain_usage", {"usage": False}),
    ("regional", "length", "chain_length", {"path_length": 1}),
    ("zonal", "critical", "chain_extension", {"critical": _CRITICAL}),
    ("leaf", "critical", "chain_extension", {"critical": _CRITICAL}),
    ("leaf", "authority", "leaf_authority", {"ca": True}),
    ("leaf", "usage", "leaf_usage", {"digital_signature": False}),
    ("root", "other", "chain_root", {"name": "other root"}),
    ("root", "copied", "chain_root", {"ends": timedelta(days=99)}),
)


def _chains() -> Iterator[Case]:
    for which, name, reason, fields in _CHAINS:
        data = maker.document(maker.chain(maker.changed(which, **fields)))
        yield _case(f"chain-{which}-{name}", f"one defect of the {which} certificate: {name}", data, reason=reason)
    chain = list(maker.chain())
    swapped = [chain[0], chain[2], chain[1], *chain[3:]]
    yield _case("chain-swapped", "two authorities swapped", maker.document(swapped), reason="chain_issuer")
    turned = [*reversed(chain[:-1]), chain[-1]]
    yield _case("chain-reversed", "the bundle upside down", maker.document(turned), reason="chain_root")
    missing = [*chain[:2], *chain[3:]]
    yield _case("chain-missing", "an authority is missing", maker.document(missing), reason="chain_issuer")
    longer = [chain[0], chain[1] + b"\0", *chain[2:]]
    title = "a byte behind a certificate"
    yield _case("chain-trailing", title, maker.document(longer), reason="certificate_encoding")
    title = "a self-made chain before AWS' own root"
    yield _case("chain-vendor-roots", title, maker.document(), roots=(), reason="chain_root")


def _signatures() -> Iterator[Case]:
    for signer in ("root", "instance", "stranger"):
        data = maker.document(signer=signer)
        yield _case(f"signature-{signer}", f"signed by the key of: {signer}", data, reason="signature")
    payload = write(maker.members())
    altered: dict[str, Any] = {
        "pcrs": maker.PCRS | {0: b"\xb0" * 48},
        "user_data": bytes(64),
        "nonce": bytes(32),
        "module_id": "i-1",
    }
    for member, value in altered.items():
        changed = write([maker.PROTECTED, {}, write(maker.members(**{member: value})), maker.signature(payload)])
        yield _case(f"signature-{member}", f"{member} was changed after signing", changed, reason="signature")
    for name, twisted in (("zeros", bytes(96)), ("ones", b"\xff" * 96)):
        data = _items(signature=twisted)
        yield _case(f"signature-{name}", "a degenerate signature", data, reason="signature")
    first, last = maker.NOW_MS - 3_000, maker.NOW_MS + 3 * _HOUR_MS
    late = maker.document(timestamp=maker.NOW_MS)
    yield _case("time-last", "the last moment of the leaf", late, at_ms=last)
    yield _case("time-expired", "a millisecond later", late, at_ms=last + 1, reason="expired")
    yield _case("time-early", "before the leaf begins", late, at_ms=first - 1, reason="not_yet_valid")
    seconds = maker.document(timestamp=maker.NOW_MS // 1000)
    yield _case("time-seconds", "seconds in place of milliseconds", seconds, reason="document_time")
    ahead = maker.document(timestamp=maker.NOW_MS + 10_001)
    yield _case("time-ahead", "a document from the future", ahead, reason="document_ahead")
    root = ((maker.chain()[0],), "an endorsement beside the document")
    yield _case("endorsement", root[1], maker.document(), endorsements=root[0], reason="endorsements")
    title = "a document under the label sgx"
    labelled = maker.document()
    yield _case("label-of-a-document", title, labelled, tee=TeeType.SGX, roots=(), reason="endorsement_count")


@cache
def _usual() -> VerifiedEvidence:
    return NitroVerifier(roots=maker.roots()).examine(maker.evidence(), maker.NOW_MS).genuine()


def _judged() -> Iterator[Case]:
    policy = ("nitro.json", policy_for(_usual()))

    def judged(name: str, title: str, refused: str | None, **members: Any) -> Case:
        return _case(f"policy-{name}", title, maker.document(**members), policy=policy, refused=refused)

    yield judged("accepted", "what the policy was made for", None)
    for index in (0, 1, 2):
        title = f"debug mode: PCR {index} is zero"
        yield judged(f"debug-{index}", title, "debug", pcrs=maker.PCRS | {index: bytes(48)})
    for index in (0, 3, 4, 8):
        title = f"another value of PCR {index}"
        yield judged(f"pcr-{index}", title, "measurements", pcrs=maker.PCRS | {index: b"\xb1" * 48})
    title = "a register that nobody expected"
    yield judged("pcr-16", title, "measurements", pcrs=maker.PCRS | {16: b"\xb1" * 48})
    yield judged("module", "another instance", "facts", module_id="i-1")
    yield judged("user-data", "user data of another size", "facts", user_data=b"hello")
    other = ("nitro-module.json", with_facts(policy[1], {"module_id": ("i-1",)}))
    yield _case("policy-other", "a policy for another instance", maker.document(), policy=other, refused="facts")
