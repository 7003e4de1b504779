"""The directory of a witness: its key, and what it remembers of each log that it co-signs.

DIR/witness.key            Ed25519, mode 0600; the witness's only secret
DIR/witness.vkey           its verifier key (C2SP signed note), to be published
DIR/<custodian>.json       the newest checkpoint that it stands by, and some before it
DIR/<custodian>.lock       held by the one process that co-signs this log

A memory is replaced as a whole: written beside the old one, synced, and renamed. Whoever can write to the directory can
make the witness sign two histories, and so can a second copy of it on another machine, which no lock here can hinder.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Literal, Self

import msgspec
from msgspec import Meta

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
    log has lost since.
    """

    format: Literal["aigovtool-witness.v1"]
    custodian: KeyId
    note: _Note
    time_s: Units
    earlier: tuple[Remembered, ...]
    lost: tuple[_Note, ...] = ()


def create_witness(directory: Path, name: str) -> WitnessKey:
    """Make the directory of a new witness, and return its verifier key.

    Raises:
        InvalidValueError: `bad_witness_name`.
        ConflictError: `witness_exists`.
        ConfigurationError: the directory cannot be made, or is not private.
    """
    parse_witness_name(name)
    make_private_directory(directory.absolute())
    if any((directory / file).exists() for file in (_KEY, _VKEY)):
        raise ConflictError(
            f"{directory} holds a witness already", reason="witness_exists", fix="choose another directory"
        )
    key = SigningKey.generate()
    witness = WitnessKey(name=name, key=key.public)
    write_key(directory / _KEY, key)
    with Secret(f"{witness.text()}\n".encode()) as text:
        write_secret_file(directory / _VKEY, text)
    return witness


class WitnessHome:
    """A witness's directory, held by this process alone for one log until it is closed, or only read.

    Args:
        directory: where it is.
        holding: the custodian whose log is to be co-signed; without one, nothing can be written.

    Raises:
        ConfigurationError: `no_witness`, `unsafe_key_file`, or `bad_witness` when key and verifier key do not fit.
        ConflictError: `witness_busy` while another process holds it.
    """

    def __init__(self, directory: Path, *, holding: KeyId | None = None) -> None:
        self._directory: Final = directory.absolute()
        if not (self._directory / _KEY).exists():
            raise ConfigurationError(
                f"{directory} is not the directory of a witness",
                reason="no_witness",
                fix="make one: aigovtool audit witness init DIRECTORY --name NAME",
            )
        self._holding: Final = holding
        self._lock: int | None = None if holding is None else _locked(self._directory / f"{holding}.lock")
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
        if not path.exists() and not path.is_symlink():
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
                fix="put the witness's directory back as it was; if it is lost, make a new witness",
            )
        return memory

    def memories(self) -> list[Memory]:
        """Return what the witness remembers of all logs; raises as `memory`."""
        found = [self.memory(KeyId(path.stem)) for path in sorted(self._directory.glob("*.json"))]
        return [memory for memory in found if memory is not None]

    def remember(self, memory: Memory) -> None:
        """Replace the memory of a log, durably before this returns; raises as `write_secret_file`."""
        if self._lock is None or memory.custodian != self._holding:
            raise ConfigurationError("the witness's memory of this log is only read here", reason="not_held")
        with Secret(encode(_thinned(memory))) as content:
            write_secret_file(self._path(memory.custodian), content, replace=True)

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
        with read_secret_file(self._directory / _VKEY, max_bytes=MAX_WITNESS_KEY_CHARS + 1) as content:
            try:
                witness = parse_witness_key(content.reveal().decode("ascii", "replace").removesuffix("\n"))
            except InputError:
                witness = None
        if witness is None or witness.key != self.key.public:
            raise ConfigurationError(
                f"{self._directory / _VKEY} is not the verifier key of {self._directory / _KEY}",
                reason="bad_witness",
                fix="put the witness's directory back as it was",
            )
        return witness


def _thinned(memory: Memory) -> Memory:
    """Drop every other one of the older half, once there are too many."""
    earlier = memory.earlier
    if len(earlier) > MAX_EARLIER:
        half = len(earlier) // 2
        earlier = (*earlier[:half:2], *earlier[half:])
    return msgspec.structs.replace(memory, earlier=earlier, lost=memory.lost[-_MAX_LOST:])


def _locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot open {path}: {error.strerror}", reason="unwritable_key_file") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConflictError(
            f"another process co-signs this log as the witness in {path.parent}",
            reason="witness_busy",
            fix="end it first: two at once could sign two histories",
        ) from None
    return descriptor
