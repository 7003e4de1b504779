"""What a governed inference costs: a lent model, the model alone, and other servers, side by side, taking turns."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np

from aigovtool.codec import Message
from bench.bare import Runs
from bench.graphs import GRAPHS, Graph
from bench.lent import connected, lent
from bench.peer import PEERS, served
from bench.pieces import ONE_BY_ONE, PIECES, WIDE, WIDE_PROGRAM
from bench.served import Point, Served, told

OURS: Final = "aigovtool"
#: The same, asked through the consumer's gateway.
GATEWAY: Final = "aigovtool connect"
#: And all of it sealed, as behind a load balancer that ends TLS.
SEALED: Final = "aigovtool connect, sealed"
#: The same enclave, asked evenly, this share as often as it answered when it was asked as fast as answers came.
SHARE: Final = 0.7
AT_SHARE: Final = f"{OURS}, at {SHARE:.0%}"
#: So many answers tell the slowest hundredth from a single one; for so long they are waited for at the most.
_ANSWERS: Final = 500
_LONGEST_S: Final = 45.0
#: The model alone: how many threads run it, each a request of its own, and ONNX Runtime's threads within one run.
BARE: Final = {"alone, 1 thread": (1, 1), "alone, 2 threads": (2, 1), "alone, 2 threads within": (1, 2)}


class Course(Message):
    """What is asked of everybody for one model; `seconds` of each measurement."""

    model: str
    connections: tuple[int, ...]
    seconds: float
    rounds: int = 3


COURSES: Final = (
    Course(model="mlp", connections=(1, 8, 32, 128), seconds=3),
    Course(model="resnet50", connections=(1, 8), seconds=6),
    Course(model="minilm128", connections=(1, 8), seconds=4),
    Course(model="chest480", connections=(1, 8), seconds=8),
)


def run(course: Course, *, peers: bool, pieces: bool) -> Iterator[Point]:
    """Measure all of a course: every round asks everybody once with each number of connections."""
    graph = GRAPHS[course.model]()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aigovtool-bench-")))
        model, inputs = directory / "model.onnx", directory / "inputs.npz"
        model.write_bytes(graph.content)
        np.savez(inputs, allow_pickle=False, **graph.inputs)
        servers = [stack.enter_context(lent(graph, OURS)), *_others(stack, graph, peers=peers, pieces=pieces)]
        found: list[Point] = []
        for point in _rounds(course, graph, servers, str(model), str(inputs)):
            found.append(point)
            yield point
        yield from below_its_limit(servers[0], found, course)


def _rounds(course: Course, graph: Graph, servers: Sequence[Served], model: str, inputs: str) -> Iterator[Point]:
    for _ in range(course.rounds):
        for name, (threads, within) in BARE.items():
            runs = Runs(model=model, inputs=inputs, threads=threads, within=within, seconds=course.seconds)
            yield _alone(name, graph, runs)
        for connections in course.connections:
            for one in servers:
                yield from measured(one, connections, course.seconds)


def measured(one: Served, connections: int, seconds: float) -> Iterator[Point]:
    """Yield what was measured; nothing of another server that broke it off, which has its other rounds."""
    try:
        yield one.measure(connections, seconds)
    except (RuntimeError, OSError) as error:  # or its processes are gone
        if not one.may_fail:
            raise
        sys.stderr.write(f"{one.name}, {connections} connections: {error}\n")


def below_its_limit(enclave: Served, found: Sequence[Point], course: Course) -> Iterator[Point]:
    """Ask an enclave less often than it can answer: over as many connections as it was fastest with."""
    limit = fastest(found, enclave.name, enclave.model)
    per_s = SHARE * limit.per_s
    seconds = min(max(course.seconds, _ANSWERS / per_s), _LONGEST_S)
    for _ in range(course.rounds):
        point = enclave.measure(limit.connections, seconds, per_s)
        yield msgspec.structs.replace(point, server=AT_SHARE)


def _others(stack: ExitStack, graph: Graph, *, peers: bool, pieces: bool) -> Iterator[Served]:
    small = graph.name == "mlp"
    if pieces and small:
        for name, program in PIECES.items():
            yield stack.enter_context(lent(graph, name, program))
        yield stack.enter_context(lent(graph, ONE_BY_ONE, batch=False))
    if pieces and not small:
        yield stack.enter_context(lent(graph, WIDE, WIDE_PROGRAM))
    if pieces and graph.name in {"mlp", "resnet50"}:
        yield stack.enter_context(connected(graph, GATEWAY))
        yield stack.enter_context(connected(graph, SEALED, sealed=True))
    for peer in PEERS:
        if peers and peer.installed() and (peer.name != "bentoml" or len(graph.inputs) == 1):
            yield stack.enter_context(served(peer, graph, 1 if small else 2))


def _alone(name: str, graph: Graph, runs: Runs) -> Point:
    seen, _ = told("bench.bare", runs, lambda: 0.0)
    point = Point.of(name, graph.name, runs.threads, seen, cpu_s=seen.cpu_s, memory_mib=0)
    return msgspec.structs.replace(point, generator_share=0.0)


def fastest(points: Sequence[Point], server: str, model: str) -> Point:
    """Return the measurement of the number of connections over which a server was fastest.

    Raises:
        LookupError: it was not measured.
    """
    numbers = dict.fromkeys(one.connections for one in points if (one.server, one.model) == (server, model))
    found = [one for one in (middle(points, server, model, number) for number in numbers) if one is not None]
    if not found:
        raise LookupError(server)
    return max(found, key=lambda one: one.per_s)


def middle(points: Sequence[Point], server: str, model: str, connections: int) -> Point | None:
    """Return the measurement of middle speed among the rounds; none if it was not measured."""
    mine = [one for one in points if (one.server, one.model, one.connections) == (server, model, connections)]
    if not mine:
        return None
    speed = median([one.per_s for one in mine])
    return min(mine, key=lambda one: abs(one.per_s - speed))
