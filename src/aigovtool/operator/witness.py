"""Watching a custodian's log over time, as anybody can: no credential, only its address and root key.

A signed checkpoint that was kept is a memory that the custodian cannot change. `LogWitness.compare` shows it to the
custodian, and has it prove that its log now begins with exactly what the checkpoint stands for:

1. The custodian is shown the checkpoint. If its ledger does not remember it, it says so, and grants nothing more.
2. The present checkpoint is signed by a log key that the root signed, in a key set that is not older than any that was
   seen, and is neither smaller nor of an earlier generation.
3. A consistency proof (RFC 9162 section 2.1.4) leads from the kept root to the present one.

A restore that two operators settled leaves a checkpoint that is no prefix of the log, and the custodian accepts it as
explained. That is only its word here: the proof fails, and an export of the log shows the entry that explains it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aigovtool.codec import encode
from aigovtool.crypto.sign import VerifyKey
from aigovtool.errors import ConfigurationError, LedgerRollbackError, LogError
from aigovtool.ledger.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint, open_checkpoint
from aigovtool.ledger.merkle import verify_consistency
from aigovtool.operator.connection import CustodianConnection
from aigovtool.protocol.party import CustodianAddress
from aigovtool.protocol.trust import open_key_set
from aigovtool.protocol.views import (
    CheckpointSeen,
    ConsistencyProof,
    CosignedCheckpoint,
    LogHead,
    Witnesses,
    WitnessView,
)
from aigovtool.regular_file import write_new

_SHOW_OTHERS: Final = "keep the checkpoint, and show it to others; an export shows more: aigovtool audit verify --seen"


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkpoint that verified: the signed note, and what it says."""

    note: str
    checkpoint: Checkpoint
    keys: tuple[VerifyKey, ...]
    #: Earlier checkpoints with co-signatures of witnesses; nothing of them is verified here.
    cosigned: tuple[str, ...] = ()
    #: Log keys that were taken back: what was kept may be signed by one, and must then be in the log all the same.
    revoked: tuple[VerifyKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Compared:
    """A checkpoint that was held, and the present one that it was compared with.

    `extends` says that the custodian proved that the log of `now` begins with that of `held`. It is always true in one
    generation; where `now` is in a higher one, entries of `held` may have been lost.
    """

    held: Checkpoint
    now: Seen
    extends: bool


class LogWitness:
    """Asks one custodian about its log. Every method raises `UnreachableError` when there is no answer.

    Args:
        address: where the custodian is, and its root key and TLS authority.
        pause: waits before another attempt, in seconds.
    """

    def __init__(self, address: CustodianAddress, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.root: Final = VerifyKey(address.root)
        self._connection: Final = CustodianConnection.anonymous(address, pause=pause)
        self.custodian: Final = self.root.key_id
        #: The version of the newest key set that was seen; an older one is refused.
        self.key_set = 0

    def believe_no_older_key_set(self, version: int) -> None:
        """Refuse key sets before this version: a key that was taken back in it is believed no more."""
        self.key_set = max(self.key_set, version)

    def head(self) -> Seen:
        """Return the present checkpoint.

        Raises:
            SignatureInvalidError, LogError: it is not signed by this custodian, or under an older key set than one that
                was seen (`key_set_rollback`).
        """
        return self._opened(self._connection.get("/v1/checkpoint", LogHead))

    def compare(self, note: str) -> tuple[Checkpoint, Seen]:
        """Return the checkpoint in `note` and the present one, if the log now extends the log of then.

        Raises:
            LogError: as `look`, or `lost` when it was lost by a restore, as the custodian says.
            LedgerRollbackError: as `look`.
        """
        found = self.look(note)
        if not found.extends:
            raise LogError(
                f"of the {found.held.size} entries that you hold a checkpoint of, a restore from a backup lost some, "
                f"as the custodian says (it is in generation {found.now.checkpoint.generation} now)",
                reason="lost",
                fix="the log names the loss and who settled it; check: aigovtool audit verify EXPORT --seen FILE",
            )
        return found.held, found.now

    def look(self, note: str) -> Compared:
        """Return what became of the checkpoint in `note`.

        All that it says is of one answer: whoever goes on with the present checkpoint must take the one in here. A
        custodian may show another one at the next request, and no word of its own stands for a proof.

        Raises:
            LogError: `checkpoint` or `wrong_custodian` when the note is not of this log; `rollback` when the custodian
                does not remember it, `rewritten` when other entries stand in its place.
            LedgerRollbackError: the note is in the log, but somebody else showed one that is not.
        """
        before = self.head()
        held = open_checkpoint(note, [*before.keys, *before.revoked])
        if held.custodian != self.root.key_id:
            raise LogError("the checkpoint is of another custodian's log", reason="wrong_custodian")
        try:
            answer = self._connection.post("/v1/checkpoints", encode(CheckpointSeen(checkpoint=note)), LogHead)
        except LedgerRollbackError as error:
            raise self._rolled_back(held, before, error) from None
        now = self._opened(answer)
        if (held.generation, held.size) > (now.checkpoint.generation, now.checkpoint.size):
            raise _forgotten(held, now.checkpoint)
        extends = self.extends(held, now.checkpoint)
        if not extends and held.generation == now.checkpoint.generation:
            raise LogError(
                f"the custodian's log does not contain the {held.size} entries that it signed: it was rewritten",
                reason="rewritten",
                fix=_SHOW_OTHERS,
            )
        return Compared(held=held, now=now, extends=extends)

    def extends(self, held: Checkpoint, now: Checkpoint) -> bool:
        """Return whether the custodian proves that the log of `now` begins with that of `held`."""
        if held.size > now.size:
            return False
        try:
            # The custodian refuses where there is no proof; a proof that is none is refused here.
            proof = self._connection.get(f"/v1/log/consistency?old={held.size}&size={now.size}", ConsistencyProof)
            verify_consistency(held.size, held.root, now.size, now.root, proof.path)
        except LogError:
            return False
        return True

    def hand_in(self, note: str) -> WitnessView:
        """Hand in a co-signed checkpoint, and return what the custodian keeps of its witness now.

        Raises:
            ForbiddenError: `unknown_witness`: it is not enrolled, or retired.
            AIGovToolError: whatever else the custodian answers.
        """
        return self._connection.post("/v1/cosignatures", encode(CosignedCheckpoint(checkpoint=note)), WitnessView)

    def witnesses(self) -> Witnesses:
        """Return all witnesses, as the custodian says."""
        return self._connection.get("/v1/witnesses", Witnesses)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self, head: LogHead) -> Seen:
        key_set = open_key_set(head.key_set, self.root, at_least=self.key_set)
        self.believe_no_older_key_set(key_set.version)
        keys = key_set.log_keys()
        checkpoint = open_checkpoint(head.checkpoint, keys)
        if checkpoint.custodian != self.root.key_id:
            raise LogError("the checkpoint is of another custodian's log", reason="wrong_custodian")
        return Seen(
            note=head.checkpoint,
            checkpoint=checkpoint,
            keys=tuple(keys),
            cosigned=head.cosigned,
            revoked=tuple(key_set.revoked_log_keys()),
        )

    def _rolled_back(
        self, held: Checkpoint, before: Seen, error: LedgerRollbackError
    ) -> LogError | LedgerRollbackError:
        if held.generation <= before.checkpoint.generation and self.extends(held, before.checkpoint):
            error.message = "the log extends your checkpoint, but it has forgotten another one that it signed"
            error.fix = "operators settle that: aigovtool custodian gap"
            return error
        return _forgotten(held, before.checkpoint)


def read_note(path: Path) -> str:
    """Read a file with one signed checkpoint; nothing in it is verified yet.

    Raises:
        ConfigurationError: `unreadable_checkpoint`, `bad_checkpoint` when it is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CHECKPOINT_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_checkpoint") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if len(content) > MAX_CHECKPOINT_BYTES or not text.startswith("aigovtool/"):
        raise ConfigurationError(
            f"{path} is not a checkpoint of an audit log",
            reason="bad_checkpoint",
            fix="give a file that `aigovtool audit checkpoint` wrote",
        )
    return text


def write_note(path: Path, note: str) -> None:
    """Write a signed checkpoint to a new file; it is no secret.

    Raises:
        ConfigurationError: `unwritable_checkpoint`.
    """
    try:
        write_new(path, note.encode())
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}", reason="unwritable_checkpoint") from None


def _forgotten(held: Checkpoint, now: Checkpoint) -> LogError:
    return LogError(
        f"the custodian does not remember a log of {held.size} entries (generation {held.generation}) that it signed; "
        f"it has {now.size} (generation {now.generation}): an old copy was put in its place, or it is another log",
        reason="rollback",
        fix=_SHOW_OTHERS,
    )
