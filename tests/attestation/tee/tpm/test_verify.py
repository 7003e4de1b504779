"""Rules and attacks on evidence of a TPM: each step refuses what it is for, by its own reason."""

import hashlib
import random
import tomllib
from dataclasses import replace
from datetime import timedelta
from importlib import resources
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.x509.oid import NameOID, ObjectIdentifier
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attestation.authority import NOW, NOW_MS, Certified, key_of, usage
from tests.attestation.tee.tpm.maker import (
    AK_PURPOSE,
    ECDSA,
    EK_PURPOSE,
    FIRMWARE,
    MANUFACTURER,
    MEASURED,
    MODEL,
    NAMES,
    NULL,
    REPORT_DATA,
    RSAPSS,
    RSASSA,
    SHA1,
    SHA256,
    SHA384,
    SHA512,
    VERSION,
    Forgery,
    der,
    digest,
    ecc_key,
    issuing,
    key_usage,
    names,
    root,
    rsa_key,
    selection,
    sized,
    u16,
    unique,
)

from aigovtool.attestation.certificates import fingerprint, read_certificates
from aigovtool.attestation.examination import Examined, StepOutcome
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.tpm.activation import ek_digest, secret_for
from aigovtool.attestation.tee.tpm.endorsement import google_roots
from aigovtool.attestation.tee.tpm.verify import STEPS, TpmVerifier

CUSTODIAN_KEY = bytes(32)
NONCE = b"\x11" * 32
SECRET_FOR = secret_for(CUSTODIAN_KEY, NONCE)
ROOTS = (root(),)
P384_BANK: dict[int, Any] = {0: [digest("firmware", "sha384")], 9: [digest("initrd", "sha384")]}
PURPOSE = (x509.ExtendedKeyUsage([EK_PURPOSE]), False)
SAN = (names(*NAMES), True)


def examine(evidence: Evidence | Forgery, now_ms: int = NOW_MS, **options: Any) -> Examined:
    made = evidence.made() if isinstance(evidence, Forgery) else evidence
    verifier = TpmVerifier(**{"roots": ROOTS, "activation": SECRET_FOR, **options})
    return verifier.examine(made, now_ms)


def failures(examined: Examined) -> dict[str, str]:
    failed: dict[str, str] = {step.name: step.reason for step in examined.steps if step.outcome is StepOutcome.FAILED}
    assert "internal" not in failed.values()
    assert (examined.verified is None) == bool(failed)
    return failed


def facts(examined: Examined) -> dict[str, str]:
    return {fact.name: fact.value for fact in examined.genuine().facts}


def activated(forgery: Forgery) -> Forgery:
    return replace(forgery, secret=SECRET_FOR(ek_digest(forgery.ek.public_key()), forgery.ak_name()))


def test_genuine_evidence_says_what_was_booted() -> None:
    """Every PCR, the report data, the TPM and its events come back under their names; nothing else is claimed."""
    forgery = activated(Forgery())
    found = examine(forgery).genuine()
    values = forgery.values()
    assert found.tee is TeeType.TPM
    assert [(one.name, one.digest) for one in found.measurements] == [(f"pcr{n}", values[n].hex()) for n in values]
    assert found.report_data == REPORT_DATA
    assert (found.debug, found.memory_encryption) == (False, False)
    assert found.chip_id == ek_digest(forgery.ek.public_key()).hex()
    assert [(one.name, one.version) for one in found.tcb.components] == [
        ("firmware_1", FIRMWARE >> 32),
        ("firmware_2", FIRMWARE & 0xFFFFFFFF),
    ]
    assert [one.register for one in found.events] == ["pcr0", "pcr4", "pcr7"]
    assert list(found.events[1].digests) == [one.hex() for one in MEASURED[4]]
    assert found.endorsed_until_ms == int((NOW + timedelta(days=30)).timestamp() * 1000)
    assert facts(examine(forgery)) == {
        "attestation_key": "activated",
        "bank": "sha256",
        "clock_safe": "yes",
        "tpm_manufacturer": "id:54455354",
        "tpm_model": "Pretended",
        "tpm_version": "id:00010002",
    }


