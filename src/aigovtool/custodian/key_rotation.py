"""Rotating and revoking the custodian's own keys, in its directory and with the offline root key (ADR 0020).

| step | what is written, in this order | root key |
|---|---|---|
| `announce` | `ROLE.next.key`; key set n+1 with the new key beside the old ones | yes |
| `use` | `ROLE.next.key` takes the place of `ROLE.key`, whose private key is gone then | no |
| `revoke` | if it is the one in use: `ROLE.next.key`; key set n+1 without it; then as `use` | yes |

Readers learn the new key before anything is signed with it, and go on to believe the old one until it is revoked. Each
file is replaced in one step, and what is used follows from the signed set (`keys.load`): a custodian whose rotation was
broken off between any two steps serves, and the step can be made again.

The keystore has one key in the set, the one to deposit to. Earlier ones are not signed with but opened with, so the old
private key is kept, as `keystore.old.key`, until the running custodian has wrapped everything anew. Of an earlier
commands key only what is made from it for the activation of attestation keys is kept, until a commands key is revoked:
evidence that was admitted by it is judged again.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from aigovtool.codec import Message, encode
from aigovtool.crypto.keyfile import read_secret_file, read_signing_key, read_tls_key, write_key, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, SigningKey, VerifyKey, seal
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.wrap import WrapKey
from aigovtool.crypto.x509 import spki_sha256
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.activation_keys import forget_activations, make_activation
from aigovtool.custodian.keys import CustodianKeys, authority_id, next_path, old_keystore_path
from aigovtool.errors import ConfigurationError, ConflictError, InputError, NotFoundError
from aigovtool.ids import KeyId, Millis, Units, key_id_of
from aigovtool.protocol.trust import KEY_SET, MAX_REVOKED_LOG, KeySet, open_key_set

_MIN_DIGITS: Final = 8
_PrivateKey = SigningKey | TlsKey | WrapKey


class Role(StrEnum):
    """What a key of the key set is for."""

    COMMANDS = "commands"
    LOG = "log"
    CREDENTIALS = "credentials"
    KEYSTORE = "keystore"
    ATTESTATION = "attestation"


class State(StrEnum):
    """What becomes of a key."""

    IN_USE = "in_use"
    NEXT = "next"
    ACCEPTED = "accepted"
    OPENS = "opens"
    REVOKED = "revoked"


class KeyShown(Message):
    """One key: of an authority the SHA-256 of its public key as certificates have it, else of its raw bytes."""

    role: Role
    key: KeyId
    state: State


class KeysShown(Message):
    """The key set in a custodian's directory, and what becomes of each key in it."""

    custodian: KeyId
    version: Units
    issued_at_ms: Millis
    keys: tuple[KeyShown, ...]

    def of(self, role: Role, state: State) -> KeyId:
        """Return the key of a role that is in a state."""
        return next(one.key for one in self.keys if (one.role, one.state) == (role, state))


def show(directory: Path) -> KeysShown:
    """Return the keys of the custodian in `directory`; raises as `keys.load`."""
    keys = custodian_keys.load(directory)
    found = [
        KeyShown(role=role, key=_id(role, entry), state=_state(directory, keys, role, entry))
        for role in Role
        for entry in _entries(keys.key_set, role)
    ]
    opening = {key_id_of(other.public) for other in keys.other_keystores}
    found += [KeyShown(role=Role.KEYSTORE, key=key, state=State.OPENS) for key in sorted(opening)]
    found += [
        KeyShown(role=Role.LOG, key=key_id_of(raw), state=State.REVOKED) for raw in sorted(keys.key_set.revoked_log)
    ]
    return KeysShown(
        custodian=keys.custodian,
        version=keys.key_set.version,
        issued_at_ms=keys.key_set.issued_at_ms,
        keys=tuple(found),
    )


def announce(directory: Path, role: Role, root_file: Path, now_ms: int) -> KeysShown:
    """Make a new key of a role, and a key set that has it beside the present one, which is used on.

    An authority for attestation keys, of a custodian that had none, is used at once: there is nothing to overlap.

    Raises:
        ConflictError: `rotation_under_way`, `rewrap_under_way`, `too_many_keys`, `keys_busy`.
        ConfigurationError: `wrong_root_key`; a file is missing, unsafe or cannot be written.
    """
    with _held(directory) as place:
        keys, root = _loaded(directory), _root(directory, root_file)
        first = not _entries(keys.key_set, role)
        if role is Role.KEYSTORE:
            _require_rewrapped(place)
        if _next_entry(directory, keys, role) is not None:
            raise _under_way(role)
        entry = _write_next(place, role, keys.key_set.version + 1, now_ms)
        entries = (entry,) if role is Role.KEYSTORE else (*_entries(keys.key_set, role), entry)
        _write_set(place, _with(keys.key_set, role, entries), root, now_ms)
        if first:
            _promote(place, role)
    return show(directory)


