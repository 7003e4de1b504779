"""A signed message says one thing, of one kind, by exactly the expected keys."""

import base64
import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool import codec
from aigovtool.crypto import sign
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, Signature, SigningKey, VerifyKey, open_by_any, open_envelope, seal
from aigovtool.errors import AIGovToolError, InvalidValueError, MalformedError, SignatureInvalidError, TooLargeError
from aigovtool.ids import Units, key_id_of

ALICE = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of Alice!!"))
BOB = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of Bob!!!!"))
CAROL = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of Carol!!"))


class Grant(codec.Message):
    units: Units


GRANT = Grant(units=7)
Opener = Callable[..., Grant]


def reason_of(
    envelope: Envelope, *keys: VerifyKey, kind: str = "grant.v1", opener: Opener = open_envelope
) -> str | None:
    with pytest.raises(SignatureInvalidError) as caught:
        opener(envelope, kind, Grant, list(keys))
    return caught.value.reason


def with_raw_payload(payload: bytes, *keys: SigningKey) -> Envelope:
    """Sign bytes that `seal` would never write."""
    type_ = sign.payload_type("grant.v1")
    signed = sign.pre_authentication_encoding(type_, payload)
    signatures = [Signature(keyid=key.public.key_id, sig=key.sign(signed)) for key in keys]
    return Envelope(payload=payload, payloadType=type_, signatures=signatures)


# --- The standards themselves ------------------------------------------------------------------


