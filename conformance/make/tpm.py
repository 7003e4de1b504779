"""Vectors of TPM 2.0. The attestation key is certified in those that are judged by a policy, as no secret travels."""
# ruff: noqa: ANN401 - a maker takes any value of any field

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from tests.attestation.authority import NOW, NOW_MS, key_of, usage
from tests.attestation.tee.tpm import maker
from tests.attestation.tee.tpm.maker import (
    AK_PURPOSE,
    ECDSA,
    EK_PURPOSE,
    HASHES,
    MEASURED,
    NAMES,
    NULL,
    RSAPSS,
    RSASSA,
    SHA1,
    SHA256,
    SHA384,
    SHA512,
    Forgery,
    der,
    digest,
    ecc_key,
    issuing,
    key_usage,
    names,
    rsa_key,
    selection,
    sized,
    u16,
    unique,
)

from aigovtool.attestation.model import TeeType, VerifiedEvidence
from aigovtool.attestation.tee.tpm.verify import TpmVerifier
from conformance.make import pss
from conformance.make.case import Case
from conformance.make.policies import policy_for

_SAN = (names(*NAMES), True)
_SECOND = timedelta(seconds=1)
_P384: dict[int, Any] = {0: [digest("firmware", "sha384")], 9: [digest("initrd", "sha384")]}
_ATTRIBUTES = 0x00050072


@dataclass(frozen=True)
class Salted(Forgery):
    """A forgery with RSASSA-PSS, whose salt is the same in every run."""

    def signature(self) -> bytes:
        """Return TPMT_SIGNATURE."""
        made = pss.signature(self.signing_key or self.ak, self.attest(), HASHES[self.scheme_hash])
        return u16(RSAPSS) + u16(self.scheme_hash) + sized(made) + self.signature_tail


def roots() -> tuple[tuple[str, bytes], ...]:
    """Return the root of the self-made maker of TPMs."""
    return (("tpm-root.der", der(maker.root())),)


def _case(name: str, title: str, forgery: Forgery, **more: Any) -> Case:
    return Case(name, title, forgery.made(), **{"at_ms": NOW_MS, "roots": roots(), **more})


def cases() -> Iterator[Case]:
    """Yield all vectors of this platform."""
    yield from _genuine()
    yield from _defects()
    yield from _messages()
    yield from _chains()
    yield from _replays()
    yield from _judged()


def _genuine() -> Iterator[Case]:
    unproven = {"facts": {"attestation_key": "unproven"}, "chip": None, "memory_encryption": False}
    certified = {"facts": {"attestation_key": "certified"}}
    for name, title, forgery, says in (
        ("ecdsa", "ECDSA on P-256; nothing proves whose key it is", Forgery(), unproven),
        ("certified", "a certified attestation key", Forgery(certifies="ak"), certified),
        ("certified-rsa", "a certified attestation key of RSA", Forgery(certifies="ak", ak=rsa_key("ak")), certified),
        ("p384", "ECDSA on P-384", Forgery(ak=ecc_key("ak", ec.SECP384R1()), scheme_hash=SHA384), unproven),
        ("rsassa", "RSASSA-PKCS1-v1_5", Forgery(ak=rsa_key("ak")), unproven),
        ("rsapss", "RSASSA-PSS", Salted(ak=rsa_key("ak"), scheme=RSAPSS), unproven),
        ("ecc-ek", "an endorsement key of P-256", Forgery(ek=ecc_key("ek")), unproven),
        ("bank-384", "the bank of SHA-384", Forgery(bank="sha384", measured=_P384), {"facts": {"bank": "sha384"}}),
        ("no-events", "values without events", Forgery(events=[]), unproven),
        ("locality", "PCR 0 begins with startup locality 3", Forgery(locality=3), unproven),
        ("clock", "a clock that is not safe", Forgery(safe=0), {"facts": {"clock_safe": "no"}}),
    ):
        yield _case(f"genuine-{name}", title, forgery, says=says)


