"""What the data plane is to reach, each as a ratio of figures of one run, and what it reached."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from aigovtool.codec import Message
from bench.custodian import Renewals
from bench.data_plane import AT_SHARE, BARE, OURS, SHARE, middle
from bench.hold import Hold
from bench.loading import Loading
from bench.pieces import METERING
from bench.predecessor import NAME as PREDECESSOR
from bench.sealing import Sealing
from bench.served import Point
from bench.sessions import Sessions


class Target(Message):
    """One target. `at_most` says that less is better; what was not measured has no figure, and is not met."""

    name: str
    target: float
    stretch: float
    at_most: bool
    measured: float | None
    met: bool

    def wanted(self) -> str:
        """Say what is to be reached."""
        return f"{'at most' if self.at_most else 'at least'} {self.target:,g}"


def figure(measured: float) -> str:
    """Return what was measured of a target as the page shows it."""
    return f"{measured:,.4g}"


@dataclass(frozen=True)
class Found:
    """All that one run measured."""

    points: Sequence[Point] = ()
    renewals: Sequence[Renewals] = ()
    loadings: Sequence[Loading] = ()
    sealing: Sealing | None = None
    hold: Hold | None = None
    sessions: Sequence[Sessions] = ()

    def point(self, server: str, model: str, connections: int) -> Point:
        """Return a measurement.

        Raises:
            LookupError: there is none.
        """
        found = middle(self.points, server, model, connections)
        if found is None:
            raise LookupError(server)
        return found

    def fastest_alone(self, model: str) -> Point:
        """Return the fastest way to run a model in a process of its own.

        Raises:
            LookupError: it was not measured.
        """
        alone = [middle(self.points, name, model, threads) for name, (threads, _) in BARE.items()]
        found = [one for one in alone if one is not None]
        if not found:
            raise LookupError(model)
        return max(found, key=lambda one: one.per_s)


def _cpu(model: str, connections: int) -> Callable[[Found], float]:
    def ratio(found: Found) -> float:
        threads = min(connections, 2)
        alone = found.point("alone, 1 thread" if threads == 1 else "alone, 2 threads", model, threads)
        return found.point(OURS, model, connections).cpu_us / alone.cpu_us

    return ratio


def _speed(model: str, connections: int, other: str | None = None) -> Callable[[Found], float]:
    def ratio(found: Found) -> float:
        against = found.fastest_alone(model) if other is None else found.point(other, model, connections)
        return found.point(OURS, model, connections).per_s / against.per_s

    return ratio


def _metering(found: Found) -> float:
    return found.point(OURS, "mlp", 32).cpu_us - found.point(METERING, "mlp", 32).cpu_us


def _predecessor(found: Found) -> float:
    return found.point(OURS, "mlp", 32).per_s / found.point(PREDECESSOR, "none", 32).per_s


def _slowest(model: str) -> Callable[[Found], float]:
    def ratio(found: Found) -> float:
        rounds = [one for one in found.points if (one.server, one.model) == (AT_SHARE, model)]
        if not rounds:
            raise LookupError(model)
        return median(one.p99_ms / one.p50_ms for one in rounds)

    return ratio


def _loading(model: str, told: Callable[[Loading], float]) -> Callable[[Found], float]:
    def figure(found: Found) -> float:
        for one in found.loadings:
            if one.model == model:
                return told(one)
        raise LookupError(model)

    return figure


def _sealing(found: Found) -> float:
    if found.sealing is None:
        raise LookupError("sealing")
    return found.sealing.share()


def _sessions(found: Found) -> float:
    if not found.sessions:
        raise LookupError("sessions")
    return min(one.per_minute for one in found.sessions)


def _growth(found: Found) -> float:
    if found.hold is None:
        raise LookupError("hold")
    return found.hold.growth()


def _enclaves(found: Found) -> float:
    mine = [one.enclaves_per_core() for one in found.renewals if one.store == "sqlite" and not one.trading]
    if not mine:
        raise LookupError("renewals")
    return float(min(mine))


_EVENLY: Final = f"the slowest hundredth against the middle, at {SHARE:.0%} of its speed"
_ALONE: Final = "time until it can be asked, against copying it and loading it alone"
_MEMORY: Final = "most memory above loading it alone, in sizes of the model"
#: Name, target, stretch, whether less is better, and how it follows from what was measured.
TARGETS: Final[tuple[tuple[str, float, float, bool, Callable[[Found], float]], ...]] = (
    ("ResNet-50: processor time against the model alone, 1 connection", 1.05, 1.03, True, _cpu("resnet50", 1)),
    ("ResNet-50: processor time against the model alone, 8 connections", 1.08, 1.05, True, _cpu("resnet50", 8)),
    ("6-layer encoder: speed against the model alone, 8 connections", 0.94, 0.97, False, _speed("minilm128", 8)),
    ("tiny model: speed against the model alone, 32 connections", 0.12, 0.25, False, _speed("mlp", 32)),
    ("tiny model: speed against MLServer, 32 connections", 10, 18, False, _speed("mlp", 32, "mlserver")),
    ("tiny model: speed against Triton through pytriton", 5, 10, False, _speed("mlp", 32, "pytriton")),
    ("tiny model: metering and receipt, microseconds of processor time per request", 25, 10, True, _metering),
    ("tiny model: speed against the predecessor's metering alone", 60, 150, False, _predecessor),
    (f"tiny model: {_EVENLY}", 3, 2, True, _slowest("mlp")),
    (f"6-layer encoder: {_EVENLY}", 3, 2, True, _slowest("minilm128")),
    (f"ResNet-50: {_EVENLY}", 3, 2, True, _slowest("resnet50")),
    ("tiny model, at its limit for long: most memory of the last third against the second", 1.05, 1.01, True, _growth),
    (f"ResNet-50, one file: {_ALONE}", 1.25, 0.9, True, _loading("resnet50", Loading.ratio)),
    (f"12-layer encoder, weights beside it: {_ALONE}", 1.25, 0.9, True, _loading("bert128", Loading.ratio)),
    (f"ResNet-50, one file: {_MEMORY}", 1.0, 0.2, True, _loading("resnet50", Loading.above)),
    (f"12-layer encoder, weights beside it: {_MEMORY}", 1.0, 0.2, True, _loading("bert128", Loading.above)),
    ("sealing: speed against the slower of this disk and one core's AES-256-GCM", 0.8, 1.6, False, _sealing),
    ("new sessions a minute, each with fresh evidence, also where a quote takes 1 s", 1_000, 2_000, False, _sessions),
    ("custodian: enclaves that one core sustains (SQLite, a heartbeat each 10 s)", 10_000, 30_000, False, _enclaves),
)  # fmt: skip


def reached(found: Found) -> list[Target]:
    """Hold what was measured against the targets."""
    said = []
    for name, target, stretch, at_most, measure in TARGETS:
        try:
            measured = measure(found)
        except LookupError:
            measured = None
        met = measured is not None and (measured <= target if at_most else measured >= target)
        said.append(Target(name=name, target=target, stretch=stretch, at_most=at_most, measured=measured, met=met))
    return said
