"""What co-signatures say about a copy of the log: which witness vouches for how many of its entries, since when.

A witness that the reader believes keeps its own memory of the log. So a copy that was rolled back or rewritten does not
pass as the log that it co-signed, whoever signed the copy: a checkpoint that it co-signed is no prefix of it, or there
is none. What came after the last co-signature is vouched for by the log's own key alone.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from aigovtool.crypto.sign import VerifyKey
from aigovtool.errors import ConfigurationError, LogError
from aigovtool.ledger.checkpoint import Checkpoint
from aigovtool.ledger.cosignature import Witnessed, WitnessKey, open_cosigned, witnessed


@dataclass(frozen=True, slots=True)
class Vouched:
    """The newest co-signature of one witness over a state that this log was in."""

    witness: WitnessKey
    checkpoint: Checkpoint
    time_s: int

    def order(self) -> tuple[int, int, int]:
        """Return what is greater for a newer one."""
        return self.checkpoint.generation, self.checkpoint.size, self.time_s


@dataclass(frozen=True, slots=True)
class Vouching:
    """What vouches for a log: by witnesses that the reader believes, and by those that only the log names."""

    by: tuple[Vouched, ...] = ()
    named: tuple[Vouched, ...] = ()


def require_distinct(witnesses: Sequence[WitnessKey]) -> None:
    """Refuse two witnesses that are one: a name twice, or one key under two names.

    Raises:
        ConfigurationError: `same_witness`.
    """
    names, keys = {one.name for one in witnesses}, {one.key for one in witnesses}
    if len(names) != len(witnesses) or len(keys) != len(witnesses):
        raise ConfigurationError(
            "the same witness was named twice, or one key under two names: it would count twice",
            reason="same_witness",
            fix="name each witness once, by the verifier key that you got from itself",
        )


def weigh(
    log: Iterable[tuple[str, Checkpoint]],
    held: Iterable[tuple[str, Checkpoint]],
    keys: list[VerifyKey],
    *,
    enrolled: Collection[WitnessKey],
    trusted: Sequence[WitnessKey],
) -> Vouching:
    """Return who vouches for a log that contains all of these checkpoints.

    Args:
        log: the notes that came with the log; no signature in them may be without meaning.
        held: notes that the reader has from elsewhere, where lines of others are ignored.
        keys: the log's keys.
        enrolled: the witnesses that the log names.
        trusted: those that the reader believes.

    Raises:
        LogError: `cosignature` when one does not verify, or is by somebody whom the log never named.
    """
    by: list[Vouched] = []
    named: list[Vouched] = []
    for note, checkpoint in log:
        _, known = open_cosigned(note, keys, list(enrolled))
        named += _of(known, checkpoint)
        by += _of(witnessed(note, trusted), checkpoint)
    for note, checkpoint in held if trusted else ():
        by += _of(witnessed(note, trusted), checkpoint)
    return Vouching(by=_newest(by), named=_newest(named))


def require_witnesses(vouching: Vouching, required: int) -> None:
    """Refuse a log that fewer than `required` of the believed witnesses co-signed.

    Raises:
        LogError: `not_witnessed`.
    """
    if len(vouching.by) < required:
        names = ", ".join(one.witness.name for one in vouching.by) or "none"
        raise LogError(
            f"{required} of the witnesses that you named must have co-signed this log, and "
            f"{len(vouching.by)} did ({names}): it need not be the one that they saw",
            reason="not_witnessed",
            fix="get the newest co-signed checkpoint from the witness itself, and compare: "
            "aigovtool audit verify EXPORT --witness KEY --seen FILE",
        )


def _of(found: Iterable[Witnessed], checkpoint: Checkpoint) -> list[Vouched]:
    return [Vouched(witness=one.witness, checkpoint=checkpoint, time_s=one.time_s) for one in found]


def _newest(found: Iterable[Vouched]) -> tuple[Vouched, ...]:
    newest: dict[str, Vouched] = {}
    for one in found:
        before = newest.get(one.witness.name)
        if before is None or one.order() > before.order():
            newest[one.witness.name] = one
    return tuple(newest[name] for name in sorted(newest))
