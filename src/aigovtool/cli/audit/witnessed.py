"""What `audit verify` says of witnesses: who co-signed how much of a copy of the log, and when."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from aigovtool.cli.screen import Screen
from aigovtool.cli.words import count, when
from aigovtool.errors import ConfigurationError

if TYPE_CHECKING:
    from aigovtool.ledger.cosignature import WitnessKey
    from aigovtool.ledger.witnessing import Vouched, Vouching


class CosignedBy(Struct, frozen=True, kw_only=True):
    """The newest co-signature of a witness over a state of this log: its first `entries`, at `time_s`.

    `believed` says that the reader named its key; the others are witnesses as only the log itself names them.
    """

    witness: str
    key: str
    believed: bool
    entries: int
    generation: int
    time_s: int


def counted(texts: Sequence[str], required: int | None) -> "tuple[list[WitnessKey], int]":
    """Return the witnesses that the reader believes, and how many of them must have co-signed.

    Raises:
        InvalidValueError: `bad_witness_key`.
        ConfigurationError: `too_few_witnesses` when fewer are named than are required, `same_witness`.
    """
    from aigovtool.ledger.cosignature import parse_witness_key  # noqa: PLC0415
    from aigovtool.ledger.witnessing import require_distinct  # noqa: PLC0415

    believed = [parse_witness_key(text) for text in texts]
    require_distinct(believed)
    wanted = len(believed) if required is None else required
    if wanted > len(believed):
        raise ConfigurationError(
            f"{wanted} witnesses are required, and {len(believed)} named",
            reason="too_few_witnesses",
            fix="name them: --witness KEY, once for each",
        )
    return believed, wanted


def rows(vouching: "Vouching") -> list[CosignedBy]:
    """Return who vouches for a log, those first that the reader believes."""
    believed = {one.witness.text() for one in vouching.by}
    others = [one for one in vouching.named if one.witness.text() not in believed]
    return [_row(one, believed=True) for one in vouching.by] + [_row(one, believed=False) for one in others]


def _row(one: "Vouched", *, believed: bool) -> CosignedBy:
    return CosignedBy(
        witness=one.witness.name,
        key=one.witness.text(),
        believed=believed,
        entries=one.checkpoint.size,
        generation=one.checkpoint.generation,
        time_s=one.time_s,
    )


def say(screen: Screen, cosigned: Sequence[CosignedBy], *, entries: int, required: int) -> None:
    """Print who vouches for how many of the entries."""
    for one in cosigned:
        signed = f"{one.witness} co-signed {_part(one.entries, entries)}, at {when(one.time_s * 1000)}"
        if one.believed:
            screen.line(f"{signed}.", style="green")
        else:
            screen.line(
                f"{signed}, but only the log names its key: if you got it from the witness, give it with --witness."
            )
    if required:
        # The largest part of the log for which as many vouch as were asked for.
        vouched = sorted((one.entries for one in cosigned if one.believed), reverse=True)[required - 1]
        if vouched < entries:
            those = "entry" if entries - vouched == 1 else f"{count(entries - vouched)} entries"
            seen = "none" if required == 1 else f"fewer than {required}"
            screen.line(
                f"For the last {those} only the custodian's log key vouches: {seen} of your witnesses co-signed it."
            )


def _part(size: int, entries: int) -> str:
    return f"all {count(size)} entries" if size == entries else f"the first {count(size)} of {count(entries)} entries"