@pytest.mark.parametrize(
    "forgery",
    [
        Forgery(ak=ecc_key("ak", ec.SECP384R1()), scheme_hash=SHA384),
        Forgery(ak=ecc_key("ak", ec.SECP384R1()), scheme_hash=SHA512, ak_name_alg=SHA384),
        Forgery(ak=rsa_key("ak")),
        Forgery(ak=rsa_key("ak"), scheme=RSAPSS),
        Forgery(ak=rsa_key("ak"), scheme=RSAPSS, salt=padding.PSS.DIGEST_LENGTH, scheme_hash=SHA384),
        Forgery(ek=ecc_key("ek")),
        Forgery(ek=ecc_key("ek", ec.SECP384R1())),
        Forgery(bank="sha384", measured=P384_BANK),
        Forgery(bank="sha384", measured=P384_BANK, scheme_hash=SHA384),
        Forgery(events=[]),
        Forgery(ak_policy=bytes(32)),
        # userWithAuth clear, adminWithPolicy, noDA and stClear set: how the key is used, not whose it is.
        Forgery(ak_attributes=0x00050032 | 1 << 7 | 1 << 10 | 1 << 2),
    ],
    ids=range(12),
)
def test_accepted_kinds_of_keys_and_banks(forgery: Forgery) -> None:
    """RSASSA, RSAPSS with either salt, and ECDSA on both curves quote either bank."""
    assert failures(examine(activated(forgery))) == {}


BAD_AK = "attestation_key"


