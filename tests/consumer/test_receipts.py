"""Receipts: with the answer, and offline from a record."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from starlette.responses import Response
from tests.consumer.conftest import MEASUREMENT, FakeEnclave, World

from aigovtool.attestation.model import TeeType
from aigovtool.attestation.verifier import VerifierSet
from aigovtool.codec import encode
from aigovtool.consumer import Client, Result, SavedReceipt, verify_receipt_file, verify_saved_receipt
from aigovtool.consumer.receipts import read_saved_receipt, write_saved_receipt
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import (
    AppraisalError,
    ConfigurationError,
    EvidenceError,
    ReceiptError,
    SignatureInvalidError,
    VerificationError,
)
from aigovtool.ids import digest_of
from aigovtool.ledger.receipt import Receipt, SignedReceipt, sign_batch
from aigovtool.ledger.units import UnitVector
from aigovtool.limits import MAX_EVIDENCE_BYTES
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform
from aigovtool.testing.simulated_tee.verify import SimulatedVerifier, simulated_policy

OTHER = digest_of(b"other")
CHANGES: dict[str, object] = {
    "request_key": "another",
    "request": OTHER,
    "response": OTHER,
    "model": "another",
    "manifest": OTHER,
    "consumer": "another",
    "units": UnitVector(inferences=2),
    "remaining": UnitVector(inferences=999),
    "lease_id": "cd" * 16,
    "sequence": 77,
    "instance": "ef" * 32,
    "tee": "sev-snp",
    "at_ms": 1,
}
#: What a consumer can compare; the rest is the enclave's word, and its signature is what counts.
COMPARED = ["request_key", "request", "response", "model", "manifest", "consumer", "tee"]


def test_every_field_is_tried() -> None:
    """A field added to receipts must be added here."""
    assert set(CHANGES) == set(Receipt.__struct_fields__)


@pytest.mark.parametrize("name", CHANGES)
def test_a_field_changed_after_signing_gives_no_result(client: Client, enclave: FakeEnclave, name: str) -> None:
    """The signature covers every field."""

    def tamper(signed: SignedReceipt) -> SignedReceipt:
        receipt = msgspec.structs.replace(signed.receipt, **{name: CHANGES[name]})
        return msgspec.structs.replace(signed, receipt=receipt)

    enclave.forge_signed = tamper
    with pytest.raises(ReceiptError) as caught:
        client.infer("doubler", [[1, 2]])
    assert caught.value.reason == ("instance" if name == "instance" else "inclusion")


@pytest.mark.parametrize("name", COMPARED)
def test_a_signed_field_about_something_else_gives_no_result(client: Client, enclave: FakeEnclave, name: str) -> None:
    """A receipt must be for this exchange, also when the right key signed it."""
    enclave.forge_receipt = lambda receipt: msgspec.structs.replace(receipt, **{name: CHANGES[name]})
    with pytest.raises(ReceiptError) as caught:
        client.infer("doubler", [[1, 2]])
    assert caught.value.reason == name


def test_a_receipt_of_another_instance_gives_no_result(client: Client, enclave: FakeEnclave) -> None:
    """The attested instance signs for itself alone."""
    enclave.forge_receipt = lambda receipt: msgspec.structs.replace(receipt, instance="ef" * 32)
    with pytest.raises(ReceiptError) as caught:
        client.infer("doubler", [[1, 2]])
    assert caught.value.reason == "instance"


def test_a_receipt_of_another_request_gives_no_result(client: Client, enclave: FakeEnclave) -> None:
    """An old receipt beside a new answer is no receipt for it."""
    old = client.infer("doubler", [[1, 2]]).receipt
    enclave.forge_signed = lambda _: old
    with pytest.raises(ReceiptError) as caught:
        client.infer("doubler", [[1, 2]])
    assert caught.value.reason == "request_key"


def test_a_receipt_by_another_key_gives_no_result(client: Client, enclave: FakeEnclave) -> None:
    """Only the attested key signs receipts."""
    enclave.forge_signed = lambda signed: sign_batch([signed.receipt], enclave.instance, SigningKey.generate())[0]
    with pytest.raises(ReceiptError) as caught:
        client.infer("doubler", [[1, 2]])
    assert caught.value.reason == "signature"


def test_a_changed_answer_gives_no_result(client: Client, enclave: FakeEnclave) -> None:
    """The receipt names the exact bytes of the answer."""

    def flip(answer: Response) -> Response:
        body = bytearray(bytes(answer.body))
        body[-1] ^= 1
        return Response(bytes(body), headers=dict(answer.headers))

    enclave.forge_answer = flip
    with pytest.raises(ReceiptError) as caught:
        client.infer("doubler", [[1, 2]])
    assert caught.value.reason == "response"


@pytest.mark.parametrize(
    ("header", "reason"),
    [(None, "missing"), ("", "malformed"), ("%%%", "malformed"), ("e30=", "malformed"), ("A" * 12_000, "malformed")],
    ids=["missing", "empty", "not-base64", "empty-object", "too-long"],
)
def test_an_unreadable_receipt_gives_no_result(
    client: Client, enclave: FakeEnclave, header: str | None, reason: str
) -> None:
    """No receipt, no answer."""

    def replace(answer: Response) -> Response:
        del answer.headers["aigovtool-receipt"]
        if header is not None:
            answer.headers["aigovtool-receipt"] = header
        return answer

    enclave.forge_answer = replace
    with pytest.raises(ReceiptError) as caught:
        client.infer("doubler", [[1, 2]])
    assert caught.value.reason == reason


@pytest.fixture
def result(client: Client) -> Result:
    return client.infer("doubler", [[1, 2]])


def verify(world: World, saved: SavedReceipt, **options: object) -> object:
    arguments = {
        "root": world.root.public,
        "policy": world.policy,
        "verifiers": VerifierSet({TeeType.SIMULATED: SimulatedVerifier()}),
        "allow_simulated": True,
        **options,
    }
    return verify_saved_receipt(saved, **arguments)  # type: ignore[arg-type]


def test_a_saved_receipt_verifies_offline(world: World, result: Result, tmp_path: Path) -> None:
    """From files alone: the record, the consumer file, and the two bodies."""
    path, asked, answered = tmp_path / "receipt.json", tmp_path / "request", tmp_path / "response"
    result.save_receipt(path)
    asked.write_bytes(result.request_body)
    answered.write_bytes(result.response_body)
    verdict = verify_receipt_file(path, world.file, allow_simulated=True, request_path=asked, response_path=answered)
    assert verdict.receipt == result.statement
    assert verdict.bodies_checked == ("request", "response")
    assert verdict.warning == "SIMULATED TEE: protects nothing"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_record_with_the_largest_evidence_can_be_read_again(result: Result, tmp_path: Path) -> None:
    """What was verified when it came is verified later: how large it is, the host has a say in."""
    small = result.saved.evidence
    filling = bytes(MAX_EVIDENCE_BYTES - len(small.data))
    evidence = msgspec.structs.replace(small, endorsements=(filling,))
    path = tmp_path / "receipt.json"
    write_saved_receipt(path, msgspec.structs.replace(result.saved, evidence=evidence))
    assert read_saved_receipt(path).evidence == evidence


def test_a_saved_receipt_of_a_simulated_tee_needs_both_opt_ins(world: World, result: Result) -> None:
    """Offline as online."""
    strict = msgspec.structs.replace(world.policy, allow_simulated=False)
    for options in ({"allow_simulated": False}, {"policy": strict}):
        with pytest.raises(AppraisalError) as caught:
            verify(world, result.saved, **options)
        assert caught.value.reason == "simulated"


def test_a_saved_receipt_under_another_root_is_refused(world: World, result: Result) -> None:
    """Another custodian vouches for nothing here."""
    with pytest.raises(SignatureInvalidError):
        verify(world, result.saved, root=SigningKey.generate().public)


def test_a_saved_receipt_under_another_policy_is_refused(world: World, result: Result) -> None:
    """A measurement that is not accepted is not accepted afterwards either."""
    with pytest.raises(AppraisalError) as caught:
        verify(world, result.saved, policy=simulated_policy("cd" * 48))  # type: ignore[arg-type]
    assert caught.value.reason == "measurements"


def test_a_self_made_identity_key_was_never_attested(world: World, result: Result) -> None:
    """Anybody can sign a receipt; the evidence must name the key."""
    forger = SigningKey.generate()
    forged = msgspec.structs.replace(
        result.saved,
        signed=sign_batch([result.statement], result.statement.instance, forger)[0],
        identity_key=forger.public.raw,
    )
    with pytest.raises(ReceiptError) as caught:
        verify(world, forged)
    assert caught.value.reason == "identity_key"
    claims = msgspec.structs.replace(forged.claims, identity_key=forger.public.raw)
    with pytest.raises(EvidenceError) as refused:
        verify(world, msgspec.structs.replace(forged, claims=claims))
    assert refused.value.reason == "channel_binding"


@pytest.mark.parametrize("name", CHANGES)
def test_a_saved_receipt_with_a_changed_field_is_refused(world: World, result: Result, name: str) -> None:
    """Whatever is changed, some check finds it."""
    receipt = msgspec.structs.replace(result.statement, **{name: CHANGES[name]})
    signed = msgspec.structs.replace(result.receipt, receipt=receipt)
    with pytest.raises(VerificationError):
        verify(world, msgspec.structs.replace(result.saved, signed=signed))


def test_a_saved_receipt_that_names_another_tee_is_refused(world: World, enclave: FakeEnclave, result: Result) -> None:
    """A simulated enclave cannot sign that it is a real one."""
    receipt = msgspec.structs.replace(result.statement, tee="sev-snp")
    signed = sign_batch([receipt], enclave.instance, enclave.identity)[0]
    with pytest.raises(ReceiptError) as caught:
        verify(world, msgspec.structs.replace(result.saved, signed=signed))
    assert caught.value.reason == "tee"


TAMPER: dict[str, Callable[[SavedReceipt], SavedReceipt]] = {
    "request": lambda saved: msgspec.structs.replace(saved, request=OTHER),
    "response": lambda saved: msgspec.structs.replace(saved, response=OTHER),
    "evidence": lambda saved: msgspec.structs.replace(saved, evidence=SimulatedPlatform(MEASUREMENT).report(bytes(64))),
    "claims": lambda saved: msgspec.structs.replace(
        saved, claims=msgspec.structs.replace(saved.claims, configuration=OTHER)
    ),
    "attested_at_ms": lambda saved: msgspec.structs.replace(saved, attested_at_ms=0),
    "key_set": lambda saved: msgspec.structs.replace(
        saved, key_set=msgspec.structs.replace(saved.key_set, payload=b"{}")
    ),
    "identity_key": lambda saved: msgspec.structs.replace(saved, identity_key=SigningKey.generate().public.raw),
}


@pytest.mark.parametrize("part", TAMPER)
def test_a_record_with_a_changed_part_is_refused(world: World, result: Result, part: str) -> None:
    """A record is worth what each of its parts proves."""
    verify(world, result.saved)
    with pytest.raises(VerificationError):
        verify(world, TAMPER[part](result.saved))


@pytest.mark.parametrize("label", ["request", "response"])
def test_another_body_is_not_the_one_of_the_receipt(world: World, result: Result, label: str) -> None:
    """Where a body is at hand, its digest is computed again, with the salt."""
    with pytest.raises(ReceiptError) as caught:
        verify(world, result.saved, **{f"{label}_body": b"something else"})
    assert caught.value.reason == label


def test_another_salt_does_not_fit_the_bodies(world: World, result: Result) -> None:
    """The salt is part of the digests."""
    saved = msgspec.structs.replace(result.saved, salt=bytes(32))
    with pytest.raises(ReceiptError) as caught:
        verify(world, saved, request_body=result.request_body)
    assert caught.value.reason == "request"


def test_another_manifest_than_expected_is_refused(world: World, result: Result) -> None:
    """A reader who knows the model's digest demands it."""
    with pytest.raises(ReceiptError) as caught:
        verify(world, result.saved, manifest=OTHER)
    assert caught.value.reason == "manifest"


def test_the_receipt_of_another_consumer_is_refused_from_a_file(world: World, result: Result, tmp_path: Path) -> None:
    """A consumer file vouches for its own receipts."""
    result.save_receipt(tmp_path / "receipt.json")
    other = world.consumer_file("other.json", consumer="cardiology")
    with pytest.raises(ReceiptError) as caught:
        verify_receipt_file(tmp_path / "receipt.json", other, allow_simulated=True)
    assert caught.value.reason == "consumer"


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100, b"\xff", b"x" * (256 << 10)])
def test_a_file_that_is_no_record_is_refused(world: World, tmp_path: Path, content: bytes) -> None:
    """A record comes from outside and is bounded and parsed strictly."""
    path = tmp_path / "receipt.json"
    path.write_bytes(content)
    with pytest.raises(ReceiptError) as caught:
        verify_receipt_file(path, world.file)
    assert caught.value.reason == "malformed"
    with pytest.raises(ConfigurationError):
        verify_receipt_file(tmp_path / "missing.json", world.file)


def test_a_record_round_trips(result: Result) -> None:
    """What is written is what is read."""
    assert msgspec.json.decode(encode(result.saved), type=SavedReceipt) == result.saved
