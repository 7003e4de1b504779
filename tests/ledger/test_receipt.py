"""Receipts: each member is under the signature, alone and in a batch, and the salt keeps texts secret."""

from collections.abc import Callable

import msgspec
import pytest

from aigovtool.codec import decode, encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, pre_authentication_encoding, seal
from aigovtool.errors import LogError, ReceiptError
from aigovtool.ids import ConsumerId, Digest, InstanceId, LeaseId, ModelId, RequestKey
from aigovtool.ledger.merkle import leaf_hash, root_of
from aigovtool.ledger.receipt import (
    KIND,
    MAX_SALT_BYTES,
    Batch,
    Receipt,
    SignedReceipt,
    WrittenReceipt,
    chain,
    chain_leaves,
    receipt_leaf,
    salted_digest,
    sign_batch,
    signed_texts,
    verify_receipt,
)
from aigovtool.ledger.units import ZERO, Dimension, of
from aigovtool.limits import MAX_RECEIPT_BYTES

KEY = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of enclave"))
OTHER = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of another"))
INSTANCE = InstanceId("a" * 64)
RECEIPT = Receipt(
    request_key=RequestKey("request-1"),
    request=Digest("sha256:" + "1" * 64),
    response=Digest("sha256:" + "2" * 64),
    model=ModelId("digits"),
    manifest=Digest("sha256:" + "3" * 64),
    consumer=ConsumerId("anna"),
    units=of(Dimension.INFERENCES, 3),
    remaining=of(Dimension.INFERENCES, 97),
    lease_id=LeaseId("4" * 32),
    sequence=1,
    instance=INSTANCE,
    tee="simulated",
    at_ms=1_000,
)
OTHER_VALUES: dict[str, object] = {
    "request_key": "request-2",
    "request": "sha256:" + "8" * 64,
    "response": "sha256:" + "8" * 64,
    "model": "letters",
    "manifest": "sha256:" + "8" * 64,
    "consumer": "bert",
    "units": of(Dimension.INPUT_TOKENS, 3),
    "remaining": 98,
    "lease_id": "8" * 32,
    "sequence": 2,
    "instance": "b" * 64,
    "tee": "sev-snp",
    "at_ms": 1_001,
}


def receipts(count: int) -> list[Receipt]:
    return [msgspec.structs.replace(RECEIPT, sequence=number + 1) for number in range(count)]


def reason_of(signed: SignedReceipt, key: SigningKey = KEY) -> str | None:
    with pytest.raises(ReceiptError) as caught:
        verify_receipt(signed, key.public)
    return caught.value.reason


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_every_receipt_of_a_batch_can_be_checked_alone(count: int) -> None:
    """One signature covers a batch of any size; each consumer needs only its own part."""
    batch = sign_batch(receipts(count), INSTANCE, KEY)
    assert [verify_receipt(signed, KEY.public) for signed in batch] == receipts(count)
    assert len({signed.batch.signatures[0].sig for signed in batch}) == 1


def test_all_members_are_tampered_with() -> None:
    """The table of wrong values has one for each member of a receipt."""
    assert list(OTHER_VALUES) == [member.name for member in msgspec.structs.fields(Receipt)]


