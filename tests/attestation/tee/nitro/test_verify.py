"""Rules and attacks on Nitro documents: genuine or refused with the reason of the step, never anything else."""

import random
import tomllib
from datetime import timedelta
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attestation.tee.nitro import maker

from aigovtool.attestation.binding import Binding, Expectation, require_bound
from aigovtool.attestation.certificates import fingerprint
from aigovtool.attestation.examination import Examined, StepOutcome
from aigovtool.attestation.model import Evidence, TeeType, Unchecked, VerifiedEvidence
from aigovtool.attestation.tee.nitro.cbor import write
from aigovtool.attestation.tee.nitro.verify import MAX_AHEAD_MS, STEPS, NitroVerifier, pinned_roots
from aigovtool.attestation.verifier import Verifier, VerifierSet
from aigovtool.errors import EvidenceError

VERIFIER = NitroVerifier(roots=maker.roots())
HOUR_MS = 3_600_000


def examine(data: bytes, now_ms: int = maker.NOW_MS) -> Examined:
    return VERIFIER.examine(maker.evidence(data), now_ms)


def verify(data: bytes | None = None, now_ms: int = maker.NOW_MS) -> VerifiedEvidence:
    return examine(maker.document() if data is None else data, now_ms).genuine()


def failures(data: bytes, now_ms: int = maker.NOW_MS) -> dict[str, str]:
    """Return the reasons of the steps that failed."""
    return {step.name: step.reason for step in examine(data, now_ms).steps if step.outcome is StepOutcome.FAILED}


def of_chain(links: tuple[maker.Link, ...], now_ms: int = maker.NOW_MS) -> dict[str, str]:
    return failures(maker.document(maker.chain(links)), now_ms)


# -- What genuine documents say ---------------------------------------------------------------------------------


def test_a_genuine_document_says_what_the_hypervisor_was_told() -> None:
    """Every register, zero or not, and every claim comes back under its name."""
    found = verify()
    assert found.tee is TeeType.NITRO
    assert [(one.name, one.digest) for one in found.measurements] == [
        (f"pcr{index}", value.hex()) for index, value in sorted(maker.PCRS.items())
    ]
    assert found.report_data == maker.REPORT_DATA
    assert found.also_bound == (("nonce", maker.NONCE), ("hpke_key", maker.HPKE_KEY))
    assert [(fact.name, fact.value) for fact in found.facts] == [
        ("module_id", "i-0123456789abcdef0-enc0123456789abcdef"),
        ("digest", "SHA384"),
    ]
    assert (found.debug, found.memory_encryption, found.chip_id) == (False, True, None)
    assert found.tcb.components == ()
    assert (found.advisories, found.events, found.endorsed_since_ms) == ((), (), None)


def test_endorsements_end_with_the_first_certificate_of_the_chain() -> None:
    """The leaf lives for three hours; where an authority ends before it, the authority counts."""
    assert verify().endorsed_until_ms == maker.NOW_MS + 3 * HOUR_MS
    short = maker.chain(maker.changed("zonal", ends=timedelta(hours=1)))
    assert verify(maker.document(short)).endorsed_until_ms == maker.NOW_MS + HOUR_MS