def use(directory: Path, role: Role) -> KeysShown:
    """Use the announced key of a role from now on. The private key before it is gone, but for that of the keystore.

    Raises:
        ConflictError: `nothing_announced`, `rewrap_under_way`, `keys_busy`.
    """
    with _held(directory) as place:
        keys = _loaded(directory)
        if _next_entry(directory, keys, role) is None:
            raise ConflictError(
                f"no new {role.value} key was announced",
                reason="nothing_announced",
                fix=f"aigovtool custodian keys rotate {directory} --key {role.value}",
            )
        _promote(place, role)
    return show(directory)


def revoke(directory: Path, wanted: str, root_file: Path, now_ms: int, *, drop_oldest: bool = False) -> KeysShown:
    """Make a key set without a key; one that is in use is replaced at once, by the announced one or by a new one.

    Log keys that were revoked stay listed, because the log may hold what they signed. Where no more can be listed,
    `drop_oldest` has the one that was revoked first make room: a theft cannot wait, whatever becomes unreadable by it.

    Raises:
        NotFoundError: `no_such_key`.
        ConflictError: `too_many_keys`, `rotation_under_way`, `rewrap_under_way`, `keys_busy`.
        ConfigurationError: `wrong_root_key`; a file is missing, unsafe or cannot be written.
    """
    with _held(directory) as place:
        keys, root = _loaded(directory), _root(directory, root_file)
        role, revoked = _find(keys, wanted)
        listed = keys.key_set.revoked_log if role is Role.LOG else ()
        if len(listed) >= MAX_REVOKED_LOG and not drop_oldest:
            raise _listed_in_full(listed[0])
        coming = _next_entry(directory, keys, role)
        if role is Role.KEYSTORE and coming is not None:
            raise _under_way(role)
        if role is Role.KEYSTORE:
            _require_rewrapped(place)
        in_use = _state(directory, keys, role, revoked) is State.IN_USE
        left = tuple(entry for entry in _entries(keys.key_set, role) if entry != revoked)
        if in_use and coming is None:
            left = (*left, _write_next(place, role, keys.key_set.version + 1, now_ms))
        made = _with(keys.key_set, role, left)
        if role is Role.LOG:
            made = msgspec.structs.replace(made, revoked_log=(*listed, revoked)[-MAX_REVOKED_LOG:])
        _write_set(place, made, root, now_ms)
        if in_use:
            _promote(place, role)
        elif revoked == coming:
            next_path(place, role.value).unlink()
        forget_activations(place, made.attestation)
    return show(directory)


def default_root(directory: Path) -> Path:
    """Return where `init` puts the root key."""
    return directory / "offline" / "root.key"


@contextmanager
def _held(directory: Path) -> Iterator[Path]:
    """Yield the directory of the keys, held by this process alone."""
    place = directory / "keys"
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"cannot open {place}: {error.strerror}", reason="missing_key_file") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield place
    except BlockingIOError:
        raise ConflictError("somebody else changes these keys at this moment", reason="keys_busy") from None
    finally:
        os.close(descriptor)


def _loaded(directory: Path) -> CustodianKeys:
    """Load the keys, after finishing the last step of a revocation that was broken off."""
    keys = custodian_keys.load(directory)
    for role in (Role.COMMANDS, Role.LOG, Role.CREDENTIALS, Role.ATTESTATION):
        path = directory / "keys" / f"{role.value}.key"
        entry = _next_entry(directory, keys, role)
        if entry is not None and (not path.exists() or _listed(keys.key_set, role, _read(path, role)) is None):
            _promote(directory / "keys", role)
    forget_activations(directory / "keys", keys.key_set.attestation)
    return keys


def _root(directory: Path, root_file: Path) -> SigningKey:
    root = read_signing_key(root_file)
    if root.public.raw != read_secret_file(directory / "keys" / "root.pub").reveal():
        raise ConfigurationError(
            f"{root_file} is not the root key of this custodian",
            reason="wrong_root_key",
            fix="give the file that `aigovtool custodian init` wrote as offline/root.key, with --root",
        )
    return root


def _entries(key_set: KeySet, role: Role) -> tuple[bytes, ...]:
    """Return what the key set says of a role: raw public keys, or certificates of authorities."""
    return (key_set.keystore,) if role is Role.KEYSTORE else tuple(getattr(key_set, role.value))


def _with(key_set: KeySet, role: Role, entries: tuple[bytes, ...]) -> KeySet:
    match role:
        case Role.KEYSTORE:
            return msgspec.structs.replace(key_set, keystore=entries[0])
        case Role.ATTESTATION:
            return msgspec.structs.replace(key_set, attestation=entries)
        case _:
            return msgspec.structs.replace(key_set, **{role.value: list(entries)})


def _id(role: Role, entry: bytes) -> KeyId:
    return KeyId(spki_sha256(entry).hex()) if role in (Role.CREDENTIALS, Role.ATTESTATION) else key_id_of(entry)


def _id_of(key: _PrivateKey, role: Role) -> KeyId:
    if isinstance(key, WrapKey):
        return key_id_of(key.public)
    if isinstance(key, SigningKey) and role is not Role.CREDENTIALS:
        return key.public.key_id
    return KeyId(authority_id(key).hex())


