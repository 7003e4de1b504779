"""The part of docs/benchmarks.md that is about loading, sealing, and serving at the limit for long."""

from collections.abc import Sequence
from statistics import median
from typing import Final

from bench.hold import CONNECTIONS, NAMES, Hold
from bench.loading import Load, Loading, median_peak, middle_s
from bench.sealing import Sealing
from bench.tables import table

_LOADING: Final = """\
## Loading

From a sealed package to a model that can be asked, by the product's own engine child, which was started before
(*start*); beside it, in turns, the model copied and loaded by ONNX Runtime alone. Each load is in a fresh process, what
is read was read before, and the times in the middle of {rounds} are shown. *Peak* is what all processes of a load hold
more than before it and no disk has: their own pages and files in memory, looked at from outside every 5 ms; *held*
is what is left of it when the model can be asked. *Above* is the peak above that of the model alone, in its sizes.

"""
_COLUMNS: Final = (
    "model",
    "files",
    "MiB",
    "start s",
    "load s",
    "alone s",
    "of it copying",
    "ratio",
    "peak MiB",
    "alone",
    "held MiB",
    "alone",
    "above",
)
_SEALING: Final = """\
### Sealing

Sealing `{model}` ({size:,} MiB, weights beside the graph): {sealed:,} MiB/s until it is on the disk. As many bytes are
written to this disk at {written:,} MiB/s, and encrypted with AES-256-GCM by one core at {encrypted:,} MiB/s.
"""
_HOLD: Final = """\
## At the limit for long

One consumer asks for the tiny model over {connections} connections as fast as answers come, for {minutes:g} minutes:
{answers:,} answers, {per_s:,.0f} a second, p50 {p50:.2f} ms, p99 {p99:.2f} ms. Request ids are the enclave's. Memory is
what each process holds of its own, at even distances.

"""


def loading_part(loadings: Sequence[Loading], sealing: Sealing | None) -> str:
    """Return what is to be said of loading and sealing."""
    rounds = max((len(one.ours) for one in loadings), default=0)
    parts = [_LOADING.format(rounds=rounds) + table(_COLUMNS, map(_row, loadings))] if loadings else []
    if sealing is not None:
        parts.append(
            _SEALING.format(
                model=sealing.model,
                size=sealing.size_bytes >> 20,
                sealed=round(sealing.sealed_per_s) >> 20,
                written=round(sealing.written_per_s) >> 20,
                encrypted=round(sealing.encrypted_per_s) >> 20,
            )
        )
    return "\n".join(parts)


def hold_part(hold: Hold) -> str:
    """Return what is to be said of an enclave that was held at its limit."""
    point = hold.point
    words = _HOLD.format(
        connections=CONNECTIONS,
        minutes=hold.minutes,
        answers=point.answers,
        per_s=point.per_s,
        p50=point.p50_ms,
        p99=point.p99_ms,
    )
    return words + table(("process", *(f"{share}/6 MiB" for share in range(7))), map(_held, NAMES, hold.held_bytes))


def _row(one: Loading) -> tuple[str, ...]:
    return (
        one.model,
        f"{one.files}",
        f"{one.size_bytes >> 20:,}",
        f"{median(load.started_s for load in one.ours):.2f}",
        f"{middle_s(one.ours):.2f}",
        f"{middle_s(one.alone):.2f}",
        f"{median(load.copied_s for load in one.alone):.2f}",
        f"{one.ratio():.2f}",
        _mib(median_peak(one.ours)),
        _mib(median_peak(one.alone)),
        _mib(_held_in_the_end(one.ours)),
        _mib(_held_in_the_end(one.alone)),
        f"{one.above():.2f}",
    )


def _held_in_the_end(loads: Sequence[Load]) -> float:
    return median(one.held_bytes for one in loads)


def _mib(size_bytes: float) -> str:
    return f"{round(size_bytes) >> 20:,}"


def _held(name: str, held: Sequence[int]) -> tuple[str, ...]:
    """Return what a process held, at seven times."""
    return (name, *(_mib(held[share * (len(held) - 1) // 6]) for share in range(7)))
