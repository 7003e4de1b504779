"""The part of docs/benchmarks.md that is about the data plane, made from what was measured and nothing else."""

from collections.abc import Sequence
from typing import Final

from bench.data_plane import AT_SHARE, BARE, GATEWAY, OURS, SHARE, middle
from bench.peer import PEERS
from bench.pieces import METERING, ONE_BY_ONE, UNSIGNED, WIDE
from bench.predecessor import NAME as PREDECESSOR
from bench.served import Point
from bench.tables import table
from bench.targets import Target, figure

_TARGETS: Final = """\
## Targets

Everything on: TLS 1.3, the consumer's certificate, metering, a signed receipt for each answer. Ratios are of one run.

"""
_DATA_PLANE: Final = """\
## Inference

One generator asks every server, over so many connections, on each as soon as the last answer has come; everybody takes
turns, and of the rounds the one of middle speed is shown. *CPU* is the server's processor time for one answer, all of
its processes together; *generator* is the generator's share of a core, which the server does not have. Weights are
random: they decide nothing about speed. *Alone* is ONNX Runtime in a process of its own with nothing around it; there
*connections* are threads that run the model.

`aigovtool` is an enclave with everything on: TLS 1.3, binary tensors, a request id of its own each time, as its SDK
asks (which sends a salt of 16 bytes besides). The terms of the models say that requests may be computed in batches
(`--batch`, which is off unless an operator says so): the enclave does so with small models; what it is without is
`{one_by_one}`. {pieces}`{at_share}` is the same enclave, asked evenly, {share} as often as it
answered when it was fastest: there a time runs from when a request was due, also where no connection was free for it.
{gateway}

{peers} None of them meters anything. Their sessions have ONNX Runtime's own settings but for the number
of threads; where that is two they spin while they wait, which *CPU* shows. A round that one of the others broke off is
left out.

"""
_GATEWAY: Final = (
    "`aigovtool connect` is such an enclave, asked through the gateway that runs on the consumer's machine, over plain "
    "HTTP; its *CPU* is that of gateway and enclave together. *Sealed*, it asks as behind a balancer that ends TLS. "
)
_PIECES: Final = (
    f"`{UNSIGNED}` makes the text and signature of one receipt and sends those with all answers; `{METERING}` asks no "
    "lease and makes no receipt, and both look at requests, their ids and their digests as ever. "
)
_WIDE: Final = f"`{WIDE}` is the same with `--threads-per-run 2`; all other enclaves have one. "
_PREDECESSOR: Final = """\

The *predecessor's metering* of the targets is its protocol re-created in words of our own (`bench/predecessor.py`): for
each inference two requests to a counter in Flask, each on a connection with a TLS handshake of its own, by 32 askers at
once, without any inference. It has a client of its own, as no other server is asked so, and is asked
once, when all others are done. What it answers with an error counts as answered: its counter tears under load.

"""
_COLUMNS: Final = ("server", "connections", "per s", "CPU us", "p50 ms", "p99 ms", "generator", "MiB")


def targets_part(found: Sequence[Target]) -> str:
    """Return the table of targets."""
    rows = (
        (
            one.name,
            one.wanted(),
            f"{one.stretch:,g}",
            "not measured" if one.measured is None else figure(one.measured),
            "yes" if one.met else "no",
        )
        for one in found
    )
    return _TARGETS + table(("what", "target", "stretch", "measured", "met"), rows)


def points_part(points: Sequence[Point]) -> str:
    """Return the tables of all models."""
    gateway = _GATEWAY if any(one.server == GATEWAY for one in points) else ""
    peers = " ".join(f"`{peer.name}`: {peer.words}." for peer in PEERS)
    pieces = _PIECES if any(one.server == METERING for one in points) else ""
    pieces += _WIDE if any(one.server == WIDE for one in points) else ""
    words = {"peers": peers, "gateway": gateway, "pieces": pieces, "at_share": AT_SHARE, "one_by_one": ONE_BY_ONE}
    parts = [_DATA_PLANE.format(share=f"{SHARE:.0%}", **words)]
    if any(one.server == PREDECESSOR for one in points):
        parts.append(_PREDECESSOR)
    for model in dict.fromkeys(one.model for one in points if one.model != "none"):
        rows = [_row(found) for found in _middles([one for one in points if one.model == model])]
        parts.append(f"### {model}\n\n" + table(_COLUMNS, rows))
    return "\n".join(parts)


def _middles(points: Sequence[Point]) -> list[Point]:
    """Return one measurement of each server and number of connections: alone first, ours next."""
    order = [*BARE, OURS, AT_SHARE]
    servers = dict.fromkeys(one.server for one in points)  # in the order in which they were asked
    names = sorted(servers, key=lambda name: order.index(name) if name in order else len(order))
    kinds = [
        (name, connections)
        for name in names
        for connections in sorted({one.connections for one in points if one.server == name})
    ]
    found = [middle(points, name, points[0].model, connections) for name, connections in kinds]
    return [one for one in found if one is not None]


def _row(one: Point) -> tuple[str, ...]:
    return (
        f"{one.server} ({one.failed:,} not answered)" if one.failed else one.server,
        f"{one.connections}",
        f"{one.per_s:,.0f}" if one.per_s >= 100 else f"{one.per_s:.2f}",
        f"{one.cpu_us:,.0f}" if one.cpu_us >= 100 else f"{one.cpu_us:.1f}",
        f"{one.p50_ms:.2f}",
        f"{one.p99_ms:.2f}",
        f"{one.generator_share:.0%}" if one.generator_share else "",
        f"{one.memory_mib:,}" if one.memory_mib else "",
    )
