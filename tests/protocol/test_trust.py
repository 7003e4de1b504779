"""The key set: signed by the pinned root, for its own custodian, and never older than one already seen."""

import msgspec
import pytest

from aigovtool.codec import encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.errors import InvalidValueError, SignatureInvalidError
from aigovtool.ids import KeyId
from aigovtool.protocol.trust import KEY_SET, KeySet, open_key_set

ROOT = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of root!!!"))
OTHER = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of another"))
COMMANDS = SigningKey.from_secret(Secret(b"TEST-ONLY signing key, commands!"))
SET = KeySet(
    custodian=ROOT.public.key_id,
    version=3,
    issued_at_ms=1_000,
    commands=[COMMANDS.public.raw, OTHER.public.raw],
    log=[OTHER.public.raw],
    credentials=[b"DER"],
    keystore=bytes(32),
)


def reason_of(key_set: KeySet, signer: SigningKey = ROOT, *, kind: str = KEY_SET, at_least: int = 0) -> str | None:
    with pytest.raises(SignatureInvalidError) as caught:
        open_key_set(seal(kind, key_set, signer), ROOT.public, at_least=at_least)
    return caught.value.reason


def test_a_key_set_under_the_pinned_root_is_taken() -> None:
    """Its keys come back by role, all of those that overlap while they are rotated."""
    found = open_key_set(seal(KEY_SET, SET, ROOT), ROOT.public, at_least=3)
    assert found == SET
    assert found.command_keys() == [COMMANDS.public, OTHER.public]
    assert found.log_keys() == [OTHER.public]


def test_a_key_set_under_another_root_is_refused() -> None:
    """Neither another key's signature nor that of one of the set's own keys will do."""
    assert reason_of(SET, OTHER) == "wrong_key"
    assert reason_of(SET, COMMANDS) == "wrong_key"


def test_a_key_set_for_another_custodian_is_refused() -> None:
    """A root that signs in another custodian's name is not believed."""
    assert reason_of(msgspec.structs.replace(SET, custodian=KeyId("0" * 64))) == "wrong_custodian"


@pytest.mark.parametrize("version", [0, 1, 2])
def test_an_older_key_set_is_refused(version: int) -> None:
    """Rolling back to keys that were withdrawn is refused; the same version again is not."""
    assert reason_of(msgspec.structs.replace(SET, version=version), at_least=3) == "key_set_rollback"


def test_another_message_of_the_root_is_no_key_set() -> None:
    """The kind is part of what is signed."""
    assert reason_of(SET, kind="manifest.v1") == "wrong_kind"


@pytest.mark.parametrize("role", ["commands", "log"])
def test_a_key_that_is_none_is_refused(role: str) -> None:
    """A set with bytes that are no Ed25519 key gives no list of keys."""
    broken = msgspec.structs.replace(SET, **{role: [b"short"]})
    found = open_key_set(seal(KEY_SET, broken, ROOT), ROOT.public)
    with pytest.raises(SignatureInvalidError) as caught:
        found.command_keys() if role == "commands" else found.log_keys()
    assert caught.value.reason == "bad_key"


def test_a_signed_set_of_another_shape_is_refused() -> None:
    """The root's signature does not excuse a missing role."""
    plain = {name: value for name, value in msgspec.to_builtins(SET).items() if name != "log"}
    with pytest.raises(InvalidValueError):
        open_key_set(seal(KEY_SET, plain, ROOT), ROOT.public)


def test_a_key_set_of_an_earlier_version_is_still_the_same_bytes() -> None:
    """Authorities of attestation keys came later: a set without them has the encoding that its root signed."""
    assert SET.attestation == ()
    assert encode(SET).endswith(b'"keystore":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}')
    newer = msgspec.structs.replace(SET, attestation=(b"DER",))
    assert open_key_set(seal(KEY_SET, newer, ROOT), ROOT.public).attestation == (b"DER",)