def test_rfc_8032_vector() -> None:
    """RFC 8032 section 7.1, test 2: the key, and the signature of one byte."""
    key = SigningKey.from_secret(
        Secret(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    )
    assert key.public.raw.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = key.sign(b"\x72")
    assert signature.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    key.public.verify(signature, b"\x72")


def test_dsse_vector() -> None:
    """The pre-authentication encoding of DSSE's own example."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert sign.pre_authentication_encoding("http://example.com/HelloWorld", b"hello world") == expected


def test_lengths_in_the_encoding_count_bytes() -> None:
    """Type and payload cannot flow into each other, also beyond ASCII."""
    encode = sign.pre_authentication_encoding
    assert encode("é", b"x") == b"DSSEv1 2 \xc3\xa9 1 x"
    assert encode("a", b"b c") != encode("a 3 b", b"c")


# --- What opens --------------------------------------------------------------------------------


def test_a_sealed_message_opens_with_its_key() -> None:
    """Through its own encoding, the message comes back equal."""
    envelope = codec.decode(codec.encode(seal("grant.v1", GRANT, ALICE)), Envelope)
    assert open_envelope(envelope, "grant.v1", Grant, [ALICE.public]) == GRANT
    assert open_by_any(envelope, "grant.v1", Grant, [BOB.public, ALICE.public]) == GRANT


def test_an_envelope_on_the_wire_is_plain_dsse() -> None:
    """Any DSSE implementation can read it: standard base64 and the standard's member names."""
    wire = json.loads(codec.encode(seal("grant.v1", GRANT, ALICE)))
    assert wire["payloadType"] == "application/vnd.aigovtool.grant.v1+json"
    assert base64.b64decode(wire["payload"], validate=True) == b'{"units":7}'
    assert [set(signature) for signature in wire["signatures"]] == [{"keyid", "sig"}]


def test_two_signatures_open_with_both_keys_in_any_order() -> None:
    """The two-person rule does not depend on who signed first."""
    envelope = seal("grant.v1", GRANT, ALICE, BOB)
    assert open_envelope(envelope, "grant.v1", Grant, [BOB.public, ALICE.public]) == GRANT
    assert open_envelope(envelope, "grant.v1", Grant, (key.public for key in (ALICE, BOB))) == GRANT


# --- What does not -----------------------------------------------------------------------------


@pytest.mark.parametrize("opener", [open_envelope, open_by_any])
@pytest.mark.parametrize("kind", ["grant.v2", "grant", "GRANT.v1", "grant.v1 ", "", "stop.v1"])
def test_a_message_of_one_kind_is_not_taken_for_another(kind: str, opener: Opener) -> None:
    """The kind is part of what is signed."""
    assert reason_of(seal("grant.v1", GRANT, ALICE), ALICE.public, kind=kind, opener=opener) == "wrong_kind"


def test_relabelling_an_envelope_breaks_its_signature() -> None:
    """Whoever changes the kind must sign again."""
    relabelled = msgspec.structs.replace(seal("stop.v1", GRANT, ALICE), payloadType=sign.payload_type("grant.v1"))
    with pytest.raises(SignatureInvalidError):
        open_envelope(relabelled, "grant.v1", Grant, [ALICE.public])


@pytest.mark.parametrize("opener", [open_envelope, open_by_any])
def test_another_key_is_refused(opener: Opener) -> None:
    """A genuine signature by somebody else is not a signature by the expected key."""
    assert reason_of(seal("grant.v1", GRANT, BOB), ALICE.public, opener=opener) == "wrong_key"


@pytest.mark.parametrize("opener", [open_envelope, open_by_any])
def test_a_false_key_id_does_not_help(opener: Opener) -> None:
    """The key id selects a key and proves nothing."""
    envelope = seal("grant.v1", GRANT, BOB)
    forged = msgspec.structs.replace(
        envelope, signatures=[Signature(keyid=ALICE.public.key_id, sig=envelope.signatures[0].sig)]
    )
    with pytest.raises(SignatureInvalidError):
        opener(forged, "grant.v1", Grant, [ALICE.public])


@pytest.mark.parametrize("opener", [open_envelope, open_by_any])
def test_an_extra_signature_is_refused(opener: Opener) -> None:
    """Nothing in an envelope is ignored: an extra signature would be bytes that nobody checked."""
    assert reason_of(seal("grant.v1", GRANT, ALICE, BOB), ALICE.public, opener=opener) == "wrong_key"


@pytest.mark.parametrize("opener", [open_envelope, open_by_any])
def test_one_signature_does_not_count_twice(opener: Opener) -> None:
    """One person cannot be two persons, nor repeat a signature to change the bytes."""
    assert reason_of(seal("grant.v1", GRANT, ALICE, ALICE), ALICE.public, opener=opener) == "wrong_key"
    assert reason_of(seal("grant.v1", GRANT, ALICE, ALICE), ALICE.public, BOB.public, opener=opener) == "wrong_key"


def test_a_missing_signature_is_refused() -> None:
    """Every expected key must have signed."""
    assert reason_of(seal("grant.v1", GRANT, ALICE), ALICE.public, BOB.public) == "wrong_key"
    assert reason_of(seal("grant.v1", GRANT), ALICE.public) == "wrong_key"


def test_one_wrong_signature_among_right_ones_is_refused() -> None:
    """Both signatures are checked, whichever comes first."""
    good = seal("grant.v1", GRANT, ALICE, BOB)
    bad = seal("grant.v1", Grant(units=8), ALICE, BOB)
    for mixed in ([good.signatures[0], bad.signatures[1]], [bad.signatures[0], good.signatures[1]]):
        with pytest.raises(SignatureInvalidError):
            open_envelope(
                msgspec.structs.replace(good, signatures=mixed), "grant.v1", Grant, [ALICE.public, BOB.public]
            )


def test_no_key_means_no() -> None:
    """An empty list of expected keys is a refusal, never a pass."""
    assert reason_of(seal("grant.v1", GRANT)) == "no_key"
    assert reason_of(seal("grant.v1", GRANT, ALICE)) == "no_key"
    assert reason_of(seal("grant.v1", GRANT, ALICE), opener=open_by_any) == "wrong_key"
    assert reason_of(seal("grant.v1", GRANT), opener=open_by_any) == "wrong_key"


@pytest.mark.parametrize("count", [0, sign.MAX_SIGNATURES + 1, 10_000])
def test_the_number_of_signatures_is_bounded_when_it_is_read(count: int) -> None:
    """A parser's bound, so that nobody has to walk ten thousand signatures."""
    envelope = seal("grant.v1", GRANT, ALICE)
    many = msgspec.structs.replace(envelope, signatures=envelope.signatures * count)
    with pytest.raises(InvalidValueError):
        codec.decode(codec.encode(many), Envelope, max_bytes=10 << 20)


@pytest.mark.parametrize("payload", [b'{"units": 7}', b'{"units":7}\n', rb'{"\u0075nits":7}'])
def test_a_second_encoding_is_refused_although_it_is_signed(payload: bytes) -> None:
    """A signer cannot make two digests for one message."""
    with pytest.raises(MalformedError) as caught:
        open_envelope(with_raw_payload(payload, ALICE), "grant.v1", Grant, [ALICE.public])
    assert caught.value.reason == "not_canonical"


@pytest.mark.parametrize(
    ("payload", "error"),
    [(b"", MalformedError), (b'{"units":-1}', InvalidValueError), (b'{"units":7,"more":1}', InvalidValueError)],
)
def test_a_signature_does_not_excuse_bad_content(payload: bytes, error: type[AIGovToolError]) -> None:
    """What a trusted key signed is parsed as strictly as anything else."""
    with pytest.raises(error):
        open_envelope(with_raw_payload(payload, ALICE), "grant.v1", Grant, [ALICE.public])


def test_the_signature_is_checked_before_the_content_is_parsed() -> None:
    """Bytes by a stranger never reach the parser of messages."""
    with pytest.raises(SignatureInvalidError):
        open_envelope(with_raw_payload(b"[" * 100_000, BOB), "grant.v1", Grant, [ALICE.public])


def test_the_size_bound_reaches_the_payload() -> None:
    """A caller's bound is the parser's bound."""
    for opener in (open_envelope, open_by_any):
        with pytest.raises(TooLargeError):
            opener(seal("grant.v1", GRANT, ALICE), "grant.v1", Grant, [ALICE.public], max_bytes=5)


# --- Keys --------------------------------------------------------------------------------------

PRIME = 2**255 - 19


def small_order_ordinates() -> set[int]:
    """Compute every y of a point of small order: of the points of the curve times the prime group order."""
    d = -121665 * pow(121666, -1, PRIME) % PRIME
    order = 2**252 + 27742317777372353535851937790883648493

    def add(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
        (x1, y1), (x2, y2) = first, second
        product = d * x1 * x2 * y1 * y2
        x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, PRIME) % PRIME
        return x, (y1 * y2 + x1 * x2) * pow(1 - product, -1, PRIME) % PRIME

    def times(factor: int, point: tuple[int, int]) -> tuple[int, int]:
        result = (0, 1)
        for bit in f"{factor:b}":
            result = add(result, result)
            result = add(result, point) if bit == "1" else result
        return result

    found = set()
    for y in range(2, 40):
        x_squared = (y * y - 1) * pow(d * y * y + 1, -1, PRIME) % PRIME
        x = pow(x_squared, (PRIME + 3) // 8, PRIME)
        if x * x % PRIME != x_squared:
            x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
        if x * x % PRIME == x_squared:  # else no point has this y
            found.add(times(order, (x, y)))
    return {y for _, y in found}


def test_the_list_of_small_order_points_is_complete() -> None:
    """The eight points of order dividing 8 have five different y; arithmetic finds the list in the code."""
    assert small_order_ordinates() == sign._SMALL_ORDER_Y


@pytest.mark.parametrize("sign_bit", [0, 1 << 255])
@pytest.mark.parametrize("y", [*sorted(sign._SMALL_ORDER_Y), PRIME, PRIME + 1, PRIME + 3, 2**255 - 1])
def test_keys_that_verify_everything_or_have_two_names_are_refused(y: int, sign_bit: int) -> None:
    """OpenSSL takes them; a signature under one of them binds nobody."""
    with pytest.raises(SignatureInvalidError) as caught:
        VerifyKey((y | sign_bit).to_bytes(32, "little"))
    assert caught.value.reason == "bad_key"


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_keys_of_another_length_are_refused(length: int) -> None:
    """A typed error, for public and for private keys."""
    for make in (lambda: VerifyKey(b"\x02" * length), lambda: SigningKey.from_secret(Secret(bytes(length)))):
        with pytest.raises(SignatureInvalidError) as caught:
            make()
        assert caught.value.reason == "bad_key"


def test_keys_are_equal_by_their_public_bytes() -> None:
    """The id is the digest of the raw key, and a loaded key is the saved one."""
    again = SigningKey.from_secret(ALICE.to_secret())
    assert again.public == ALICE.public
    assert hash(again.public) == hash(ALICE.public)
    assert ALICE.public != BOB.public
    assert ALICE.public != ALICE.public.raw
    assert ALICE.public.key_id == key_id_of(ALICE.public.raw)
    assert SigningKey.generate().public != SigningKey.generate().public


def test_the_private_key_is_not_shown() -> None:
    """The representation of a signing key shows the public part only."""
    assert ALICE.to_secret().reveal().hex()[:8] not in repr(ALICE)
    assert ALICE.public.key_id[:16] in repr(ALICE)


# --- Fuzz --------------------------------------------------------------------------------------


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_no_other_bytes_verify(signature: bytes, data: bytes) -> None:
    """Any bytes as a signature give the typed error, of whatever length."""
    with pytest.raises(SignatureInvalidError):
        ALICE.public.verify(signature, data)


def test_every_changed_bit_of_a_signature_is_noticed() -> None:
    """Ed25519 as verified here has no second signature for the same message (RFC 8032 section 5.1.7)."""
    signature = ALICE.sign(b"message")
    for bit in range(512):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SignatureInvalidError):
            ALICE.public.verify(bytes(changed), b"message")
    order = 2**252 + 27742317777372353535851937790883648493
    second = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(SignatureInvalidError):
        ALICE.public.verify(signature[:32] + second.to_bytes(32, "little"), b"message")


@given(st.data())
def test_any_change_of_an_envelope_is_refused_with_a_typed_error(data: st.DataObject) -> None:
    """One changed byte on the wire never opens as something else."""
    wire = bytearray(codec.encode(seal("grant.v1", GRANT, ALICE)))
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        envelope = codec.decode_signed(bytes(wire), Envelope)
        opened = open_envelope(envelope, "grant.v1", Grant, [ALICE.public])
    except AIGovToolError:
        return
    pytest.fail(f"a changed envelope opened: {opened}")


@given(
    st.binary(max_size=60),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.binary(max_size=70), max_size=3),
)
def test_any_envelope_gives_a_typed_error(payload: bytes, type_: str, signatures: list[bytes]) -> None:
    """Whatever stands in an envelope, only documented errors leave the verifier."""
    for payload_type in (type_, sign.payload_type("grant.v1")):
        envelope = Envelope(
            payload=payload,
            payloadType=payload_type,
            signatures=[Signature(keyid=ALICE.public.key_id, sig=sig) for sig in signatures],
        )
        for opener in (open_envelope, open_by_any):
            with pytest.raises(SignatureInvalidError):
                opener(envelope, "grant.v1", Grant, [ALICE.public])


@given(st.sets(st.sampled_from([ALICE, BOB, CAROL])), st.sets(st.sampled_from([ALICE, BOB, CAROL])))
def test_exactly_the_expected_keys_must_have_signed(signers: set[SigningKey], expected: set[SigningKey]) -> None:
    """An envelope opens when, and only when, who signed is who was expected."""
    envelope = seal("grant.v1", GRANT, *signers)
    keys = [key.public for key in expected]
    if signers == expected and signers:
        assert open_envelope(envelope, "grant.v1", Grant, keys) == GRANT
    else:
        with pytest.raises(SignatureInvalidError):
            open_envelope(envelope, "grant.v1", Grant, keys)