@pytest.mark.parametrize("member", OTHER_VALUES)
@pytest.mark.parametrize("count", [1, 5])
def test_no_member_of_a_receipt_can_change(member: str, count: int) -> None:
    """Whatever is written differently afterwards, the receipt no longer verifies."""
    signed = sign_batch(receipts(count), INSTANCE, KEY)[count // 2]
    forged = msgspec.structs.replace(signed.receipt, **{member: OTHER_VALUES[member]})
    expected = "instance" if member == "instance" else "inclusion"
    assert reason_of(msgspec.structs.replace(signed, receipt=forged)) == expected


def test_a_receipt_proves_nothing_under_another_key() -> None:
    """Only the key of the attested instance counts."""
    assert reason_of(sign_batch([RECEIPT], INSTANCE, KEY)[0], OTHER) == "signature"


def test_a_receipt_of_another_instance_is_refused_even_with_a_right_signature() -> None:
    """An instance cannot sign receipts in another instance's name."""
    assert reason_of(sign_batch([RECEIPT], InstanceId("b" * 64), KEY)[0]) == "instance"


def test_a_receipt_from_another_batch_does_not_verify() -> None:
    """Path, index and batch belong together."""
    here, there = sign_batch(receipts(4), INSTANCE, KEY), sign_batch(receipts(8)[4:], INSTANCE, KEY)
    changes: list[Callable[[SignedReceipt], SignedReceipt]] = [
        lambda signed: msgspec.structs.replace(signed, batch=there[1].batch),
        lambda signed: msgspec.structs.replace(signed, path=there[1].path),
        lambda signed: msgspec.structs.replace(signed, index=2),
        lambda signed: msgspec.structs.replace(signed, index=4),
        lambda signed: msgspec.structs.replace(signed, path=[]),
        lambda signed: msgspec.structs.replace(signed, path=[*signed.path, bytes(32)]),
        lambda signed: msgspec.structs.replace(signed, path=[bytes(31), *signed.path[1:]]),
    ]
    assert {reason_of(change(here[1])) for change in changes} == {"inclusion"}


def test_another_kind_of_message_is_no_batch() -> None:
    """A signature of the instance over something else cannot be presented as a batch."""
    leaf = receipt_leaf(RECEIPT)
    other = seal("lease-renew.v1", Batch(instance=INSTANCE, root=root_of([leaf]), size=1), KEY)
    assert KIND != "lease-renew.v1"
    assert reason_of(SignedReceipt(receipt=RECEIPT, index=0, path=[], batch=other)) == "signature"


@pytest.mark.parametrize(
    "payload",
    [{"hello": 1}, {"instance": INSTANCE, "root": "AAAA", "size": -1}, {"instance": INSTANCE, "root": "", "size": "1"}],
    ids=["another message", "out of its domain", "of another type"],
)
def test_a_signature_over_no_batch_proves_nothing(payload: dict[str, object]) -> None:
    """Also the attested key can sign what is no batch; that is an invalid receipt and no other kind of error."""
    (signed,) = sign_batch([RECEIPT], INSTANCE, KEY)
    assert reason_of(msgspec.structs.replace(signed, batch=seal(KIND, payload, KEY))) == "malformed"


def test_a_batch_in_a_second_encoding_proves_nothing() -> None:
    """What is signed has one encoding, so that two readers cannot find two meanings."""
    (signed,) = sign_batch([RECEIPT], INSTANCE, KEY)
    spaced = signed.batch.payload.replace(b",", b", ", 1)
    again = pre_authentication_encoding(signed.batch.payloadType, spaced)
    signature = msgspec.structs.replace(signed.batch.signatures[0], sig=KEY.sign(again))
    batch = msgspec.structs.replace(signed.batch, payload=spaced, signatures=[signature])
    assert reason_of(msgspec.structs.replace(signed, batch=batch)) == "malformed"


def test_a_signed_receipt_fits_its_header() -> None:
    """A receipt of a large batch survives its encoding and stays under the stated size."""
    signed = sign_batch(receipts(1_000), INSTANCE, KEY)[999]
    written = encode(signed)
    assert len(written) < MAX_RECEIPT_BYTES
    assert verify_receipt(decode(written, SignedReceipt), KEY.public) == signed.receipt


def test_a_chain_commits_to_order_and_content() -> None:
    """The head of a lease's chain differs when a receipt is left out, repeated, swapped or changed."""
    one, two, three = receipts(3)

    def head(*parts: Receipt) -> str:
        value = ""
        for part in parts:
            value = chain(value, part)
        return value

    heads = [head(one, two, three), head(one, three), head(one, one, two, three), head(two, one, three), head()]
    assert len(set(heads)) == len(heads)
    assert all(len(value) == 64 for value in heads[:-1])


def test_a_digest_depends_on_salt_label_and_every_byte() -> None:
    """Another salt, another direction, or another body is another digest; how the body was cut is not."""
    digests = [
        salted_digest(b"", "request", [b"body"]),
        salted_digest(b"salt", "request", [b"body"]),
        salted_digest(b"Salt", "request", [b"body"]),
        salted_digest(b"salt", "response", [b"body"]),
        salted_digest(b"salt", "request", [b"Body"]),
        salted_digest(b"saltr", "equest", [b"body"]),
        salted_digest(bytes(MAX_SALT_BYTES), "request", [b"body"]),
    ]
    assert len(set(digests)) == len(digests)
    assert salted_digest(b"salt", "request", [b"bo", memoryview(b"dy")]) == digests[1]


def test_a_salted_digest_is_what_the_specification_says() -> None:
    """A second implementation can compute it: length of the salt, salt, label, zero byte, body."""
    from hashlib import sha256  # noqa: PLC0415 -- the independent computation of this one test

    assert salted_digest(b"abc", "request", [b"x"]) == "sha256:" + sha256(b"\x03abcrequest\x00x").hexdigest()


# --- Written once, for all who need it -----------------------------------------------------------


def unlike(count: int) -> list[Receipt]:
    """Return receipts that differ in all that a batch's may."""
    return [
        msgspec.structs.replace(
            RECEIPT,
            sequence=number + 1,
            request_key=RequestKey(f"key:{number}"),
            units=of(Dimension.COMPUTE_MS, number) if number else ZERO,
            at_ms=number,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 32, 64])
def test_signed_texts_are_the_encodings_of_a_signed_batch(count: int) -> None:
    """Byte for byte, so that a receipt has one encoding however it was made; each of them verifies alone."""
    batch = unlike(count)
    texts = signed_texts([WrittenReceipt(receipt) for receipt in batch], INSTANCE, KEY)
    assert texts == [encode(signed) for signed in sign_batch(batch, INSTANCE, KEY)]
    read = [decode(text, SignedReceipt) for text in texts]
    assert [verify_receipt(signed, KEY.public) for signed in read] == batch
    assert len({signed.batch.signatures[0].sig for signed in read}) == 1


@pytest.mark.parametrize("member", OTHER_VALUES)
def test_no_member_of_a_written_receipt_can_change(member: str) -> None:
    """What is signed is its content, and no other receipt's of the batch."""
    text = signed_texts([WrittenReceipt(receipt) for receipt in unlike(5)], INSTANCE, KEY)[3]
    signed = decode(text, SignedReceipt)
    forged = msgspec.structs.replace(signed.receipt, **{member: OTHER_VALUES[member]})
    assert reason_of(msgspec.structs.replace(signed, receipt=forged)) in {"instance", "inclusion"}


def test_nothing_is_signed_for_no_receipts() -> None:
    """A signature over an empty batch would be one over nothing."""
    for make in (lambda: signed_texts([], INSTANCE, KEY), lambda: sign_batch([], INSTANCE, KEY)):
        with pytest.raises(LogError):
            make()


def test_a_written_receipt_is_its_encoding_and_its_leaf() -> None:
    """Made once, and the same as whoever reads the receipt makes."""
    for receipt in unlike(3):
        written = WrittenReceipt(receipt)
        assert written.receipt is receipt
        assert written.content == encode(receipt)
        assert written.leaf == receipt_leaf(receipt) == leaf_hash(written.content)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_a_chain_of_several_is_that_of_one_after_another(count: int) -> None:
    """From the first head, which is empty, and from a later one."""
    batch = unlike(count)
    for start in ("", chain("", RECEIPT)):
        head = start
        for receipt in batch:
            head = chain(head, receipt)
        assert chain_leaves(start, [receipt_leaf(receipt) for receipt in batch]) == head


def test_a_chain_is_what_the_specification_says() -> None:
    """A second implementation can compute it: each head is the hash of the one before and the receipt's leaf hash."""
    from hashlib import sha256  # noqa: PLC0415 -- the independent computation of this one test

    first, second = unlike(2)
    head = sha256(receipt_leaf(first)).digest()
    assert chain("", first) == head.hex()
    assert chain(head.hex(), second) == sha256(head + receipt_leaf(second)).hexdigest()
