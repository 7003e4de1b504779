"""A wrapped key opens with one key, in one context, unchanged, or not at all."""

import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.crypto.secret import Secret
from aigovtool.crypto.wrap import PUBLIC_KEY_BYTES, WrapKey, wrap
from aigovtool.errors import SignatureInvalidError

KEY = WrapKey.from_secret(Secret(b"TEST-ONLY wrapping key 123456789"))
INFO = b"aigovtool release v1\x00instance and digests"
MODEL_KEY = b"TEST-ONLY model key of 32 bytes!"

# Points of small order, some in a second encoding: everybody would know the shared secret (RFC 7748 section 6.1).
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


def reason_of(ciphertext: bytes, info: bytes = INFO, key: WrapKey = KEY) -> str | None:
    with pytest.raises(SignatureInvalidError) as caught:
        key.unwrap(ciphertext, info)
    return caught.value.reason


def test_what_is_wrapped_is_unwrapped() -> None:
    """The round trip gives the same bytes, and the length is as documented."""
    ciphertext = wrap(Secret(MODEL_KEY), KEY.public, INFO)
    assert len(ciphertext) == PUBLIC_KEY_BYTES + len(MODEL_KEY) + 16
    assert KEY.unwrap(ciphertext, INFO).reveal() == MODEL_KEY
    assert MODEL_KEY not in ciphertext


def test_each_wrapping_is_fresh() -> None:
    """The same key wrapped twice cannot be recognised."""
    assert wrap(Secret(MODEL_KEY), KEY.public, INFO) != wrap(Secret(MODEL_KEY), KEY.public, INFO)


def test_the_suite_is_the_documented_one() -> None:
    """An independent use of the same RFC 9180 suite opens it: an agreement with the spec, not with ourselves."""
    private = X25519PrivateKey.from_private_bytes(KEY.to_secret().reveal())
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    assert suite.decrypt(wrap(Secret(MODEL_KEY), KEY.public, INFO), private, info=INFO) == MODEL_KEY
    assert KEY.unwrap(suite.encrypt(MODEL_KEY, private.public_key(), info=INFO), INFO).reveal() == MODEL_KEY


@pytest.mark.parametrize("info", [b"", INFO[:-1], INFO + b"\x00", b"aigovtool release v2\x00instance and digests"])
def test_another_context_does_not_open_it(info: bytes) -> None:
    """A key released to one instance cannot be carried to another."""
    assert reason_of(wrap(Secret(MODEL_KEY), KEY.public, INFO), info) == "wrong_context"


def test_another_key_does_not_open_it() -> None:
    """Only the private key behind the public key opens it."""
    assert reason_of(wrap(Secret(MODEL_KEY), KEY.public, INFO), key=WrapKey.generate()) == "wrong_context"


def test_every_changed_byte_and_every_cut_is_noticed() -> None:
    """No byte of a ciphertext can be changed, dropped or added, except the one bit that RFC 7748 ignores."""
    ciphertext = wrap(Secret(MODEL_KEY), KEY.public, INFO)
    for position in range(len(ciphertext)):
        changed = bytearray(ciphertext)
        changed[position] ^= 0x01
        assert reason_of(bytes(changed)) == "wrong_context"
        assert reason_of(ciphertext[:position]) == "wrong_context"
    assert reason_of(ciphertext + b"\x00") == "wrong_context"


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point[:4].hex())
def test_points_of_small_order_are_refused_on_both_sides(point: bytes) -> None:
    """Neither wrapping to such a key nor opening from such a point uses a shared secret of zeros."""
    with pytest.raises(SignatureInvalidError) as caught:
        wrap(Secret(MODEL_KEY), point, INFO)
    assert caught.value.reason == "bad_key"
    assert reason_of(point + bytes(48)) == "wrong_context"


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_keys_of_another_length_are_refused(length: int) -> None:
    """A typed error, whichever side the key is for."""
    with pytest.raises(SignatureInvalidError) as caught:
        wrap(Secret(MODEL_KEY), bytes(length), INFO)
    assert caught.value.reason == "bad_key"
    with pytest.raises(SignatureInvalidError) as caught:
        WrapKey.from_secret(Secret(bytes(length)))
    assert caught.value.reason == "bad_key"


def test_the_private_key_is_not_shown() -> None:
    """The representation shows the public part only."""
    assert KEY.to_secret().reveal().hex()[:8] not in repr(KEY)
    assert KEY.public.hex()[:16] in repr(KEY)
    assert WrapKey.from_secret(KEY.to_secret()).public == KEY.public


@given(st.binary(max_size=120), st.binary(max_size=40))
def test_any_bytes_give_a_typed_error(ciphertext: bytes, info: bytes) -> None:
    """Nothing but the documented error leaves `unwrap`."""
    assert reason_of(ciphertext, info) == "wrong_context"


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_every_secret_survives_in_its_context(secret: bytes, info: bytes) -> None:
    """Any length of secret and context makes the round trip."""
    assert KEY.unwrap(wrap(Secret(secret), KEY.public, info), info).reveal() == secret
