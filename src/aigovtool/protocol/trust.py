"""Whom to believe: the custodian's root key, and the key set that it signs.

The root key stays offline. It signs a numbered key set with a key list per role; parties pin the root
and accept a key set only if its number is not lower than the last one they saw. Several keys per role
overlap while they are rotated; a key that was stolen is not in the next set.
"""

from typing import Annotated

from msgspec import Meta

from aigovtool.codec import Message
from aigovtool.crypto.sign import Envelope, VerifyKey, open_envelope
from aigovtool.errors import SignatureInvalidError
from aigovtool.ids import KeyId, Millis, Units

KEY_SET = "key-set.v1"
#: Log keys that were taken back and stay listed: all, or the newest if somebody says that the oldest is to go.
MAX_REVOKED_LOG = 32


class KeySet(Message, omit_defaults=True):
    """The custodian's keys, by role.

    `commands` sign everything said to enclaves and parties; `log` signs checkpoints; `credentials` are
    the certificate authorities (DER) that issue client certificates; `keystore` is the X25519 key to
    which the keys of new packages are wrapped; `attestation` are the authorities (DER) that certify
    attestation keys which the custodian has activated. Custodians made by earlier versions have none.

    `revoked_log` are log keys that were taken back. Nothing that they sign is believed: they only tell a checkpoint
    that was kept, or that the log itself contains, from bytes that nobody ever signed. It must then fit the log that
    one of `log` has signed.
    """

    custodian: KeyId
    version: Units
    issued_at_ms: Millis
    commands: list[bytes]
    log: list[bytes]
    credentials: list[bytes]
    keystore: bytes
    attestation: Annotated[tuple[bytes, ...], Meta(max_length=8)] = ()
    revoked_log: Annotated[tuple[bytes, ...], Meta(max_length=MAX_REVOKED_LOG)] = ()

    def command_keys(self) -> list[VerifyKey]:
        """Return the keys that may sign for the custodian."""
        return [VerifyKey(raw) for raw in self.commands]

    def log_keys(self) -> list[VerifyKey]:
        """Return the keys that may sign checkpoints."""
        return [VerifyKey(raw) for raw in self.log]

    def revoked_log_keys(self) -> list[VerifyKey]:
        """Return those that were taken back: for what was kept, or is in the log, and is compared with the log."""
        return [VerifyKey(raw) for raw in self.revoked_log]


def require_no_rollback(key_set: KeySet, seen: KeySet) -> None:
    """Require that a key set is not older than one that was seen, and not another one with the same number.

    Raises:
        SignatureInvalidError: `key_set_rollback`, `key_set_fork`.
    """
    if key_set.version < seen.version:
        raise SignatureInvalidError("the key set is older than one already seen", reason="key_set_rollback")
    if key_set.version == seen.version and key_set != seen:
        raise SignatureInvalidError("two different key sets have the same version", reason="key_set_fork")


def open_key_set(envelope: Envelope, root: VerifyKey, *, at_least: int = 0) -> KeySet:
    """Verify a key set against the pinned root.

    Raises:
        SignatureInvalidError: not signed by `root`, for another custodian (`wrong_custodian`), or older
            than version `at_least` (`key_set_rollback`).
    """
    key_set = open_envelope(envelope, KEY_SET, KeySet, [root])
    if key_set.custodian != root.key_id:
        raise SignatureInvalidError("the key set is for another custodian", reason="wrong_custodian")
    if key_set.version < at_least:
        raise SignatureInvalidError("the key set is older than one already seen", reason="key_set_rollback")
    return key_set