@pytest.mark.parametrize("zero", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_zero_registers_of_the_image_mean_debug_mode(zero: tuple[int, ...]) -> None:
    """AWS zeroes PCR 0 to 2 in debug mode; one of them is enough to say so. It is no failed step."""
    assert verify(maker.document(pcrs=maker.PCRS | {index: bytes(48) for index in zero})).debug is True


def test_other_zero_registers_do_not_mean_debug_mode() -> None:
    """PCR 3 and above are zero where nothing was measured; one bit is enough not to be zero."""
    assert verify(maker.document(pcrs={0: bytes(47) + b"\x01", 1: b"\x01" * 48, 2: b"\x01" * 48})).debug is False


@pytest.mark.parametrize("size", [None, 0, 13, 63, 65, 1024])
def test_user_data_of_another_size_is_no_report_data(size: int | None) -> None:
    """It is a fact, which a policy must allow, and the report data are zero, which no claims have."""
    found = verify(maker.document(user_data=None if size is None else b"\x07" * size))
    assert found.report_data == bytes(64)
    facts = {fact.name: fact.value for fact in found.facts}
    assert ("user_data" in facts) == (size is not None)
    assert size is None or facts["user_data"].startswith(f"{size} bytes, sha256:")  # type: ignore[index]


@pytest.mark.parametrize(("member", "claim"), [("nonce", "nonce"), ("public_key", "hpke_key")])
@pytest.mark.parametrize("size", [None, 1, 31, 33, 1024])
def test_nonces_and_keys_of_another_size_are_facts(member: str, claim: str, size: int | None) -> None:
    """Only 32 bytes are compared with a claim; anything else shows, and null is nothing."""
    other: dict[str, Any] = {member: None if size is None else b"\x07" * size}
    found = verify(maker.document(**other))
    assert claim not in dict(found.also_bound)
    assert len(found.also_bound) == 1
    facts = {str(fact.name): fact.value for fact in found.facts}
    assert (member in facts) == (size is not None)


def claims(**other: Any) -> Binding:
    """Return a session's claims with the nonce and the key of the maker's documents."""
    usual: dict[str, Any] = {
        "role": "session",
        "audience": "consumer:radiology",
        "nonce": maker.NONCE.hex(),
        "tls_spki": b"\x22" * 32,
        "hpke_key": maker.HPKE_KEY,
        "identity_key": b"\x44" * 32,
        "instance": "55" * 32,
        "custodian_root": "66" * 32,
        "configuration": "sha256:" + "77" * 32,
        "appraisal_policy": "sha256:" + "88" * 32,
        "manifests": (),
    }
    return Binding(**(usual | other))


def bind(said: Binding, found: VerifiedEvidence) -> None:
    free = Unchecked(reason="test")
    expected = Expectation(
        role=said.role,
        audience=said.audience,
        nonce=said.nonce,
        tls_spki=free,
        instance=free,
        custodian_root=free,
        configuration=free,
        appraisal_policy=free,
        manifests=free,
    )
    require_bound(said, found.report_data, expected, found.also_bound)


def test_claims_are_bound_by_report_data_and_by_what_is_beside_it() -> None:
    """A document is bound to its claims; with another nonce or key in it, or no user data, it is to none."""
    data = claims().report_data()
    bind(claims(), verify(maker.document(user_data=data)))
    bind(claims(), verify(maker.document(user_data=data, nonce=None, public_key=None)))
    others: list[dict[str, Any]] = [
        {"nonce": b"\x12" * 32},
        {"public_key": b"\x34" * 32},
        {"user_data": None},
        {"user_data": bytes(64)},
    ]
    for other in others:
        with pytest.raises(EvidenceError) as caught:
            bind(claims(), verify(maker.document(**({"user_data": data} | other))))
        assert caught.value.reason == "channel_binding"


# -- Label ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tee", [tee for tee in TeeType if tee is not TeeType.NITRO])
def test_a_document_under_another_label_is_refused(tee: TeeType) -> None:
    """Relabelling gains nothing, whatever the wiring."""
    relabelled = msgspec.structs.replace(maker.evidence(), tee=tee)
    verifier: Verifier = VERIFIER
    with pytest.raises(EvidenceError) as caught:
        VerifierSet({tee: verifier}).verify(relabelled, maker.NOW_MS)
    assert caught.value.reason == "tee_mismatch"
    assert verifier.examine(relabelled, maker.NOW_MS).steps[0].reason == "tee_mismatch"


@pytest.mark.parametrize("beside", [(b"",), (b"x",), (maker.chain()[0],)], ids=["empty", "byte", "root"])
def test_nothing_travels_beside_the_document(beside: tuple[bytes, ...]) -> None:
    """A document holds its chain; bytes that nobody reads are not taken."""
    examined = VERIFIER.examine(msgspec.structs.replace(maker.evidence(), endorsements=beside), maker.NOW_MS)
    assert examined.steps[0].reason == "endorsements"
    assert examined.verified is None


# -- Chains -----------------------------------------------------------------------------------------------------


def test_an_unpinned_root_is_refused() -> None:
    """A whole chain of somebody else's is refused by the pin alone; so is ours where AWS' root is pinned."""
    assert failures(maker.document(maker.chain(maker.changed("root", name="other root")))) == {"chain": "chain_root"}
    examined = NitroVerifier().examine(maker.evidence(), maker.NOW_MS)
    assert [step.reason for step in examined.steps if step.outcome is StepOutcome.FAILED] == ["chain_root"]


@pytest.mark.attack(7)
def test_a_root_with_the_names_and_key_of_the_pinned_one_is_refused() -> None:
    """The pin is of the whole encoding, not of a name or a key."""
    assert of_chain(maker.changed("root", ends=timedelta(days=99))) == {"chain": "chain_root"}


CHAINS: dict[str, tuple[tuple[maker.Link, ...], dict[str, str]]] = {
    "expired regional": (
        maker.changed("regional", ends=timedelta(seconds=-1)),
        {"validity": "expired"},
    ),
    "expired zonal": (maker.changed("zonal", ends=timedelta(seconds=-1)), {"validity": "expired"}),
    "expired instance": (maker.changed("instance", ends=timedelta(seconds=-1)), {"validity": "expired"}),
    "expired leaf": (maker.changed("leaf", ends=timedelta(seconds=-1)), {"validity": "expired"}),
    "early zonal": (maker.changed("zonal", starts=timedelta(seconds=1)), {"validity": "not_yet_valid"}),
    "early leaf": (maker.changed("leaf", starts=timedelta(seconds=1)), {"validity": "not_yet_valid"}),
    "leaf on P-256": (
        maker.changed("leaf", curve="secp256r1"),
        {"chain": "chain_algorithm", "signature": "signature"},
    ),
    "leaf on P-521": (
        maker.changed("leaf", curve="secp521r1"),
        {"chain": "chain_algorithm", "signature": "signature"},
    ),
    "instance on P-256": (maker.changed("instance", curve="secp256r1"), {"chain": "chain_algorithm"}),
    "zonal signed with SHA-256": (maker.changed("zonal", hashed=SHA256), {"chain": "chain_algorithm"}),
    "leaf signed with SHA-256": (maker.changed("leaf", hashed=SHA256), {"chain": "chain_algorithm"}),
    "leaf by another key": (maker.changed("leaf", signer="stranger"), {"chain": "chain_signature"}),
    "regional by another key": (maker.changed("regional", signer="stranger"), {"chain": "chain_signature"}),
    "leaf signed by itself": (maker.changed("leaf", signer="leaf"), {"chain": "chain_signature"}),
    "leaf of another issuer": (maker.changed("leaf", issuer_name="zonal"), {"chain": "chain_issuer"}),
    "zonal of another issuer": (maker.changed("zonal", issuer_name="root"), {"chain": "chain_issuer"}),
    "instance that is no authority": (
        maker.changed("instance", ca=False, path_length=None),
        {"chain": "chain_ca"},
    ),
    "zonal that may not sign": (maker.changed("zonal", cert_sign=False), {"chain": "chain_usage"}),
    "zonal without usage": (maker.changed("zonal", usage=False), {"chain": "chain_usage"}),
    "regional that allows too few": (maker.changed("regional", path_length=1), {"chain": "chain_length"}),
    "zonal that allows none": (maker.changed("zonal", path_length=0), {"chain": "chain_length"}),
    "unknown critical extension": (
        maker.changed("zonal", critical=x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")),
        {"chain": "chain_extension"},
    ),
    "unknown critical extension of the leaf": (
        maker.changed("leaf", critical=x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")),
        {"chain": "chain_extension"},
    ),
    "leaf that is an authority": (maker.changed("leaf", ca=True), {"leaf": "leaf_authority"}),
    "leaf not for signatures": (maker.changed("leaf", digital_signature=False), {"leaf": "leaf_usage"}),
    "leaf without usage": (maker.changed("leaf", usage=False), {"leaf": "leaf_usage"}),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.attack(7)
def test_a_defective_chain_is_refused_for_its_one_defect(name: str) -> None:
    """Each rule of the chain refuses alone, in a document that is signed by the key of the leaf."""
    links, expected = CHAINS[name]
    assert of_chain(links) == expected


def test_shorter_chains_are_verified_as_they_are() -> None:
    """AWS fixes no number of authorities: root and leaf are a chain, a leaf alone or a root alone is none."""
    verify(maker.document(maker.chain((maker.ROOT, maker.LEAF))))
    assert failures(maker.document((maker.chain()[-1], maker.chain()[-1]))) == {"chain": "chain_root"}
    root = maker.chain()[0]
    assert failures(maker.document((root, root), signer="root")) == {"leaf": "leaf_authority"}


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (2, 3), (0, 3), (3, 4), (0, 4)])
def test_swapped_certificates_are_refused(one: int, other: int) -> None:
    """The bundle begins with the root, in order; no order is searched for."""
    swapped = list(maker.chain())
    swapped[one], swapped[other] = swapped[other], swapped[one]
    assert "chain" in failures(maker.document(swapped))


@pytest.mark.parametrize("left_out", [0, 1, 2, 3])
def test_a_missing_authority_is_refused(left_out: int) -> None:
    """Nothing is fetched, and nothing is guessed from a store."""
    left = [one for index, one in enumerate(maker.chain()) if index != left_out]
    assert failures(maker.document(left))["chain"] in {"chain_issuer", "chain_root"}


@pytest.mark.parametrize(
    "twisted",
    [
        pytest.param(lambda der: der + b"\x00", id="trailing byte"),
        pytest.param(lambda der: der[:-1], id="cut"),
        pytest.param(lambda der: b"0", id="one byte"),
        pytest.param(lambda der: b"\x30\x80" + der[4:] + b"\x00\x00", id="BER"),
        pytest.param(lambda der: b"\x31" + der[1:], id="a set"),
        # What the library parses only when it is asked: a name, and a point that is not on the curve.
        pytest.param(lambda der: der.replace(b"\x06\x03\x55\x04\x0a", b"\x05\x03\x55\x04\x0a"), id="names"),
        pytest.param(lambda der: der.replace(b"\x03\x62\x00\x04", b"\x03\x62\x00\x05"), id="key"),
        pytest.param(
            lambda der: x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM),
            id="PEM",
        ),
    ],
)
@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_certificate_that_is_not_der_is_refused(twisted: Any, index: int) -> None:
    """DER and nothing else, for leaf, authority and root."""
    certificates = list(maker.chain())
    certificates[index] = twisted(certificates[index])
    assert failures(maker.document(certificates)) == {"certificates": "certificate_encoding"}


def test_a_certificate_whose_signature_has_unused_bits_is_refused() -> None:
    """A bit string that ends with zeros can be written in several ways, and the library takes all of them."""
    chains = (maker.chain(maker.changed("instance", ends=timedelta(hours=23, seconds=extra))) for extra in range(64))
    certificates = list(next(one for one in chains if one[3][-1] & 1 == 0))
    signature = x509.load_der_x509_certificate(certificates[3]).signature
    verify(maker.document(certificates))
    certificates[3] = certificates[3][: -len(signature) - 1] + b"\x01" + signature
    assert x509.load_der_x509_certificate(certificates[3]).signature == signature
    assert failures(maker.document(certificates)) == {"certificates": "certificate_encoding"}


# -- Signature and time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("signer", ["root", "regional", "zonal", "instance", "stranger"])
def test_a_document_by_another_key_is_refused(signer: str) -> None:
    """Only the leaf signs documents: no authority of its chain, and no stranger with that chain."""
    assert failures(maker.document(signer=signer)) == {"signature": "signature"}


def test_a_signature_of_another_curve_is_refused() -> None:
    """ES384 goes with P-384 alone, though the library would verify P-256 with SHA-384, whose halves fit."""
    certificates = maker.chain(maker.changed("leaf", curve="secp256r1"))
    expected = {"chain": "chain_algorithm", "signature": "signature"}
    assert failures(maker.document(certificates, curve="secp256r1")) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"pcrs": maker.PCRS | {0: b"\xb0" * 48}},
        {"user_data": bytes(64)},
        {"nonce": bytes(32)},
        {"public_key": bytes(32)},
        {"timestamp": maker.NOW_MS + 1},
        {"module_id": "i-1"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_member_breaks_the_signature(change: dict[str, Any]) -> None:
    """A well-formed change of each member is refused by the signature, not by the parser's luck."""
    payload, altered = write(maker.members()), write(maker.members(**change))
    data = write([maker.PROTECTED, {}, altered, maker.signature(payload)])
    assert failures(data) == {"signature": "signature"}


def test_a_flawless_signature_does_not_mend_the_headers() -> None:
    """The signature covers the protected header, whatever it says, and never the other one: both are fixed."""
    payload = write(maker.members())
    assert failures(maker.sealed(payload, unprotected={4: b"key"})) == {"headers": "envelope_headers"}
    es512 = bytes.fromhex("a1013823")
    assert failures(maker.sealed(payload, protected=es512)) == {"headers": "envelope_algorithm"}
    longer = write([maker.PROTECTED, {}, payload, maker.signature(payload) + b"\x00"])
    assert failures(longer)["headers"] == "envelope_signature"


def test_the_signature_covers_the_received_bytes() -> None:
    """Members in another order are another payload: signed so, genuine; not signed so, refused."""
    turned = write(dict(reversed(maker.members().items())))
    assert verify(maker.sealed(turned)) == verify()
    data = write([maker.PROTECTED, {}, turned, maker.signature(write(maker.members()))])
    assert failures(data) == {"signature": "signature"}


@pytest.mark.parametrize(
    "twisted",
    [
        pytest.param(bytes(96), id="zeros"),
        pytest.param(b"\xff" * 96, id="ones"),
        pytest.param(bytes(48) + maker.signature(write(maker.members()))[48:], id="r zero"),
        pytest.param(maker.signature(write(maker.members()))[:48] + bytes(48), id="s zero"),
        pytest.param(
            maker.signature(write(maker.members()))[48:] + maker.signature(write(maker.members()))[:48], id="swapped"
        ),
    ],
)
@pytest.mark.attack(7)
def test_degenerate_signatures_are_refused(twisted: bytes) -> None:
    """Zero and out-of-range halves are no signature and no error of ours."""
    data = write([maker.PROTECTED, {}, write(maker.members()), twisted])
    assert failures(data) == {"signature": "signature"}


def test_a_document_is_valid_exactly_as_long_as_its_chain() -> None:
    """From the first second of the leaf to the last, both included (RFC 5280, 4.1.2.5)."""
    data = maker.document(timestamp=maker.NOW_MS - 3_000)
    first, last = maker.NOW_MS - 3_000, maker.NOW_MS + 3 * HOUR_MS
    for now_ms in (first, last):
        verify(data, now_ms)
    assert failures(data, first - 1) == {"validity": "not_yet_valid"}
    assert failures(data, last + 1) == {"validity": "expired"}
    assert failures(data, 0) == {"validity": "not_yet_valid"}
    assert failures(data, 2**53) == {"validity": "expired"}


def test_a_document_from_outside_its_chain_is_refused() -> None:
    """A document is made while its certificates are valid; seconds in place of milliseconds are 1970."""
    first, last = maker.NOW_MS - 3_000, maker.NOW_MS + 3 * HOUR_MS
    assert failures(maker.document(timestamp=first - 1)) == {"time": "document_time"}
    assert failures(maker.document(timestamp=last + 1), last) == {"time": "document_time"}
    assert failures(maker.document(timestamp=maker.NOW_MS // 1000)) == {"time": "document_time"}
    verify(maker.document(timestamp=first))
    verify(maker.document(timestamp=last), last)


def test_a_document_from_the_future_is_refused() -> None:
    """Clocks differ by seconds; a document from later than that is of a wrong clock, or read by one."""
    assert MAX_AHEAD_MS == 10_000
    verify(maker.document(timestamp=maker.NOW_MS + 10_000))
    assert failures(maker.document(timestamp=maker.NOW_MS + 10_001)) == {"time": "document_ahead"}


def test_every_failed_step_is_reported() -> None:
    """Independent defects show together, so that one correction is enough."""
    data = maker.document(maker.chain(maker.changed("leaf", ends=timedelta(0), digital_signature=False)), signer="root")
    assert failures(data, maker.NOW_MS + 1) == {"leaf": "leaf_usage", "validity": "expired", "signature": "signature"}


# -- Trust anchors ----------------------------------------------------------------------------------------------


def test_pinned_roots_are_those_of_the_sources_file() -> None:
    """Every PEM file is listed with its digest, every listed file is there, and all of them are pinned."""
    folder = files("aigovtool.attestation.tee.nitro") / "trust"
    listed = tomllib.loads(folder.joinpath("SOURCES.toml").read_text())["anchor"]
    present = {one.name for one in folder.iterdir() if one.name.endswith(".pem")}
    assert {one["file"] for one in listed} == present
    assert pinned_roots() == {one["sha256"] for one in listed}
    for one in listed:
        certificate = x509.load_pem_x509_certificate(folder.joinpath(one["file"]).read_bytes())
        assert fingerprint(certificate) == one["sha256"]
        assert certificate.not_valid_after_utc.date() == one["not_after"]
    # As AWS' documentation prints it.
    assert pinned_roots() == {"641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"}


# -- Anything at all --------------------------------------------------------------------------------------------


def refused_cleanly(data: bytes) -> bool:
    """Whether a document is refused by failed steps, none of which is a mistake of ours."""
    examined = examine(data)
    reasons = [step.reason for step in examined.steps if step.outcome is StepOutcome.FAILED]
    assert "internal" not in reasons
    assert len(examined.steps) == len(STEPS) + 1
    return examined.verified is None and bool(reasons)


def test_a_changed_bit_of_a_sample_of_bytes_is_refused() -> None:
    """One bit of every seventh byte of a document, from a random start, and of all bytes around the payload."""
    dice = random.Random(20261123)
    genuine = maker.document()
    indices = {*range(16), *range(len(genuine) - 98, len(genuine)), *range(dice.randrange(7), len(genuine), 7)}
    for index in sorted(indices):
        changed = bytearray(genuine)
        changed[index] ^= 1 << dice.randrange(8)
        assert refused_cleanly(bytes(changed)), f"byte {index}"


small = settings(derandomize=True, max_examples=150, deadline=None)


@small
@given(data=st.binary(min_size=1, max_size=600))
def test_random_bytes_are_refused_cleanly(data: bytes) -> None:
    """Any bytes at all give failed steps."""
    assert refused_cleanly(data)


@small
@given(payload=st.binary(max_size=600))
def test_a_signed_payload_of_random_bytes_is_refused_cleanly(payload: bytes) -> None:
    """Behind a flawless structure any payload gives failed steps."""
    assert refused_cleanly(maker.sealed(payload))


ITEMS = st.recursive(
    st.none() | st.integers(0, 2**64 - 1) | st.binary(max_size=60) | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 40) | st.text(max_size=9), inner),
    max_leaves=6,
)


@small
@given(name=st.sampled_from(sorted(maker.members())), value=ITEMS)
def test_a_document_with_any_member_is_judged_cleanly(name: str, value: Any) -> None:
    """Any item in the place of any member gives failed steps, or a genuine document where it is in bounds."""
    examined = examine(maker.document(**{name: value}))
    assert all(step.reason != "internal" for step in examined.steps)


@small
@given(index=st.integers(0, 4), start=st.integers(0, 700), piece=st.binary(max_size=20), cut=st.integers(0, 20))
def test_a_damaged_certificate_is_refused_cleanly(index: int, start: int, piece: bytes, cut: int) -> None:
    """Any damage to any certificate, in a document that is signed over it, gives failed steps."""
    certificates = list(maker.chain())
    whole = certificates[index]
    damaged = whole[:start] + piece + whole[start + cut :]
    certificates[index] = damaged[:1024]
    data = maker.document(certificates)
    if damaged == whole:
        verify(data)
    else:
        assert refused_cleanly(data)


@pytest.mark.attack(9)
def test_evidence_of_the_largest_size_is_refused_cleanly() -> None:
    """Size is bounded before anything is parsed."""
    largest = Evidence(tee=TeeType.NITRO, data=b"\x84" * (192 << 10))
    assert VERIFIER.examine(largest, maker.NOW_MS).steps[1].reason == "envelope_too_large"
