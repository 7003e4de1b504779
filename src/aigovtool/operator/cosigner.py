"""A witness that co-signs: one key, and for each log the newest checkpoint that it stands by.

What a co-signature says is worth as much as the witness's memory. So, in this order, each round:

1. The custodian is shown the newest checkpoint of the memory, and proves that its present log extends it
   (`operator.witness`). A ledger that has forgotten it opens its gap by that. What is signed is the checkpoint that was
   proved, never another that the custodian shows before or after.
2. A new generation is refused until the keeper accepts it: a restore from a backup makes a log forget, and the
   custodian says itself that operators settled it.
   The custodian's key set is not older than the newest that the witness saw: keys are taken back in newer ones.
3. A co-signature of its own that the memory does not hold stops the witness: another copy of it co-signs.
4. The note is made of the checkpoint's text, the log's one signature that verified, and its own; it is opened as a
   reader would, and written down, durably, *before* it is sent. After a crash the memory may be ahead of what the
   custodian has, and never behind: no two histories are ever signed.

The first checkpoint of a log is believed as it is found, and only when the keeper says that it is the first. A witness
without its memory must not sign again: it cannot know what it signed. It is replaced by one with another key.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from aigovtool.errors import ConfigurationError, ConflictError, FaultError, ForbiddenError, LogError
from aigovtool.ledger.checkpoint import Checkpoint, parse_checkpoint, plain_note
from aigovtool.ledger.cosignature import cosign, open_cosigned, with_cosignatures, witnessed
from aigovtool.operator.witness import LogWitness, Seen
from aigovtool.operator.witness_home import FORMAT, NEW_WITNESS, Memory, Remembered, WitnessHome
from aigovtool.protocol.views import WitnessView

_NEW_GENERATION: Final = "new_generation"
_ANOTHER_COPY: Final = "another_copy"
#: Before every co-signature, in the order of `_order`.
_NONE: Final = (-1, -1, -1)


def _system_time_s() -> int:
    return time.time_ns() // 1_000_000_000


@dataclass(frozen=True, slots=True)
class Round:
    """What was co-signed, when, and what the custodian keeps of this witness now."""

    checkpoint: Checkpoint
    time_s: int
    view: WitnessView


@dataclass(frozen=True, slots=True)
class Settlement:
    """A new generation of the log, compared with the witness's memory.

    `signed` is what this witness co-signed last of what an earlier restore left, None when none was left. `kept` is the
    largest checkpoint that it co-signed of which the log still is an extension, None when there is none; everything of
    `signed` beyond it may be lost.
    """

    now: Seen
    signed: Checkpoint | None
    signed_time_s: int
    kept: Checkpoint | None

    @property
    def lost(self) -> bool:
        """Return whether something that this witness co-signed is lost."""
        return self.kept != self.signed


class Cosigner:
    """One witness at one custodian.

    Args:
        home: its key and memory, held alone.
        link: the connection to the custodian.
        clock_s: the time, in seconds since the epoch.
    """

    def __init__(self, home: WitnessHome, link: LogWitness, *, clock_s: Callable[[], int] = _system_time_s) -> None:
        self._home: Final = home
        self._link: Final = link
        self._clock_s: Final = clock_s

    def sign(self, *, first: bool = False) -> Round:
        """Co-sign the present checkpoint, and hand it in.

        Raises:
            ConfigurationError: `no_memory` of this log unless it is the `first` time, `signed_before` when it is not;
                `clock_behind`.
            LogError: the log does not extend what this witness signed, or is in a new generation; nothing was signed.
            LedgerRollbackError: it does, but has forgotten what it showed somebody else.
            SignatureInvalidError: `key_set_rollback`: the custodian shows an older key set than it did before.
            ForbiddenError: `another_copy` of this witness co-signs.
            ForbiddenError, OverloadedError: the custodian does not take the co-signature. It is in the memory all the
                same, as when it is `not_kept` (FaultError).
        """
        memory = self._remembered()
        try:
            now = self._begun(first=first) if memory is None else self._extended(memory)
        finally:
            self._keep_key_set(memory)
        time_s = self._clock_s()
        if memory is not None and time_s < memory.time_s:
            raise ConfigurationError(
                "the clock of this machine is behind the last co-signature of this witness",
                reason="clock_behind",
                fix="check the clock; a witness's times never go back",
            )
        note = self._cosigned(now, time_s)
        self._home.remember(
            Memory(
                format=FORMAT,
                custodian=self._link.custodian,
                note=note,
                time_s=time_s,
                earlier=_with_earlier(memory, now.checkpoint, time_s),
                lost=() if memory is None else memory.lost,
                key_set=self._link.key_set,
            )
        )
        view = self._link.hand_in(note)
        _require_kept(view, now.checkpoint, time_s)
        return Round(checkpoint=now.checkpoint, time_s=time_s, view=view)

    def settlement(self) -> Settlement:
        """Return what a new generation of the log means for this witness; nothing is changed.

        Raises:
            ConfigurationError: `no_memory`.
            ConflictError: `same_generation`: there is nothing to accept.
            LogError: it is in an earlier generation.
        """
        memory = self._remembered()
        if memory is None:
            raise _no_memory()
        stood_by = parse_checkpoint(memory.note)
        now = self._link.head()
        if now.checkpoint.generation == stood_by.generation:
            raise ConflictError(
                f"the log is in generation {stood_by.generation}, as it was: there is nothing to accept",
                reason="same_generation",
            )
        if now.checkpoint.generation < stood_by.generation:
            raise LogError("the log is in an earlier generation than the one that was signed", reason="rollback")
        return Settlement(
            now=now,
            signed=_signed(memory),
            signed_time_s=memory.earlier[-1].time_s if memory.earlier else memory.time_s,
            kept=self._kept(memory, now),
        )

    def newest_note(self) -> str:
        """Return the newest checkpoint of the memory; raises as `settlement`."""
        memory = self._home.memory(self._link.custodian)
        if memory is None:
            raise _no_memory()
        return memory.note

    def accept(self, settlement: Settlement) -> None:
        """Stand by the new generation from now on. What was lost stays in the memory, beside it."""
        memory = self._home.memory(self._link.custodian)
        if memory is None:
            raise _no_memory()
        now = settlement.now
        size = 0 if settlement.kept is None else settlement.kept.size
        # A checkpoint that was only accepted is no evidence: this witness never co-signed it.
        gone = (memory.note,) if settlement.lost and witnessed(memory.note, [self._home.witness]) else ()
        self._home.remember(
            msgspec.structs.replace(
                memory,
                note=plain_note(now.note, list(now.keys)),
                earlier=tuple(one for one in memory.earlier if one.size <= size),
                lost=(*memory.lost, *gone),
                key_set=self._link.key_set,
            )
        )

    def _remembered(self) -> Memory | None:
        """Return the memory, and believe no key set that is older than the newest in it."""
        memory = self._home.memory(self._link.custodian)
        if memory is not None:
            self._link.believe_no_older_key_set(memory.key_set_seen())
        return memory

    def _keep_key_set(self, memory: Memory | None) -> None:
        """Remember a newer key set whatever else the custodian shows: what was taken back in it stays so."""
        if memory is not None and self._link.key_set > memory.key_set_seen():
            self._home.remember(msgspec.structs.replace(memory, key_set=self._link.key_set))

    def _cosigned(self, now: Seen, time_s: int) -> str:
        keys = list(now.keys)
        line = cosign(now.checkpoint.text(), self._home.witness.name, self._home.key, time_s)
        note = with_cosignatures(plain_note(now.note, keys), [line])
        # What a reader would not take must not replace a memory that is good.
        open_cosigned(note, keys, [self._home.witness])
        return note

    def _begun(self, *, first: bool) -> Seen:
        if not first:
            raise _no_memory()
        now = self._link.head()
        if self._shown(now):
            raise ConfigurationError(
                "the custodian shows a co-signature of this witness, which its memory does not hold: it was lost",
                reason="signed_before",
                fix=NEW_WITNESS,
            )
        return now

    def _extended(self, memory: Memory) -> Seen:
        try:
            found = self._link.look(memory.note)
        except LogError as error:
            error.message += "; nothing was co-signed"
            raise
        if found.now.checkpoint.generation != found.held.generation:
            raise self._restored(memory, found.now)
        if max(self._shown(found.now), default=_NONE) > _order(found.held, memory.time_s):
            raise ForbiddenError(
                "the custodian shows a newer co-signature of this witness than its memory holds: another copy of it "
                "co-signs, or the memory is an older one; nothing was co-signed",
                reason=_ANOTHER_COPY,
                fix=f"end the other copy; as nobody can know what the two signed, {NEW_WITNESS}",
            )
        return found.now

    def _shown(self, now: Seen) -> list[tuple[int, int, int]]:
        """Return what the custodian shows that this witness co-signed of this log; of others it means nothing here."""
        return [
            _order(checkpoint, by.time_s)
            for note in (now.note, *now.cosigned)
            for by in witnessed(note, [self._home.witness])
            if (checkpoint := parse_checkpoint(note)).custodian == self._link.custodian
        ]

    def _restored(self, memory: Memory, now: Seen) -> LogError:
        generation = now.checkpoint.generation
        what = said(_signed(memory), self._kept(memory, now))
        return LogError(
            f"the log was restored from a backup and is in generation {generation} now, as the custodian says; {what}. "
            "Nothing was co-signed",
            reason=_NEW_GENERATION,
            fix=f"if you accept it: aigovtool audit witness accept DIRECTORY --generation {generation}",
        )

    def _kept(self, memory: Memory, now: Seen) -> Checkpoint | None:
        known = (one.checkpoint(memory.custodian) for one in reversed(memory.earlier))
        return next((one for one in known if self._link.extends(one, now.checkpoint)), None)


def said(signed: Checkpoint | None, kept: Checkpoint | None) -> str:
    """Return in words what is left of what a witness signed."""
    if signed is None:
        return "nothing that this witness co-signed was left in it before"
    if kept == signed:
        return f"all {signed.size:,} entries that this witness co-signed are still in it"
    if kept is None:
        return f"of the {signed.size:,} entries that this witness co-signed, none is known to be left"
    after = signed.size - kept.size
    lost = "the one after them is lost" if after == 1 else f"of the {after:,} after them some or all are lost"
    first = f"the first {kept.size:,} are still in it"
    return f"of the {signed.size:,} entries that this witness co-signed, {first}, and {lost}"


def _signed(memory: Memory) -> Checkpoint | None:
    """Return what was co-signed last. The note is it only if no new generation was accepted since."""
    return memory.earlier[-1].checkpoint(memory.custodian) if memory.earlier else None


def _with_earlier(memory: Memory | None, checkpoint: Checkpoint, time_s: int) -> tuple[Remembered, ...]:
    new = Remembered(generation=checkpoint.generation, size=checkpoint.size, root=checkpoint.root, time_s=time_s)
    before = () if memory is None else tuple(one for one in memory.earlier if one.size != checkpoint.size)
    return (*before, new)


def _order(checkpoint: Checkpoint, time_s: int) -> tuple[int, int, int]:
    return checkpoint.generation, checkpoint.size, time_s


def _require_kept(view: WitnessView, checkpoint: Checkpoint, time_s: int) -> None:
    """Refuse an answer by which the custodian keeps anything but what it was handed: it keeps what is newest."""
    own = _order(checkpoint, time_s)
    kept = _NONE
    if view.generation is not None and view.size is not None and view.time_s is not None:
        kept = view.generation, view.size, view.time_s
    if kept > own:
        raise ForbiddenError(
            "the custodian says that it keeps a newer co-signature of this witness than this one: another copy of it "
            "co-signs, or the memory was an older one",
            reason=_ANOTHER_COPY,
            fix="end the other copy, if there is one, and sign again: the next round verifies what the custodian shows",
        )
    if kept < own:
        raise FaultError(
            "the custodian took the co-signature, as it says, but keeps an older one of this witness, or none",
            reason="not_kept",
            fix="it is in the memory; save it for others: aigovtool audit witness show DIRECTORY -o FILE",
        )


def _no_memory() -> ConfigurationError:
    return ConfigurationError(
        "this witness has no memory of this log",
        reason="no_memory",
        fix=f"if it never co-signed it, add --first; if it did, {NEW_WITNESS}",
    )
