"""A witness that co-signs: one key, and for each log the newest checkpoint that it stands by.

What a co-signature says is worth as much as the witness's memory. So, in this order, each round:

1. The custodian is shown the newest checkpoint of the memory, and proves that its present log extends it
   (`operator.witness`). A ledger that has forgotten it opens its gap by that.
2. A new generation is refused until the keeper accepts it: a restore from a backup makes a log forget, and the
   custodian says itself that operators settled it.
3. The co-signature is made, and written down with the checkpoint, durably, *before* it is sent. After a crash the
   memory may be ahead of what the custodian has, and never behind: no two histories are ever signed.

The first checkpoint of a log is believed as it is found, and only when the keeper says that it is the first. A witness
without its memory must not sign again: it cannot know what it signed. It is replaced by one with another key.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from aigovtool.errors import ConfigurationError, ConflictError, LogError
from aigovtool.ledger.checkpoint import Checkpoint, parse_checkpoint
from aigovtool.ledger.cosignature import cosign, with_cosignatures, without_cosignatures, witnessed
from aigovtool.operator.witness import LogWitness, Seen
from aigovtool.operator.witness_home import FORMAT, Memory, Remembered, WitnessHome
from aigovtool.protocol.views import WitnessView

_NEW_GENERATION: Final = "new_generation"


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

    `kept` is the largest checkpoint that this witness co-signed of which the log still is an extension, None when there
    is none; everything of `signed` beyond it may be lost.
    """

    now: Seen
    signed: Checkpoint
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
            ForbiddenError, OverloadedError: the custodian does not take the co-signature. It is in the memory all the
                same.
        """
        memory = self._home.memory(self._link.custodian)
        now = self._begun(first=first) if memory is None else self._extended(memory)
        time_s = self._clock_s()
        if memory is not None and time_s < memory.time_s:
            raise ConfigurationError(
                "the clock of this machine is behind the last co-signature of this witness",
                reason="clock_behind",
                fix="check the clock; a witness's times never go back",
            )
        text = now.checkpoint.text()
        line = cosign(text, self._home.witness.name, self._home.key, time_s)
        note = with_cosignatures(without_cosignatures(now.note, now.checkpoint.origin()), [line])
        self._home.remember(
            Memory(
                format=FORMAT,
                custodian=self._link.custodian,
                note=note,
                time_s=time_s,
                earlier=_with_earlier(memory, now.checkpoint, time_s),
                lost=() if memory is None else memory.lost,
            )
        )
        return Round(checkpoint=now.checkpoint, time_s=time_s, view=self._link.hand_in(note))

    def settlement(self) -> Settlement:
        """Return what a new generation of the log means for this witness; nothing is changed.

        Raises:
            ConfigurationError: `no_memory`.
            ConflictError: `same_generation`: there is nothing to accept.
            LogError: it is in an earlier generation.
        """
        memory = self._home.memory(self._link.custodian)
        if memory is None:
            raise _no_memory()
        signed = parse_checkpoint(memory.note)
        now = self._link.head()
        if now.checkpoint.generation == signed.generation:
            raise ConflictError(
                f"the log is in generation {signed.generation}, as it was: there is nothing to accept",
                reason="same_generation",
            )
        if now.checkpoint.generation < signed.generation:
            raise LogError("the log is in an earlier generation than the one that was signed", reason="rollback")
        return Settlement(now=now, signed=signed, signed_time_s=memory.time_s, kept=self._kept(memory, signed, now))

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
        self._home.remember(
            msgspec.structs.replace(
                memory,
                note=without_cosignatures(now.note, now.checkpoint.origin()),
                earlier=tuple(one for one in memory.earlier if one.size <= size),
                lost=(*memory.lost, memory.note) if settlement.lost else memory.lost,
            )
        )

    def _begun(self, *, first: bool) -> Seen:
        if not first:
            raise _no_memory()
        now = self._link.head()
        for note in (now.note, *now.cosigned):
            if witnessed(note, [self._home.witness]):
                raise ConfigurationError(
                    "the custodian shows a co-signature of this witness, which its memory does not hold: it was lost",
                    reason="signed_before",
                    fix="put the witness's directory back as it was; if it is lost, make a new witness, with another "
                    "name, and have it enrolled: this one cannot know what it signed",
                )
        return now

    def _extended(self, memory: Memory) -> Seen:
        signed = parse_checkpoint(memory.note)
        try:
            _, now = self._link.compare(memory.note)
        except LogError as error:
            if error.reason != "lost":
                error.message += "; nothing was co-signed"
                raise
            now = self._link.head()
        if now.checkpoint.generation != signed.generation:
            raise self._restored(memory, signed, now)
        return now

    def _restored(self, memory: Memory, signed: Checkpoint, now: Seen) -> LogError:
        kept = self._kept(memory, signed, now)
        generation = now.checkpoint.generation
        what = said(signed, kept)
        return LogError(
            f"the log was restored from a backup and is in generation {generation} now, as the custodian says; {what}. "
            "Nothing was co-signed",
            reason=_NEW_GENERATION,
            fix=f"if you accept it: aigovtool audit witness accept DIRECTORY --generation {generation}",
        )

    def _kept(self, memory: Memory, signed: Checkpoint, now: Seen) -> Checkpoint | None:
        known = [signed, *(one.checkpoint(signed.custodian) for one in reversed(memory.earlier))]
        return next((one for one in known if self._link.extends(one, now.checkpoint)), None)


def said(signed: Checkpoint, kept: Checkpoint | None) -> str:
    """Return in words what is left of what a witness signed."""
    if kept == signed:
        return f"all {signed.size:,} entries that this witness co-signed are still in it"
    if kept is None:
        return f"of the {signed.size:,} entries that this witness co-signed, none is known to be left"
    after = signed.size - kept.size
    lost = "the one after them is lost" if after == 1 else f"of the {after:,} after them some or all are lost"
    first = f"the first {kept.size:,} are still in it"
    return f"of the {signed.size:,} entries that this witness co-signed, {first}, and {lost}"


def _with_earlier(memory: Memory | None, checkpoint: Checkpoint, time_s: int) -> tuple[Remembered, ...]:
    new = Remembered(generation=checkpoint.generation, size=checkpoint.size, root=checkpoint.root, time_s=time_s)
    before = () if memory is None else tuple(one for one in memory.earlier if one.size != checkpoint.size)
    return (*before, new)


def _no_memory() -> ConfigurationError:
    return ConfigurationError(
        "this witness has no memory of this log",
        reason="no_memory",
        fix="if it never co-signed it, add --first; if it did, put its directory back as it was, or make a new witness",
    )
