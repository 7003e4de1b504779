"""What the data plane reached is said of what was measured, and of nothing else."""

from bench.custodian import Renewals
from bench.data_plane import AT_SHARE, OURS, fastest, middle
from bench.hold import Hold
from bench.loading import Load, Loading
from bench.pieces import METERING
from bench.sealing import Sealing
from bench.served import Point
from bench.targets import TARGETS, Found, reached


def measured(
    server: str, model: str, connections: int, *, per_s: float, cpu_us: float = 1.0, p99_ms: float = 2.0
) -> Point:
    """Return a measurement."""
    return Point(
        server=server,
        model=model,
        connections=connections,
        per_s=per_s,
        cpu_us=cpu_us,
        p50_ms=1.0,
        p99_ms=p99_ms,
        generator_share=0.1,
        memory_mib=100,
        answers=1_000,
    )


def test_what_was_not_measured_is_not_met() -> None:
    """Each target is there, without a figure, and counts as missed."""
    found = reached(Found(points=[], renewals=[]))
    assert [one.name for one in found] == [name for name, *_ in TARGETS]
    assert {(one.measured, one.met) for one in found} == {(None, False)}


def test_ratios_are_those_of_the_run() -> None:
    """Speed against the fastest way to run a model alone, processor time against as many threads, differences."""
    points = [
        measured("alone, 1 thread", "mlp", 1, per_s=100_000, cpu_us=10),
        measured("alone, 2 threads", "mlp", 2, per_s=80_000, cpu_us=12),
        measured(OURS, "mlp", 32, per_s=20_000, cpu_us=60),
        measured(METERING, "mlp", 32, per_s=30_000, cpu_us=40),
        measured("mlserver", "mlp", 32, per_s=2_500, cpu_us=400),
        measured("alone, 2 threads", "resnet50", 2, per_s=20, cpu_us=100_000),
        measured(OURS, "resnet50", 8, per_s=18, cpu_us=110_000),
    ]
    found = {one.name: one for one in reached(Found(points=points, renewals=[]))}
    alone = found["tiny model: speed against the model alone, 32 connections"]
    assert (alone.measured, alone.met) == (0.2, True)
    metering = found["tiny model: metering and receipt, microseconds of processor time per request"]
    assert (metering.measured, metering.met) == (20, True)
    peer = found["tiny model: speed against MLServer, 32 connections"]
    assert (peer.measured, peer.met) == (8, False)
    large = found["ResNet-50: processor time against the model alone, 8 connections"]
    assert (large.measured, large.met) == (1.1, False)
    assert found["ResNet-50: processor time against the model alone, 1 connection"].measured is None


def test_of_several_rounds_the_one_of_middle_speed_counts() -> None:
    """Neither the luckiest nor the unluckiest."""
    rounds = [measured(OURS, "mlp", 8, per_s=speed, cpu_us=speed) for speed in (900, 100, 300)]
    found = middle(rounds, OURS, "mlp", 8)
    assert found is not None
    assert found.per_s == 300
    assert middle(rounds, OURS, "mlp", 32) is None


def test_the_limit_is_that_of_the_number_of_connections_over_which_it_is_fastest() -> None:
    """Each number counts with its round of middle speed."""
    rounds = [measured(OURS, "mlp", 8, per_s=speed) for speed in (900, 100, 300)]
    rounds += [measured(OURS, "mlp", 32, per_s=400), measured("other", "mlp", 32, per_s=9_000)]
    assert fastest(rounds, OURS, "mlp").per_s == 400


def test_the_slowest_are_held_against_the_middle_below_the_limit() -> None:
    """Of several rounds the ratio in the middle counts; at the limit itself there is no such target."""
    points = [measured(AT_SHARE, "mlp", 8, per_s=70, p99_ms=slow) for slow in (9.0, 2.5, 1.5)]
    points.append(measured(OURS, "mlp", 8, per_s=100, p99_ms=50.0))
    found = {one.name: one for one in reached(Found(points=points))}
    tail = found["tiny model: the slowest hundredth against the middle, at 70% of its speed"]
    assert (tail.measured, tail.met) == (2.5, True)
    assert not found["ResNet-50: the slowest hundredth against the middle, at 70% of its speed"].met


def loading(model: str, *, seconds: float, peak_bytes: int) -> Loading:
    """Return loads of a model of 100 bytes, which alone takes a second and 100 bytes."""
    ours = Load(seconds=seconds, copied_s=0, started_s=1, peak_bytes=peak_bytes, held_bytes=0)
    alone = Load(seconds=1, copied_s=0, started_s=0, peak_bytes=100, held_bytes=0)
    return Loading(model=model, files=1, size_bytes=100, ours=(ours,), alone=(alone,))


def test_loading_is_held_against_loading_alone() -> None:
    """Time and memory are targets of their own, and so is each model."""
    loadings = [loading("resnet50", seconds=1.2, peak_bytes=350), loading("bert128", seconds=1.5, peak_bytes=120)]
    found = [one for one in reached(Found(loadings=loadings)) if one.measured is not None]
    assert [(one.measured, one.met) for one in found] == [(1.2, True), (1.5, False), (2.5, False), (0.2, True)]


def test_sealing_and_holding_are_held_against_their_targets() -> None:
    """What was measured of them, and whether it is enough."""
    sealing = Sealing(model="m", size_bytes=1, sealed_per_s=90, written_per_s=100, encrypted_per_s=300)
    point = measured(OURS, "mlp", 32, per_s=100)
    grown = Hold(minutes=30, point=point, held_bytes=((1, 9, 9, 10, 10, 10), (1, 9, 10, 10, 12, 10)))
    found = [one for one in reached(Found(sealing=sealing, hold=grown)) if one.measured is not None]
    assert [(one.measured, one.met) for one in found] == [(1.2, False), (0.9, True)]


def test_enclaves_are_counted_on_the_slowest_of_its_ledgers() -> None:
    """The least that any of the measured histories sustains."""
    renewals = [
        Renewals(
            store=store,
            trading=trading,
            log_entries=10,
            leases_in_use=10,
            renewals=100,
            per_s=100,
            cpu_ms=cpu_ms,
            store_cpu_ms=None,
            p50_ms=1,
            p99_ms=2,
        )
        for store, trading, cpu_ms in (("sqlite", False, 1), ("sqlite", False, 2), ("sqlite", True, 9))
    ]
    found = reached(Found(points=[], renewals=renewals))[-1]
    assert (found.measured, found.met) == (5_000, False)