def _listed(key_set: KeySet, role: Role, key: _PrivateKey) -> bytes | None:
    """Return what the key set has of a private key."""
    found = [entry for entry in _entries(key_set, role) if _id(role, entry) == _id_of(key, role)]
    return found[0] if found else None


def _read(path: Path, role: Role) -> _PrivateKey:
    match role:
        case Role.KEYSTORE:
            return custodian_keys.read_keystore(path)
        case Role.ATTESTATION:
            return read_tls_key(path)
        case _:
            return read_signing_key(path)


def _next_entry(directory: Path, keys: CustodianKeys, role: Role) -> bytes | None:
    """Return what the key set has of the key to be used next: nothing if its announcement was broken off."""
    path = next_path(directory / "keys", role.value)
    return _listed(keys.key_set, role, _read(path, role)) if path.exists() else None


def _state(directory: Path, keys: CustodianKeys, role: Role, entry: bytes) -> State:
    used = getattr(keys, role.value)
    if role is Role.KEYSTORE or _id_of(used, role) == _id(role, entry):
        return State.NEXT if role is Role.KEYSTORE and _next_entry(directory, keys, role) else State.IN_USE
    return State.NEXT if entry == _next_entry(directory, keys, role) else State.ACCEPTED


def _find(keys: CustodianKeys, wanted: str) -> tuple[Role, bytes]:
    found = [
        (role, entry)
        for role in Role
        for entry in _entries(keys.key_set, role)
        if len(wanted) >= _MIN_DIGITS and _id(role, entry).startswith(wanted)
    ]
    if len(found) != 1:
        raise NotFoundError(
            f"the key set has no key {wanted!r}" if not found else f"several keys begin with {wanted!r}",
            reason="no_such_key",
            fix=f"give the first {_MIN_DIGITS} digits or more of one that `aigovtool custodian keys list` shows",
        )
    return found[0]


def _write_next(place: Path, role: Role, version: int, now_ms: int) -> bytes:
    """Make the private key that is to be used next; return what the key set is to say of it."""
    path = next_path(place, role.value)
    if role is Role.KEYSTORE:
        keystore = WrapKey.generate()
        write_secret_file(path, keystore.to_secret(), replace=True)
        return keystore.public
    key = TlsKey.generate() if role is Role.ATTESTATION else SigningKey.generate()
    write_key(path, key, replace=True)
    if isinstance(key, SigningKey) and role is not Role.CREDENTIALS:
        return key.public.raw
    authority = custodian_keys.new_own_authority(key, role.value, version, now_ms)
    if role is Role.ATTESTATION:
        make_activation(place, authority)
    return authority


def _write_set(place: Path, key_set: KeySet, root: SigningKey, now_ms: int) -> None:
    following = msgspec.structs.replace(
        key_set, version=key_set.version + 1, issued_at_ms=max(now_ms, key_set.issued_at_ms)
    )
    envelope = seal(KEY_SET, following, root)
    _require_readable(envelope, root.public)
    with Secret(encode(envelope)) as content:
        write_secret_file(place / "key-set.json", content, replace=True)


def _require_readable(envelope: Envelope, root: VerifyKey) -> None:
    """Do what every reader will do, this custodian at its next start among them, before anybody can read it.

    Raises:
        ConflictError: `too_many_keys`.
    """
    try:
        read = open_key_set(envelope, root)
    except InputError:
        raise ConflictError(
            "a key set cannot hold so many keys",
            reason="too_many_keys",
            fix="revoke one that is not used any more; see `aigovtool custodian keys list`",
        ) from None
    for raw in (*read.commands, *read.log):
        VerifyKey(raw)


def _promote(place: Path, role: Role) -> None:
    """Put the next key in the place of the one in use."""
    path = place / f"{role.value}.key"
    if role is Role.KEYSTORE:
        with read_secret_file(path) as former:
            _require_rewrapped(place, unless=former)
            write_secret_file(old_keystore_path(place), former, replace=True)
    next_path(place, role.value).replace(path)
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_rewrapped(place: Path, *, unless: Secret | None = None) -> None:
    path = old_keystore_path(place)
    if not path.exists():
        return
    with read_secret_file(path) as old:
        if unless is not None and old.reveal() == unless.reveal():
            return  # this very step was broken off before
    raise ConflictError(
        "model keys are still wrapped to the keystore key of before",
        reason="rewrap_under_way",
        fix="serve this custodian for a moment: it wraps them anew, and removes keystore.old.key",
    )


def _listed_in_full(oldest: bytes) -> ConflictError:
    return ConflictError(
        f"{MAX_REVOKED_LOG} log keys were revoked before, and no more can stay listed",
        reason="too_many_keys",
        fix="a log key that was only rotated need not be revoked: its private half is gone. For one that was stolen, "
        f"say --drop-oldest as well: nobody knows {key_id_of(oldest)[:16]} any more then, and of what it signed "
        "(checkpoints that somebody kept, or one in the log, of a gap that was settled) nothing can be verified",
    )


def _under_way(role: Role) -> ConflictError:
    return ConflictError(
        f"a new {role.value} key is announced, and not used yet",
        reason="rotation_under_way",
        fix=f"use it: aigovtool custodian keys use DIRECTORY --key {role.value}",
    )
