"""The directory of a witness: its key, and what it remembers of each log that it co-signs.

DIR/witness.key            Ed25519, mode 0600; the witness's only secret
DIR/witness.vkey           its verifier key (C2SP signed note), to be published
DIR/<custodian>.json       the newest checkpoint that it stands by, and some before it
DIR/<custodian>.lock       held by the one process that co-signs this log

A memory is replaced as a whole: written beside the old one, synced, and renamed. Whoever can write to the directory can
make the witness sign two histories, and so can a second copy of it on another machine, which no lock here can hinder.

A lock is a file that somebody may tidy away. So whoever gets it looks whether it still is the file of that name, and
looks again before each write: who holds one that is gone writes nothing more.

A memory that was lost or damaged is never put back from a copy: an older one could sign another history.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Literal, Self

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aigovtool.codec import Message, decode_signed, encode
from aigovtool.crypto.keyfile import (
    make_private_directory,
    read_secret_file,
    read_signing_key,
    write_key,
    write_secret_file,
)
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import ConfigurationError, ConflictError, InputError, LogError
from aigovtool.ids import KeyId, Units
from aigovtool.ledger.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint, parse_checkpoint
from aigovtool.ledger.cosignature import WitnessKey, parse_witness_key, parse_witness_name
from aigovtool.limits import MAX_WITNESS_KEY_CHARS

_KEY: Final = "witness.key"
_VKEY: Final = "witness.vkey"
#: Earlier checkpoints are for saying how much is left after a restore; those long ago are thinned out.
MAX_EARLIER: Final = 64
#: 64 earlier checkpoints of under 200 bytes, and notes of up to 4 KiB of which few are ever lost.
_MAX_MEMORY_BYTES: Final = 256 << 10

FORMAT: Final = "aigovtool-witness.v1"
#: Restores that lost something; who settles so many has other troubles.
_MAX_LOST: Final = 16

#: How often a lock's file is removed, between opening and locking it, before that is called by its name.
_LOCK_TRIES: Final = 10
#: What to do when it cannot be known any more what a witness signed.
NEW_WITNESS: Final = (
    "make a new witness, with another name, have it enrolled, and have this one retired; do not put an older copy "
    "back: it could sign another history"
)

_Note = Annotated[str, Meta(min_length=1, max_length=MAX_CHECKPOINT_BYTES)]


class Remembered(Message):
    """A checkpoint that the witness co-signed before."""

    generation: Units
    size: Units
    root: Annotated[bytes, Meta(min_length=32, max_length=32)]
    time_s: Units

    def checkpoint(self, custodian: KeyId) -> Checkpoint:
        """Return it as a checkpoint of its log."""
        return Checkpoint(custodian=custodian, size=self.size, root=self.root, generation=self.generation)


class Memory(Message):
    """What a witness remembers of one log.

    `note` is the newest checkpoint that it stands by: with its own co-signature or, after its keeper accepted a new
    generation, still without. `time_s` is the time of its last co-signature. `lost` holds what it co-signed and the
    log has lost since. `key_set` is the version of the newest key set of the custodian that it saw; memories that were
    written by earlier versions have none.
    """

    format: Literal["aigovtool-witness.v1"]
    custodian: KeyId
    note: _Note
    time_s: Units
    earlier: tuple[Remembered, ...]
    lost: tuple[_Note, ...] = ()
    key_set: Units | UnsetType = UNSET

    def key_set_seen(self) -> int:
        """Return the version of the newest key set that was seen; 0 for none."""
        return 0 if self.key_set is UNSET else self.key_set


def create_witness(directory: Path, name: str) -> WitnessKey:
    """Make the directory of a new witness, and return its verifier key.

    If that was broken off before the verifier key was written, it is finished: the key stays as it is.

    Raises:
        InvalidValueError: `bad_witness_name`.
        ConflictError: `witness_exists`.
        ConfigurationError: the directory cannot be made, or is not private.
    """
    parse_witness_name(name)
    directory = directory.absolute()
    make_private_directory(directory)
    if _is_there(directory / _VKEY):
        raise ConflictError(
            f"{directory} holds a witness already", reason="witness_exists", fix="choose another directory"
        )
    if _is_there(directory / _KEY):
        key = read_signing_key(directory / _KEY)
    else:
        key = SigningKey.generate()
        write_key(directory / _KEY, key)
    witness = WitnessKey(name=name, key=key.public)
    with Secret(f"{witness.text()}\n".encode()) as text:
        write_secret_file(directory / _VKEY, text)
    return witness


class WitnessHome:
    """A witness's directory, held by this process alone for one log until it is closed, or only read.

    Args:
        directory: where it is.
        holding: the custodian whose log is to be co-signed; without one, nothing can be written.

    Raises:
        ConfigurationError: `no_witness`, `unfinished_witness` when there is no verifier key, `bad_witness` when key and
            verifier key do not fit, `unsafe_key_file`.
        ConflictError: `witness_busy` while another process holds it.
    """

    def __init__(self, directory: Path, *, holding: KeyId | None = None) -> None:
        self._directory: Final = directory.absolute()
        if not _is_there(self._directory / _KEY):
            raise ConfigurationError(
                f"{directory} is not the directory of a witness",
                reason="no_witness",
                fix="make one: aigovtool audit witness init DIRECTORY --name NAME",
            )
        self._holding: Final = holding
        self._lock: int | None = None if holding is None else _locked(_lock_path(self._directory, holding))
        try:
            self.key: Final = read_signing_key(self._directory / _KEY)
            self.witness: Final = self._read_witness()
        except BaseException:
            self.close()
            raise

    def memory(self, custodian: KeyId) -> Memory | None:
        """Return what the witness remembers of a log; None when it has not signed it.

        Raises:
            ConfigurationError: `bad_memory`: it was changed. Nothing may be signed then.
        """
        path = self._path(custodian)
        if not _is_there(path):
            return None
        with read_secret_file(path, max_bytes=_MAX_MEMORY_BYTES) as content:
            try:
                memory = decode_signed(content.reveal(), Memory, max_bytes=_MAX_MEMORY_BYTES)
                custodians = {memory.custodian, parse_checkpoint(memory.note).custodian}
            except (InputError, LogError):
                memory, custodians = None, set()
        if memory is None or custodians != {custodian}:
            raise ConfigurationError(
                f"{path} is not the memory of a witness: it was changed",
                reason="bad_memory",
                fix=NEW_WITNESS,
            )
        return memory

    def memories(self) -> list[Memory]:
        """Return what the witness remembers of all logs; raises as `memory`."""
        try:
            names = sorted(path.name for path in self._directory.iterdir())
        except OSError as error:
            raise _unreadable(self._directory, error) from None
        found = [self.memory(KeyId(name.removesuffix(".json"))) for name in names if name.endswith(".json")]
        return [memory for memory in found if memory is not None]

    def remember(self, memory: Memory) -> None:
        """Replace the memory of a log, durably before this returns.

        Raises:
            ConflictError: `witness_busy` when the lock was removed, so that another process may hold this log.
            InvalidValueError: it could not be read back; the old one stays.
            ConfigurationError: `not_held`; as `write_secret_file`.
        """
        if self._lock is None or memory.custodian != self._holding:
            raise ConfigurationError("the witness's memory of this log is only read here", reason="not_held")
        content = encode(_thinned(memory))
        # Bounds are checked where bytes are read, not where a value is made.
        decode_signed(content, Memory, max_bytes=_MAX_MEMORY_BYTES)
        path = self._path(memory.custodian)
        if not _is_at(self._lock, _lock_path(self._directory, memory.custodian)):
            raise _busy(self._directory)
        with Secret(content) as text:
            write_secret_file(path, text, replace=True)

    def close(self) -> None:
        """Let others use the directory."""
        if self._lock is not None:
            descriptor, self._lock = self._lock, None
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _path(self, custodian: KeyId) -> Path:
        return self._directory / f"{custodian}.json"

    def _read_witness(self) -> WitnessKey:
        path = self._directory / _VKEY
        if not _is_there(path):
            raise ConfigurationError(
                f"{path} does not exist: making this witness was broken off",
                reason="unfinished_witness",
                fix=f"finish it, with the same name: aigovtool audit witness init {self._directory} --name NAME",
            )
        with read_secret_file(path, max_bytes=MAX_WITNESS_KEY_CHARS + 1) as content:
            try:
                witness = parse_witness_key(content.reveal().decode("ascii", "replace").removesuffix("\n"))
            except InputError:
                witness = None
        if witness is None or witness.key != self.key.public:
            raise ConfigurationError(
                f"{path} is not the verifier key of {self._directory / _KEY}",
                reason="bad_witness",
                fix=f"write the verifier key that you published, of this very key, into {path}; if there is none, "
                f"{NEW_WITNESS}",
            )
        return witness


def _thinned(memory: Memory) -> Memory:
    """Drop every other one of the older half, once there are too many."""
    earlier = memory.earlier
    if len(earlier) > MAX_EARLIER:
        half = len(earlier) // 2
        earlier = (*earlier[:half:2], *earlier[half:])
    return msgspec.structs.replace(memory, earlier=earlier, lost=memory.lost[-_MAX_LOST:])


def _lock_path(directory: Path, custodian: KeyId) -> Path:
    return directory / f"{custodian}.lock"


def _locked(path: Path) -> int:
    for _ in range(_LOCK_TRIES):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unlockable(path, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise (_busy(path.parent) if isinstance(error, BlockingIOError) else _unlockable(path, error)) from None
        if _is_at(descriptor, path):
            return descriptor
        # Somebody removed the file meanwhile: others would find, and lock, another one.
        os.close(descriptor)
    raise _busy(path.parent)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether a path still is the name of an open file; if that cannot be told, it is not."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _is_there(path: Path) -> bool:
    """Return whether there is anything of this name, be it a link to nowhere."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(path, error) from None
    return True


def _busy(directory: Path) -> ConflictError:
    return ConflictError(
        f"another process co-signs this log as the witness in {directory}, or its lock was removed",
        reason="witness_busy",
        fix="end it first: two at once could sign two histories; never remove a .lock file",
    )


def _unreadable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_key_file")


def _unlockable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"cannot lock {path}: {error.strerror}", reason="unwritable_key_file")