_KEY: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *((f"bit-{bit}", "ak_attributes", {"ak_attributes": _ATTRIBUTES ^ 1 << bit}) for bit in (1, 4, 5, 16, 18)),
    *((f"bit-{bit}", "ak_attributes", {"ak_attributes": _ATTRIBUTES | 1 << bit}) for bit in (11, 17, 19)),
    *((f"bit-{bit}", "public_area", {"ak_attributes": _ATTRIBUTES | 1 << bit}) for bit in (0, 3, 9, 20, 31)),
    ("no-scheme", "ak_scheme", {"ak_scheme": u16(NULL)}),
    ("rsa-scheme", "ak_scheme", {"ak_scheme": u16(RSASSA) + u16(SHA256)}),
    ("symmetric", "ak_scheme", {"ak_symmetric": u16(6) + u16(128) + u16(0x43)}),
    ("sha1", "public_area", {"ak_scheme": u16(ECDSA) + u16(SHA1)}),
    ("policy", "public_area", {"ak_policy": bytes(31)}),
    ("type", "public_area", {"ak_type": 0x0025}),
    ("p521", "public_area", {"ak": ecc_key("ak", ec.SECP521R1())}),
    ("no-point", "public_area", {"ak_unique": u16(3) + u16(NULL) + sized(b"\x01" * 32) * 2}),
    ("rsa-1024", "public_area", {"ak": rsa_key("ak"), "ak_unique": u16(1024) + bytes(4) + sized(b"\xff" * 128)}),
    ("curve", "public_area", {"ak_unique": u16(2) + unique(ecc_key("ak"))[2:]}),
    ("trailing", "public_area", {"ak_tail": b"\0"}),
)
_QUOTE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("magic", "attest_magic", {"magic": 0xFF544346}),
    ("type", "attest_type", {"attest_type": 0x8017}),
    ("safe", "attest_encoding", {"safe": 2}),
    ("trailing", "attest_encoding", {"attest_tail": b"\0"}),
    ("extra-long", "attest_encoding", {"extra": bytes(65)}),
    ("no-bank", "attest_encoding", {"banks": bytes(4)}),
    ("sha1-bank", "attest_encoding", {"banks": (1).to_bytes(4) + u16(SHA1) + b"\x03" + selection(0, 4, 7, 14)}),
    ("sha512-bank", "attest_encoding", {"banks": (1).to_bytes(4) + u16(SHA512) + b"\x03" + selection(0, 4, 7, 14)}),
    ("long-selection", "attest_encoding", {"banks": (1).to_bytes(4) + u16(SHA256) + b"\x04" + bytes(4)}),
    ("nonce", "extra_data", {"extra": hashlib.sha256(bytes(64)).digest()}),
    ("no-nonce", "extra_data", {"extra": b""}),
    ("no-report-data", "report_data_missing", {"report_data": None}),
    ("digest", "pcr_digest", {"quoted_digest": bytes(32)}),
    ("fewer", "pcr_selection", {"selected": (0, 4, 7)}),
    ("more", "pcr_selection", {"selected": (0, 4, 7, 14, 15)}),
    ("others", "pcr_selection", {"selected": (0, 4, 7, 13)}),
)
_SIGNATURE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("stranger", "signature", {"signing_key": ecc_key("stranger")}),
    ("rsa-stranger", "signature", {"ak": rsa_key("ak"), "signing_key": rsa_key("ek")}),
    ("hash", "signature_scheme", {"signature_hash": SHA384}),
    ("scheme", "signature_scheme", {"ak": rsa_key("ak"), "signature_scheme": RSAPSS}),
    ("sha1", "signature_encoding", {"signature_hash": SHA1}),
    ("unknown", "signature_encoding", {"signature_scheme": 0x0005}),
    ("trailing", "signature_encoding", {"signature_tail": b"\0"}),
)