@pytest.mark.parametrize(
    ("step", "reason", "changes"),
    [
        ("label", "tee_mismatch", {"tee": TeeType.NITRO}),
        # -- the quoting key
        *((BAD_AK, "ak_attributes", {"ak_attributes": 0x00050072 ^ 1 << bit}) for bit in (1, 4, 5, 16, 18)),
        *((BAD_AK, "ak_attributes", {"ak_attributes": 0x00050072 | 1 << bit}) for bit in (11, 17, 19)),
        *(
            (BAD_AK, "public_area", {"ak_attributes": 0x00050072 | 1 << bit})
            for bit in (0, 3, 8, 9, 12, 13, 14, 15, *range(20, 32))
        ),
        (BAD_AK, "ak_scheme", {"ak_scheme": u16(NULL)}),
        (BAD_AK, "ak_scheme", {"ak_scheme": u16(RSASSA) + u16(SHA256)}),
        (BAD_AK, "ak_scheme", {"ak": rsa_key("ak"), "ak_scheme": u16(ECDSA) + u16(SHA256)}),
        (BAD_AK, "ak_scheme", {"ak_symmetric": u16(6) + u16(128) + u16(0x43)}),
        (BAD_AK, "public_area", {"ak_scheme": u16(ECDSA) + u16(SHA1)}),
        (BAD_AK, "public_area", {"ak_scheme": u16(0x001A) + u16(SHA256)}),
        (BAD_AK, "public_area", {"ak_name_alg": SHA1, "signer": b""}),
        (BAD_AK, "public_area", {"ak_policy": bytes(31)}),
        (BAD_AK, "public_area", {"ak_symmetric": u16(6) + u16(128) + u16(0x44)}),
        (BAD_AK, "public_area", {"ak_symmetric": u16(0x26) + u16(128) + u16(0x43)}),
        (BAD_AK, "public_area", {"ak_symmetric": u16(6) + u16(192) + u16(0x43)}),
        (BAD_AK, "public_area", {"ak_type": 0x0025}),
        (BAD_AK, "public_area", {"ak": ecc_key("ak", ec.SECP521R1())}),
        (BAD_AK, "public_area", {"ak_unique": u16(3) + u16(0x20) + unique(ecc_key("ak"))[4:]}),
        (BAD_AK, "public_area", {"ak_unique": u16(2) + unique(ecc_key("ak"))[2:]}),
        (BAD_AK, "public_area", {"ak_unique": u16(3) + u16(NULL) + sized(b"\x01" * 32) * 2}),
        (BAD_AK, "public_area", {"ak": rsa_key("ak"), "ak_unique": u16(1024) + bytes(4) + sized(b"\xff" * 128)}),
        (BAD_AK, "public_area", {"ak": rsa_key("ak"), "ak_unique": u16(2048) + bytes(4) + sized(b"\x7f" * 256)}),
        (BAD_AK, "public_area", {"ak": rsa_key("ak"), "ak_unique": u16(2048) + bytes(4) + sized(b"\xfe" * 256)}),
        (BAD_AK, "public_area", {"ak": rsa_key("ak"), "ak_unique": u16(2048) + u16(0) + u16(3) + sized(b"\xff" * 256)}),
        (BAD_AK, "public_area", {"ak_tail": b"\0"}),
        # -- the quote
        ("quote", "attest_magic", {"magic": 0xFF544346}),
        ("quote", "attest_type", {"attest_type": 0x8017}),
        ("quote", "attest_encoding", {"safe": 2}),
        ("quote", "attest_encoding", {"attest_tail": b"\0"}),
        ("quote", "attest_encoding", {"extra": bytes(65)}),
        ("quote", "attest_encoding", {"signer": bytes(67)}),
        ("quote", "attest_encoding", {"quoted_digest": bytes(65)}),
        ("quote", "attest_encoding", {"banks": bytes(4)}),
        (
            "quote",
            "attest_encoding",
            {"banks": (2).to_bytes(4) + (u16(SHA256) + b"\x03" + selection(0, 4, 7, 14)) * 2},
        ),
        ("quote", "attest_encoding", {"banks": (1).to_bytes(4) + u16(SHA1) + b"\x03" + selection(0, 4, 7, 14)}),
        ("quote", "attest_encoding", {"banks": (1).to_bytes(4) + u16(SHA512) + b"\x03" + selection(0, 4, 7, 14)}),
        ("quote", "attest_encoding", {"banks": (1).to_bytes(4) + u16(SHA256) + b"\x04" + bytes(4)}),
        # -- its signature
        ("signature", "signature", {"signing_key": ecc_key("stranger")}),
        ("signature", "signature", {"ak": rsa_key("ak"), "signing_key": rsa_key("ek")}),
        ("signature", "signature", {"ak": rsa_key("ak"), "scheme": RSAPSS, "signing_key": rsa_key("ek")}),
        ("signature", "signature_scheme", {"signature_hash": SHA384}),
        ("signature", "signature_scheme", {"ak": rsa_key("ak"), "signature_scheme": RSAPSS}),
        ("signature", "signature_encoding", {"signature_hash": SHA1}),
        ("signature", "signature_encoding", {"signature_scheme": 0x0005}),
        ("signature", "signature_encoding", {"ak": rsa_key("ak"), "signature_scheme": 0x0015}),
        ("signature", "signature_encoding", {"signature_tail": b"\0"}),
        # -- what it is over
        ("freshness", "extra_data", {"extra": hashlib.sha256(bytes(64)).digest()}),
        ("freshness", "extra_data", {"extra": b""}),
        ("freshness", "extra_data", {"extra": REPORT_DATA}),
        ("freshness", "report_data_missing", {"report_data": None}),
        ("pcrs", "pcr_digest", {"quoted_digest": bytes(32)}),
        ("pcrs", "pcr_digest", {"quoted_digest": b""}),
        ("pcrs", "pcr_selection", {"selected": (0, 4, 7)}),
        ("pcrs", "pcr_selection", {"selected": (0, 4, 7, 14, 15)}),
        ("pcrs", "pcr_selection", {"selected": (0, 4, 7, 13)}),
        ("pcrs", "pcr_selection", {"message": {"bank": "sha384"}, "events": []}),
        ("pcrs", "pcr_selection", {"pcrs": {0: bytes(32), 3: bytes(48)}, "events": []}),
        (
            "pcrs",
            "pcr_selection",
            {
                "bank": "sha384",
                "measured": P384_BANK,
                "banks": (1).to_bytes(4) + u16(SHA256) + b"\x03" + selection(0, 9),
            },
        ),
        # -- what was measured
        ("replay", "replay", {"events": [{"register": "pcr4", "digests": ["00" * 32]}]}),
        ("replay", "event_digest", {"events": [{"register": "pcr4", "digests": ["00" * 48]}]}),
        ("replay", "event_register", {"events": [{"register": "pcr5", "digests": ["00" * 32]}]}),
        ("replay", "event_register", {"events": [{"register": "pcr14", "digests": []}]}),
        # -- whose key it is
        ("chain", "chain_root", {"endorsements": ()}),
        ("chain", "chain_root", {"endorsements": (der(issuing(issuer="another root")),)}),
        ("chain", "chain_signature", {"endorsements": (der(issuing(issuer_key=key_of("stranger"))),)}),
        ("chain", "chain_signature", {"leaf": {"issuer_key": key_of("stranger")}}),
        ("chain", "chain_issuer", {"leaf": {"issuer": "another CA"}}),
        ("chain", "chain_ca", {"endorsements": (der(issuing(authority=False, usage=usage(authority=True))),)}),
        ("chain", "chain_usage", {"endorsements": (der(issuing(usage=usage(sign=True))),)}),
        ("chain", "chain_usage", {"leaf": {"extensions": (SAN,)}}),
        ("chain", "chain_usage", {"leaf": {"extensions": (SAN, (x509.ExtendedKeyUsage([AK_PURPOSE]), False))}}),
        (
            "chain",
            "chain_usage",
            {"endorsements": (der(issuing(extensions=((x509.ExtendedKeyUsage([AK_PURPOSE]), False),))),)},
        ),
        (
            "chain",
            "chain_extension",
            {"leaf": {"extensions": (SAN, PURPOSE, (x509.UnrecognizedExtension(MODEL, b"\x05\0"), True))}},
        ),
        (
            "chain",
            "chain_algorithm",
            {
                "endorsements": (der(issuing(key=ecc_key("CA", ec.SECP521R1()))),),
                "leaf": {"issuer_key": ecc_key("CA", ec.SECP521R1())},
            },
        ),
        ("chain", "chain_algorithm", {"leaf": {"hash": hashes.SHA224()}}),
        ("chain", "key_usage", {"leaf": {"usage": key_usage(digital_signature=True)}}),
        ("chain", "key_usage", {"leaf": {"usage": key_usage()}}),
        ("chain", "key_usage", {"leaf": {"authority": True, "usage": key_usage(key_encipherment=True)}}),
        ("identity", "tpm_identity", {"leaf": {"extensions": (PURPOSE,)}}),
        ("identity", "tpm_identity", {"leaf": {"extensions": ((names(*NAMES[:2]), True), PURPOSE)}}),
        ("identity", "tpm_identity", {"leaf": {"extensions": ((names(*NAMES, NAMES[0]), True), PURPOSE)}}),
        (
            "identity",
            "tpm_identity",
            {"leaf": {"extensions": ((names(*NAMES[:2], (MANUFACTURER, "ä")), True), PURPOSE)}},
        ),
        ("validity", "not_yet_valid", {"leaf": {"not_before": NOW + timedelta(seconds=1)}}),
        ("validity", "expired", {"leaf": {"not_after": NOW - timedelta(seconds=1)}}),
        ("validity", "expired", {"endorsements": (der(issuing(not_after=NOW - timedelta(seconds=1))),)}),
        # -- whether the quoting key is in that TPM
        ("proof", "activation", {"secret": bytes(32)}),
        ("proof", "activation_unknown", {"certifies": "ak", "secret": bytes(32)}),
    ],
)
def test_each_defect_fails_its_step(step: str, reason: str, changes: dict[str, Any]) -> None:
    """One defect in otherwise genuine evidence fails the step that is for it, by its reason."""
    assert failures(examine(Forgery(**changes))).get(step) == reason


