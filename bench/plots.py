"""The charts of docs/benchmarks.md, drawn from what was measured and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Final

from bench.chart import Bar, Line, Words, bars, lines
from bench.data_plane import AT_SHARE, BARE, OURS, middle
from bench.pieces import METERING, ONE_BY_ONE, UNSIGNED
from bench.predecessor import NAME as PREDECESSOR
from bench.served import Point

#: The folder of the charts, beside the page.
FOLDER: Final = "benchmarks"
#: Where pieces were left out: a small model, whose answers cost what is around it, asked by many.
_SMALL: Final = ("mlp", 32)


def plots(points: Sequence[Point]) -> dict[str, str]:
    """Return the charts by the names of their files, in the order of the page."""
    made = {}
    for model in _models(points):
        shown = _served(points, model)
        if shown:
            made[f"{model}-speed.svg"] = _speed(model, shown)
            made[f"{model}-times.svg"] = _times(model, shown)
    pieces = _pieces(points)
    if pieces:
        made["pieces.svg"] = bars(
            Words(
                title="Where the time of an inference goes: the tiny model over 32 connections",
                description=f"Processor time of one answer in microseconds. {_told(pieces)}",
                across="microseconds of processor time per answer",
            ),
            pieces,
        )
    return made


def plots_part(points: Sequence[Point]) -> str:
    """Return the lines of the page that show the charts; what they show is in the tables too."""
    return "\n".join(f"![{_alternative(name)}]({FOLDER}/{name})\n" for name in plots(points))


def _alternative(name: str) -> str:
    model, _, kind = name.removesuffix(".svg").rpartition("-")
    said = {"speed": "answers per second over connections", "times": "p50 and p99 over connections"}
    return f"{model}: {said[kind]}" if kind in said else "Where the time of an inference goes"


def _models(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(one.model for one in points if one.server not in {PREDECESSOR, AT_SHARE}))


def _served(points: Sequence[Point], model: str) -> Mapping[str, list[Point]]:
    """Return what each measured server reached with each number of connections, ours first, alone last."""
    mine = [one for one in points if one.model == model]
    apart = {AT_SHARE, METERING, ONE_BY_ONE, UNSIGNED}
    names = sorted({one.server for one in mine} - apart, key=lambda name: (name != OURS, name in BARE, name))
    found = {}
    for name in names:
        numbers = sorted({one.connections for one in mine if one.server == name})
        middles = [middle(mine, name, model, number) for number in numbers]
        found[name] = [one for one in middles if one is not None]
    return found


def _speed(model: str, shown: Mapping[str, list[Point]]) -> str:
    drawn = [Line(name, [(one.connections, one.per_s) for one in found]) for name, found in shown.items()]
    told = "; ".join(
        f"{name}: {', '.join(f'{one.per_s:,.1f} over {one.connections}' for one in found)}"
        for name, found in shown.items()
    )
    return lines(
        Words(
            title=f"{model}: answers per second",
            description=f"Answers per second over numbers of connections, both axes logarithmic. {told}.",
            across="connections (alone: threads that run the model)",
            upwards="answers per second",
        ),
        drawn,
    )


def _times(model: str, shown: Mapping[str, list[Point]]) -> str:
    drawn, told = [], []
    for name, found in shown.items():
        drawn.append(Line(name, [(one.connections, one.p50_ms) for one in found]))
        drawn.append(Line(name, [(one.connections, one.p99_ms) for one in found], dashed=True))
        each = (f"{one.p50_ms:.2f} and {one.p99_ms:.2f} over {one.connections}" for one in found)
        told.append(f"{name}: {', '.join(each)}")
    return lines(
        Words(
            title=f"{model}: milliseconds to an answer, p50 and (dashed) p99",
            description=f"p50 and p99 in milliseconds over numbers of connections, both axes logarithmic. "
            f"{'; '.join(told)}.",
            across="connections (alone: threads that run the model)",
            upwards="milliseconds",
        ),
        drawn,
    )


def _pieces(points: Sequence[Point]) -> list[Bar]:
    """Return what an answer costs alone and lent; none unless all pieces were measured.

    What a piece costs is by how much less an enclave without it takes; noise can make that less than nothing.
    """
    model, connections = _SMALL
    alone = middle(points, "alone, 1 thread", model, 1)
    whole, unsigned, unmetered = (middle(points, name, model, connections) for name in (OURS, UNSIGNED, METERING))
    if alone is None or whole is None or unsigned is None or unmetered is None:
        return []
    signing = max(0.0, whole.cpu_us - unsigned.cpu_us)
    metering = max(0.0, whole.cpu_us - unmetered.cpu_us - signing)
    serving = max(0.0, whole.cpu_us - alone.cpu_us - signing - metering)
    parts = [
        ("running the model", alone.cpu_us),
        ("serving: TLS, HTTP, tensors, the way to the engine", serving),
        ("metering and making the receipt", metering),
        ("signing the receipt", signing),
    ]
    return [Bar("the model alone", parts[:1]), Bar(OURS, parts)]


def _told(pieces: Sequence[Bar]) -> str:
    return "; ".join(f"{bar.name}: {', '.join(f'{name} {value:,.1f}' for name, value in bar.parts)}" for bar in pieces)