def _defects() -> Iterator[Case]:
    for group, title, rows in (
        ("key", "one defect of the attestation key", _KEY),
        ("quote", "one defect of the quote, signed", _QUOTE),
        ("signature", "one defect of the signature", _SIGNATURE),
    ):
        for name, reason, changes in rows:
            yield _case(f"{group}-{name}", f"{title}: {name}", Forgery(**changes), reason=reason)
    for certified in ("ek", "ak"):
        title = "a secret that this verifier never asked for"
        made = Forgery(secret=bytes(32), certifies=certified)
        yield _case(f"proof-secret-{certified}", title, made, reason="activation_unknown")
    foreign = Forgery(certifies="ak", ak=ecc_key("another ak")).leaf_certificate()
    other = Forgery(certifies="ak", certificate=foreign)
    yield _case("proof-other-key", "the certificate of another attestation key", other, reason="ak_not_certified")
    used = key_usage(key_encipherment=True, digital_signature=True)
    quoting = Forgery(ek=ecc_key("ak"), leaf={"usage": used})
    yield _case("proof-quoting-ek", "an endorsement key that quotes", quoting, reason="ak_not_certified")
    for tee, reason in ((TeeType.SEV_SNP, "report_length"), (TeeType.NITRO, "endorsements")):
        title = f"a TPM's quote under the label {tee.value}"
        yield _case("label-of-a-quote", title, Forgery(tee=tee), roots=(), reason=reason)


def _messages() -> Iterator[Case]:
    zero = "00" * 32
    for name, message in (
        ("bank", {"bank": "sha1"}),
        ("certifies", {"certifies": "tpm"}),
        ("locality", {"startup_locality": 1}),
        ("report-data", {"report_data": bytes(63)}),
        ("no-pcrs", {"pcrs": []}),
        ("pcr-24", {"pcrs": [{"index": 24, "digest": zero}]}),
        ("pcr-order", {"pcrs": [{"index": 1, "digest": zero}, {"index": 0, "digest": zero}]}),
        ("pcr-twice", {"pcrs": [{"index": 1, "digest": zero}] * 2}),
        ("register", {"events": {"registers": [{"register": "rtmr0", "digests": []}]}}),
        ("register-twice", {"events": {"registers": [{"register": "pcr4", "digests": []}] * 2}}),
        ("member", {"more": 1}),
    ):
        title = f"a message that is not as it should be: {name}"
        yield _case(f"message-{name}", title, Forgery(message=message), reason="evidence_encoding")
    made = Forgery().made()
    for name, data in (("newline", made.data + b"\n"), ("space", made.data.replace(b":", b": ", 1))):
        case = _case(f"message-{name}", "a second encoding", Forgery(), reason="evidence_encoding")
        yield replace(case, evidence=msgspec.structs.replace(made, data=data))


_LINKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("missing", "chain_root", {"endorsements": ()}),
    ("other-root", "chain_root", {"endorsements": (der(issuing(issuer="another root")),)}),
    ("issuing-forged", "chain_signature", {"endorsements": (der(issuing(issuer_key=key_of("stranger"))),)}),
    ("leaf-forged", "chain_signature", {"leaf": {"issuer_key": key_of("stranger")}}),
    ("leaf-issuer", "chain_issuer", {"leaf": {"issuer": "another CA"}}),
    ("no-ca", "chain_ca", {"endorsements": (der(issuing(authority=False, usage=usage(authority=True))),)}),
    ("usage", "chain_usage", {"endorsements": (der(issuing(usage=usage(sign=True))),)}),
    ("leaf-purpose", "chain_usage", {"leaf": {"extensions": (_SAN, (x509.ExtendedKeyUsage([AK_PURPOSE]), False))}}),
    (
        "leaf-critical",
        "chain_extension",
        {"leaf": {"extensions": (_SAN, (x509.UnrecognizedExtension(maker.MODEL, b"\x05\0"), True))}},
    ),
    ("leaf-sha224", "chain_algorithm", {"leaf": {"hash": hashes.SHA224()}}),
    ("leaf-usage", "key_usage", {"leaf": {"usage": key_usage(digital_signature=True)}}),
    ("leaf-authority", "key_usage", {"leaf": {"authority": True, "usage": key_usage(key_encipherment=True)}}),
    ("leaf-expired", "expired", {"leaf": {"not_after": NOW - _SECOND}}),
    ("leaf-early", "not_yet_valid", {"leaf": {"not_before": NOW + _SECOND}}),
    ("issuing-expired", "expired", {"endorsements": (der(issuing(not_after=NOW - _SECOND)),)}),
    (
        "p521",
        "chain_algorithm",
        {
            "endorsements": (der(issuing(key=ecc_key("CA", ec.SECP521R1()))),),
            "leaf": {"issuer_key": ecc_key("CA", ec.SECP521R1())},
        },
    ),
    (
        "named-twice",
        "tpm_identity",
        {"leaf": {"extensions": ((names(*NAMES, NAMES[0]), True), (x509.ExtendedKeyUsage([EK_PURPOSE]), False))}},
    ),
    ("nameless", "tpm_identity", {"leaf": {"extensions": ((x509.ExtendedKeyUsage([EK_PURPOSE]), False),)}}),
)