def test_every_step_is_tried() -> None:
    """Evidence without a defect passes every step, so each refusal above is due to its one defect."""
    examined = examine(Forgery())
    assert [step.name for step in examined.steps] == [*(step.name for step in STEPS), "contents"]
    assert failures(examined) == {}


def test_a_single_defect_fails_nothing_else() -> None:
    """The steps look at different things: a wrong nonce says nothing about the chain."""
    assert failures(examine(Forgery(extra=bytes(32)))) == {"freshness": "extra_data"}
    assert failures(examine(Forgery(signing_key=ecc_key("stranger")))) == {"signature": "signature"}
    assert failures(examine(Forgery(endorsements=()))) == {"chain": "chain_root"}
    assert failures(examine(Forgery(quoted_digest=bytes(32)))) == {"pcrs": "pcr_digest"}


@pytest.mark.parametrize(
    "message",
    [
        {"bank": "sha1"},
        {"bank": "sha512"},
        {"certifies": "tpm"},
        {"startup_locality": 1},
        {"startup_locality": 3, "events": {"registers": []}},
        {"report_data": bytes(63)},
        {"secret": bytes(31)},
        {"ak_public": b""},
        {"pcrs": []},
        {"pcrs": [{"index": 24, "digest": "00" * 32}]},
        {"pcrs": [{"index": 1, "digest": "00" * 32}, {"index": 0, "digest": "00" * 32}]},
        {"pcrs": [{"index": 1, "digest": "00" * 32}, {"index": 1, "digest": "00" * 32}]},
        {"events": {"registers": [{"register": "rtmr0", "digests": []}]}},
        {"events": {"registers": [{"register": "pcr01", "digests": []}]}},
        {"events": {"registers": [{"register": "pcr24", "digests": []}]}},
        {"events": {"registers": [{"register": "pcr4", "digests": []}, {"register": "pcr0", "digests": []}]}},
        {"events": {"registers": [{"register": "pcr4", "digests": []}] * 2}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_message_that_is_not_as_it_should_be_is_refused(message: dict[str, Any]) -> None:
    """Unknown members and values, wrong sizes, and registers out of order or twice are no evidence."""
    assert failures(examine(Forgery(message=message))) == {"encoding": "evidence_encoding"}


def test_a_second_encoding_of_the_message_is_refused() -> None:
    """White space, another order of members, or base64 of another form would be bytes that nobody has looked at."""
    made = Forgery().made()
    for twisted in (made.data + b"\n", b" " + made.data, made.data.replace(b":", b": ", 1)):
        assert failures(examine(msgspec.structs.replace(made, data=twisted))) == {"encoding": "evidence_encoding"}


def test_startup_locality_is_proved_by_the_replay() -> None:
    """PCR 0 starts with the locality; another locality does not replay, and its events do not replay from zero."""
    for locality in (3, 4):
        examined = examine(Forgery(locality=locality))
        assert failures(examined) == {}
        assert [one.register for one in examined.genuine().events] == ["pcr4", "pcr7"]
    assert failures(examine(Forgery(message={"startup_locality": 3}))) == {"replay": "replay"}
    assert failures(examine(Forgery(locality=3, message={"startup_locality": 0}))) == {"replay": "replay"}


def test_order_of_events_and_pcrs_matters() -> None:
    """The same digests in another order, or two PCR values exchanged, are another boot."""
    turned = [{"register": "pcr4", "digests": [one.hex() for one in reversed(MEASURED[4])]}]
    assert failures(examine(Forgery(events=turned))) == {"replay": "replay"}
    values = Forgery().values()
    swapped = {**values, 4: values[7], 7: values[4]}
    quoted = hashlib.sha256(b"".join(values[index] for index in sorted(values))).digest()
    found = failures(examine(Forgery(pcrs=swapped, quoted_digest=quoted, events=[])))
    assert found == {"pcrs": "pcr_digest"}


# -- Whose key quotes ---------------------------------------------------------------------------------------


def test_an_unproven_key_is_told_and_names_no_chip() -> None:
    """Anybody can copy an endorsement certificate: without activation neither chip nor firmware is claimed."""
    for activation in (SECRET_FOR, None):
        found = examine(Forgery(), activation=activation)
        assert facts(found)["attestation_key"] == "unproven"
        assert found.genuine().chip_id is None
        assert found.genuine().tcb.components == ()


def test_a_secret_is_good_for_one_exchange_and_one_pair_of_keys() -> None:
    """The secret of another nonce, another TPM or another key, even if genuine there, proves nothing here."""
    genuine = activated(Forgery())
    assert facts(examine(genuine))["attestation_key"] == "activated"
    others = (
        examine(genuine, activation=secret_for(CUSTODIAN_KEY, b"\x12" * 32)),
        examine(genuine, activation=secret_for(b"\x01" * 32, NONCE)),
        examine(replace(genuine, ek=ecc_key("ek"))),
        examine(replace(genuine, ak=ecc_key("another ak"))),
        examine(replace(genuine, ak_attributes=0x00050032)),
    )
    assert [failures(found) for found in others] == [{"proof": "activation"}] * len(others)


def test_a_secret_that_nobody_here_asked_for_is_refused() -> None:
    """A verifier that cannot tell whether a secret is right does not leave it unread."""
    assert failures(examine(activated(Forgery()), activation=None)) == {"proof": "activation_unknown"}


def test_a_certified_attestation_key_needs_no_activation() -> None:
    """A certificate of the quoting key itself is proof; its TPM is known by that key."""
    for ak in (ecc_key("ak"), rsa_key("ak")):
        found = examine(Forgery(certifies="ak", ak=ak), activation=None)
        assert failures(found) == {}
        assert facts(found)["attestation_key"] == "certified"
        assert found.genuine().chip_id == ek_digest(ak.public_key()).hex()
        assert [one.name for one in found.genuine().tcb.components] == ["firmware_1", "firmware_2"]


def test_a_certificate_of_another_attestation_key_certifies_nothing() -> None:
    """Neither a stranger's certificate nor that of an endorsement key lets a key quote."""
    foreign = Forgery(certifies="ak", ak=ecc_key("another ak")).leaf_certificate()
    assert failures(examine(Forgery(certifies="ak", certificate=foreign))) == {"proof": "ak_not_certified"}
    of_ek = Forgery().leaf_certificate()
    assert failures(examine(Forgery(certifies="ak", certificate=of_ek))) == {
        "chain": "key_usage",
        "proof": "ak_not_certified",
    }


def test_the_certificate_of_an_endorsement_key_that_quotes_is_refused() -> None:
    """An endorsement key decrypts; one and the same key in both places is a lie about one of them."""
    used = key_usage(key_encipherment=True, digital_signature=True)
    found = examine(Forgery(ek=ecc_key("ak"), leaf={"usage": used}))
    assert failures(found) == {"proof": "ak_not_certified"}


def test_an_attestation_certificate_may_leave_its_tpm_unnamed() -> None:
    """Its authority has checked the TPM; the facts then say that nothing is stated."""
    purpose = (x509.ExtendedKeyUsage([AK_PURPOSE]), False)
    found = examine(Forgery(certifies="ak", leaf={"extensions": (purpose,)}))
    assert facts(found)["tpm_manufacturer"] == facts(found)["tpm_model"] == facts(found)["tpm_version"] == "not stated"
    partly = (names((VERSION, "id:1")), True)
    found = examine(Forgery(certifies="ak", leaf={"extensions": (purpose, partly)}))
    assert failures(found) == {"identity": "tpm_identity"}


def test_firmware_is_told_only_where_the_tpm_tells_it_truly() -> None:
    """Outside the endorsement hierarchy a TPM hides its version behind a number that might pass any minimum."""
    forgery = Forgery()
    name = u16(SHA256) + hashlib.sha256(bytes.fromhex("40000001") + forgery.ak_name()).digest()
    hidden = examine(activated(Forgery(signer=name)))
    assert failures(hidden) == {}
    assert hidden.genuine().tcb.components == ()


def test_an_unsafe_clock_is_a_fact() -> None:
    """After a crash a TPM does not vouch for its clock; whether that matters is the policy's business."""
    assert facts(examine(Forgery(safe=0)))["clock_safe"] == "no"


# -- Roots --------------------------------------------------------------------------------------------------


def test_the_root_may_travel_or_not() -> None:
    """The chain ends at a trusted root that travels with it, or that is known here by its name; also without a CA."""
    assert failures(examine(Forgery(endorsements=(der(issuing()), der(root()))))) == {}
    direct = Forgery(leaf={"issuer": "TPM root"}, endorsements=())
    assert failures(examine(direct)) == {}
    stranger = der(root(key=key_of("stranger"), issuer_key=key_of("stranger")))
    assert failures(examine(Forgery(endorsements=(der(issuing()), stranger)))) == {"chain": "chain_signature"}
    assert failures(examine(Forgery(endorsements=(der(issuing()), der(root()), der(root()))))) == {}


def test_of_two_roots_with_one_name_the_one_that_signed_is_taken() -> None:
    """Makers renew roots under the same name, and operators trust both."""
    old = root(key=key_of("old root"), issuer_key=key_of("old root"))
    assert failures(examine(Forgery(), roots=(old, *ROOTS))) == {}
    assert failures(examine(Forgery(), roots=(old,))) == {"chain": "chain_signature"}


def test_without_roots_only_googles_are_trusted() -> None:
    """A self-made TPM is not believed by a verifier that was given no roots, nor by one that was given none at all."""
    made = Forgery().made()
    assert failures(TpmVerifier().examine(made, NOW_MS)) == {"chain": "chain_root"}
    assert failures(TpmVerifier(roots=()).examine(made, NOW_MS)) == {"chain": "chain_root"}


def test_built_in_roots_are_those_of_the_list_of_sources() -> None:
    """Every file of the trust folder is listed with its address and its digest, and every one listed is trusted."""
    folder = resources.files("aigovtool.attestation.tee.tpm") / "trust"
    listed = tomllib.loads((folder / "SOURCES.toml").read_text())["root"]
    assert {one["file"] for one in listed} == {one.name for one in folder.iterdir()} - {"SOURCES.toml"}
    assert [one["sha256"] for one in listed] == [fingerprint(root) for root in google_roots()]
    for one in listed:
        assert [fingerprint(root) for root in read_certificates((folder / one["file"]).read_bytes())] == [one["sha256"]]
        assert one["url"].startswith("http")


def test_a_subject_or_a_critical_name_is_needed() -> None:
    """Where the subject is empty the other name must not be ignorable; where it is not, it may be."""
    assert failures(examine(Forgery(leaf={"extensions": ((names(*NAMES), False), PURPOSE)}))) == {}
    for critical, expected in ((True, {}), (False, {"identity": "tpm_identity"})):
        leaf = built(subject=x509.Name([]), critical=critical)
        assert failures(examine(Forgery(certificate=leaf))) == expected


def test_a_certificate_that_does_not_say_what_its_key_is_for_is_refused() -> None:
    """Without a key usage an endorsement key cannot be told from one that signs."""
    assert failures(examine(Forgery(certificate=built()))) == {}
    assert failures(examine(Forgery(certificate=built(used=None)))) == {"chain": "key_usage"}


@pytest.mark.parametrize("purpose", [EK_PURPOSE, ObjectIdentifier("2.5.29.37.0")])
def test_an_authority_may_be_limited_to_this_purpose(purpose: ObjectIdentifier) -> None:
    """Google's authorities are for endorsement keys only; others are for any purpose, and say so."""
    authority = issuing(extensions=((x509.ExtendedKeyUsage([purpose]), False),))
    assert failures(examine(Forgery(endorsements=(der(authority),)))) == {}


def built(
    *,
    subject: x509.Name | None = None,
    critical: bool = True,
    used: x509.KeyUsage | None = key_usage(key_encipherment=True),  # noqa: B008 - it never changes
) -> bytes:
    """Return a leaf that `Certified` does not make: with an empty subject, or without a key usage."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a TPM")]) if subject is None else subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "TPM issuing CA")]))
        .public_key(rsa_key("ek").public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(names(*NAMES), critical=critical)
        .add_extension(*PURPOSE)
    )
    if used is not None:
        builder = builder.add_extension(used, critical=True)
    return der(builder.sign(key_of("TPM issuing CA"), hashes.SHA384(), ecdsa_deterministic=True))


def test_certificates_are_one_der_encoding_each() -> None:
    """PEM, two in one, and bytes behind are refused: they would be endorsements that nobody has judged."""
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    pem = issuing().public_bytes(Encoding.PEM)
    for bad in (pem, pem * 2, der(issuing()) + b"\0", b"", b"\x30\x03\x02\x01\x00"):
        found = failures(examine(Forgery(endorsements=(bad,))))
        assert found == {"certificates": "certificate_encoding"}
    assert failures(examine(Forgery(certificate=pem))) == {"certificates": "certificate_encoding"}


def test_key_that_is_no_key_of_a_tpm_is_refused() -> None:
    """A certificate for an Ed25519 key is none of an endorsement key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    found = failures(examine(Forgery(leaf={"key": key, "usage": key_usage(key_agreement=True)})))
    assert found == {"chain": "chain_algorithm", "proof": "chain_algorithm"}


# -- Other people's nonces ----------------------------------------------------------------------------------


def test_evidence_without_report_data_needs_the_nonce_named() -> None:
    """A quote that another tool asked for passes only where its nonce is expected, and says so in a fact."""
    foreign = Forgery(report_data=None, extra=b"\x07" * 20)
    assert failures(examine(foreign)) == {"freshness": "report_data_missing"}
    assert failures(examine(foreign, foreign_nonce=b"\x08" * 20)) == {"freshness": "extra_data"}
    found = examine(foreign, foreign_nonce=b"\x07" * 20)
    assert facts(found)["foreign_nonce"] == "07" * 20
    assert found.genuine().report_data == b"\x07" * 20 + bytes(44)
    empty = examine(Forgery(report_data=None, extra=b""), foreign_nonce=b"")
    assert facts(empty)["foreign_nonce"] == "empty"
    assert empty.genuine().report_data == bytes(64)


def test_a_foreign_nonce_does_not_replace_report_data() -> None:
    """Evidence of ours is judged by its own report data, whatever nonce the verifier was given for others."""
    assert failures(examine(Forgery(), foreign_nonce=b"x")) == {}
    assert "foreign_nonce" not in facts(examine(Forgery(), foreign_nonce=b"x"))
    assert failures(examine(Forgery(extra=b"x"), foreign_nonce=b"x")) == {"freshness": "extra_data"}


# -- Changed bytes ------------------------------------------------------------------------------------------


def mutants(evidence: Evidence, every: int, seed: int) -> list[tuple[str, Evidence]]:
    """Return evidence with one byte changed, for each `every`-th byte of each part."""
    dice, changed = random.Random(seed), []
    parts = [evidence.data, *evidence.endorsements]
    for part, original in enumerate(parts):
        for index in range(seed % every, len(original), every):
            data = bytearray(original)
            data[index] ^= dice.randrange(1, 256)
            new = [*parts[:part], bytes(data), *parts[part + 1 :]]
            changed.append(
                (f"part {part} byte {index}", Evidence(tee=evidence.tee, data=new[0], endorsements=tuple(new[1:])))
            )
    return changed


@pytest.mark.parametrize(
    "forgery",
    [
        activated(Forgery()),
        activated(Forgery(ak=rsa_key("ak"), ek=ecc_key("ek", ec.SECP384R1()))),
        Forgery(certifies="ak", endorsements=(der(issuing()), der(root())), locality=3),
        Forgery(bank="sha384", measured=P384_BANK, ak=rsa_key("ak"), scheme=RSAPSS),
    ],
    ids=["activated", "rsa", "certified", "sha384"],
)
@pytest.mark.attack(7)
def test_every_changed_byte_is_refused(forgery: Forgery) -> None:
    """One changed byte anywhere in data or endorsements is not genuine; a sample of them here."""
    made = forgery.made()
    assert failures(examine(made)) == {}
    for where, changed in mutants(made, every=5, seed=20261126):
        assert failures(examine(changed)), where


@settings(max_examples=150)
@given(data=st.binary(min_size=1, max_size=400), endorsements=st.lists(st.binary(max_size=300), max_size=3))
def test_random_bytes_fail_steps_and_nothing_else(data: bytes, endorsements: list[bytes]) -> None:
    """Any bytes at all give a report of failed steps."""
    assert failures(examine(Evidence(tee=TeeType.TPM, data=data, endorsements=tuple(endorsements))))


@settings(max_examples=200)
@given(member=st.sampled_from(["ak_public", "attest", "signature", "certificate"]), data=st.data())
def test_malformed_structures_fail_steps_and_nothing_else(member: str, data: st.DataObject) -> None:
    """Cut, extended and overwritten structures in a well-formed message are refused, and never an internal error."""
    original = Forgery().as_message()[member]
    start = data.draw(st.integers(0, len(original) - 1))
    end = data.draw(st.integers(start, min(len(original), start + 8)))
    piece = data.draw(st.binary(max_size=8))
    changed = original[:start] + piece + original[end:]
    if changed not in {original, b""}:
        assert failures(examine(Forgery(message={member: changed})))


def test_chain_reader_and_maker_agree() -> None:
    """The maker's certificates are read back as they were made, so the tests above are about what they say."""
    leaf = read_certificates(Forgery().leaf_certificate())[0]
    assert leaf.public_key() == rsa_key("ek").public_key()
    assert Certified(name="x", issuer="y").made().serial_number == 7
    assert ObjectIdentifier("2.23.133.8.1") == EK_PURPOSE