def _chains() -> Iterator[Case]:
    for name, reason, changes in _LINKS:
        yield _case(f"chain-{name}", f"one defect of the chain: {name}", Forgery(**changes), reason=reason)
    title = "a self-made chain before the roots that are built in"
    yield _case("chain-vendor-roots", title, Forgery(), roots=(), reason="chain_root")
    trailing = Forgery(certificate=Forgery().leaf_certificate() + b"\0")
    yield _case("chain-trailing", "a byte behind the certificate", trailing, reason="certificate_encoding")


def _replays() -> Iterator[Case]:
    boot = [one.hex() for one in MEASURED[4]]
    for name, title, reason, events in (
        ("order", "the same events in another order", "replay", [{"register": "pcr4", "digests": boot[::-1]}]),
        ("less", "an event is missing", "replay", [{"register": "pcr4", "digests": boot[:-1]}]),
        ("more", "an event too many", "replay", [{"register": "pcr4", "digests": [*boot, boot[0]]}]),
        ("digest", "a digest of another algorithm", "event_digest", [{"register": "pcr4", "digests": ["00" * 48]}]),
        ("register", "a register that is not quoted", "event_register", [{"register": "pcr5", "digests": boot}]),
    ):
        yield _case(f"replay-{name}", title, Forgery(events=events), reason=reason)
    for name, forgery in (
        ("locality-claimed", Forgery(message={"startup_locality": 3})),
        ("locality-hidden", Forgery(locality=3, message={"startup_locality": 0})),
    ):
        yield _case(f"replay-{name}", "a startup locality that does not replay", forgery, reason="replay")
    values = Forgery().values()
    swapped = {**values, 4: values[7], 7: values[4]}
    quoted = hashlib.sha256(b"".join(values[index] for index in sorted(values))).digest()
    forgery = Forgery(pcrs=swapped, quoted_digest=quoted, events=[])
    yield _case("replay-swapped", "the values of two registers swapped", forgery, reason="pcr_digest")


@cache
def _usual() -> VerifiedEvidence:
    return TpmVerifier((maker.root(),)).examine(Forgery(certifies="ak").made(), NOW_MS).genuine()


def _judged() -> Iterator[Case]:
    policy = ("tpm.json", policy_for(_usual()))

    def judged(name: str, title: str, refused: str | None, **changes: Any) -> Case:
        forgery = Forgery(**{"certifies": "ak", **changes})
        return _case(f"policy-{name}", title, forgery, policy=policy, refused=refused)

    yield judged("accepted", "what the policy was made for", None)
    yield judged("unproven", "nothing proves whose key it is", "tcb", certifies="ek")
    yield judged("clock", "a clock that is not safe", "facts", safe=0)
    yield judged("firmware", "older firmware of the TPM", "tcb", firmware=maker.FIRMWARE - 1)
    kernel = {**MEASURED, 4: [*MEASURED[4][:-1], digest("another kernel")]}
    yield judged("kernel", "another kernel was booted", "measurements", measured=kernel)
    fewer = {index: MEASURED[index] for index in (0, 4, 7)}
    yield judged("fewer-registers", "a register was not quoted", "measurements", measured=fewer)
    yield judged("chip", "another TPM", "chip", ak=ecc_key("another ak"))
    strict = ("tpm-memory.json", msgspec.structs.replace(policy[1], memory_encryption_required=True))
    title = "a policy that requires encrypted memory"
    yield _case("policy-memory", title, Forgery(certifies="ak"), policy=strict, refused="memory_encryption")
