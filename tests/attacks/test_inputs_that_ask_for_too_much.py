"""Attacks 28 and 29: shapes that overflow, sizes that are announced, work without an end, numbers without a meaning."""

import math
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from tests.attacks.deployments import Deployment, deployed
from tests.attacks.laborious import asked, given, laborious_model
from tests.attacks.memory import forget_peak, peak_mib, resident_mib
from tests.attacks.refusals import refusal_of
from tests.e2e.world import MODEL, Answer, Connection
from tests.effort import effort
from tests.observations import Observed

from aigovtool.ledger.budget import Scope, Window
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.protocol import commands

#: A run may compute for so long under the terms of this deployment.
CAP_MS = 1_000
#: So many runs without an end are asked for at once: an engine has two threads.
RUNS = effort(5, campaign=8)
ONE = struct.pack("<f", 1.0)
#: The refusals below leave no more than this in the enclave: bodies of 8 MiB of JSON are read before they are judged.
MOST_MIB = 64


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment that meters how long a run computes, and ends it at a limit."""
    policy = msgspec.structs.replace(
        default_policy(Dial.BALANCED, ttl_ms=30_000),
        also=(Dimension.COMPUTE_MS,),
        request_max=UnitVector(compute_ms=CAP_MS),
    )
    place = tmp_path_factory.mktemp("laborious")
    with deployed(place, model=laborious_model(), policy=policy, enclave=False) as world:
        world.command(
            commands.GrantBudget(
                scope=Scope(model=MODEL), dimension=Dimension.COMPUTE_MS, window=Window.LIFETIME, units=10**9
            )
        )
        world.start_enclave()
        yield world


@pytest.fixture
def link(world: Deployment) -> Connection:
    """A consumer's connection, on which one inference was answered."""
    link = world.connect()
    assert ask(link, ONE).status == 200
    return link


def ask(link: Connection, x: bytes, *, s: tuple[int, ...] = (1,), count: int = 1) -> Answer:
    """Ask for one inference."""
    body, headers = asked(x, s=s, count=count)
    return link.infer(body, **headers)


def left(answer: Answer) -> int:
    """Return how many inferences the lease still has after an answer."""
    units = answer.headers["aigovtool-units-remaining"]
    return int(next(one for one in units.split(", ") if one.startswith("inferences=")).removeprefix("inferences="))


def tensors(shape: str, data: str = "[1.0]") -> bytes:
    """Return a request in JSON with this shape."""
    one = '"shape":[%s],"datatype":"INT64","data":[1]'
    rest = f'{{"name":"s",{one % "1"}}},{{"name":"count",{one % ""}}}'
    return f'{{"inputs":[{{"name":"x","shape":{shape},"datatype":"FP32","data":{data}}},{rest}]}}'.encode()


SHAPES = {
    "2^31": "[2147483648]",
    "2^63": "[9223372036854775807]",
    "overflows to 0": "[65536,65536,65536,65536]",
    "overflows to 1": "[4294967297,4294967297]",
    "negative": "[-1]",
    "negative twice": "[-1,-1]",
    "nothing, often": "[0,9007199254740991]",
    "a million axes": "[" + ",".join(["1"] * 1_000_000) + "]",
    "a thousand axes": "[" + ",".join(["1"] * 1_000) + "]",
    "as many as a tensor may have, and one": "[67108865]",
    "nested": "[[1]]",
}


@pytest.mark.attack(28)
@pytest.mark.fault(37)
def test_shapes_that_overflow_are_refused_and_leave_no_memory(
    world: Deployment, link: Connection, observed: Observed
) -> None:
    """Whatever the shape says, it is compared with the data before anything is made of it; nothing is charged."""
    before = left(ask(link, ONE))
    for _ in range(2):
        for shape in SHAPES.values():  # once before it is measured: what Python keeps of its first million it keeps
            refusal_of(link.infer(tensors(shape)), 400, 413, 422)
    enclave = world.processes["enclave"].pid
    pids = (enclave, world.engine_pid())
    resident = resident_mib(*pids)
    for pid in pids:
        forget_peak(pid)
    for name, shape in SHAPES.items():
        for _ in range(5):
            assert observed.refusal(refusal_of(link.infer(tensors(shape)), 400, 413, 422)), name
    wide = [announced(world.connect(), text) for text in (str(1 << 30), str(1 << 40), str((64 << 20) + 1))]
    assert {observed.refusal(one) for one in wide} == {"too_large: body_too_large"}
    grown = sum(peak_mib(pid) for pid in pids) - resident
    assert grown < MOST_MIB
    observed.figure("MiB more at most", round(grown, 1))
    assert left(ask(link, ONE)) == before - 1


def announced(link: Connection, length: str) -> dict[str, object]:
    """Announce a body, send nothing of it, and return the refusal."""
    link.link.putrequest("POST", f"/v2/models/{MODEL}/infer")
    link.link.putheader("content-type", "application/json")
    link.link.putheader("content-length", length)
    link.link.endheaders()
    response = link.link.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return refusal_of(Answer(response.status, headers, response.read()), 413)


@pytest.mark.attack(28)
@pytest.mark.fault(37)
@pytest.mark.parametrize(
    ("told", "s"),
    [
        ("engine_failed: out_of_memory", (1 << 33,)),
        ("engine_failed: out_of_memory", (1 << 20, 1 << 20)),
        *(
            ("invalid_value: model_refused_input", s)
            for s in ((1 << 62, 4), (65_536,) * 4, (-1,), (1 << 31, 1 << 31, 4))
        ),
    ],
)
def test_what_a_run_would_allocate_is_bounded(
    told: str, world: Deployment, link: Connection, s: tuple[int, ...], observed: Observed
) -> None:
    """Eight bytes of input that ask for terabytes cost the run, which is charged nothing, and not the engine."""
    engine, before = world.engine_pid(), left(ask(link, ONE))
    assert observed.refusal(refusal_of(ask(link, ONE, s=s), 422, 500)) == told
    assert world.engine_pid() == engine
    assert left(ask(link, ONE)) == before - 1


@pytest.mark.attack(29)
def test_numbers_without_a_meaning_are_numbers(link: Connection, observed: Observed) -> None:
    """NaN, infinities, zeros with a sign come back as they were, a denormal as zero; JSON cannot say them."""
    values = (math.nan, math.inf, -math.inf, -0.0, 0.0, 1e-45, -1e-45, 3.4e38)
    x = struct.pack(f"<{len(values)}f", *values)
    answer = ask(link, x)
    assert answer.status == 200
    back = struct.unpack(f"<{len(values)}f", given(answer.body, answer.headers))
    assert math.isnan(back[0])
    assert back[1:3] == (math.inf, -math.inf)
    assert [math.copysign(1, one) for one in back[3:7]] == [-1, 1, 1, -1]
    assert back[3:7] == (0, 0, 0, 0)
    assert back[7] == struct.unpack("<f", x[28:])[0]
    for text in ("NaN", "Infinity", "-Infinity", "1e39", "1e400"):
        observed.refusal(refusal_of(link.infer(tensors("[1]", f"[{text}]")), 400, 422))


@pytest.mark.attack(29)
def test_data_of_another_type_or_length_is_refused(link: Connection, observed: Observed) -> None:
    """Bytes that are no whole numbers, that belong to nobody, or that are called something else."""
    body, headers = asked(ONE)
    for changed in (
        body.replace(b'"FP32"', b'"FP16"'),
        body.replace(b'"FP32"', b'"FP64"'),
        body.replace(b'"FP32"', b'"BYTES"'),
        body.replace(b'"FP32"', b'"INT8"'),
        body[:-1],
        body + b"\0",
    ):
        end = changed.index(b"]}", changed.index(b"outputs")) + 2
        moved = headers | {"inference_header_content_length": str(end)}
        observed.refusal(refusal_of(link.infer(changed, **moved), 400, 422))


def test_binary_data_may_lie_at_any_address(link: Connection) -> None:
    """The numbers begin wherever the JSON before them ends: they are read as well at an odd address."""
    body, headers = asked(struct.pack("<3f", 1, 2, 3))
    length = int(headers["inference_header_content_length"])
    for blanks in range(9):
        moved = headers | {"inference_header_content_length": str(length + blanks)}
        answer = link.infer(b" " * blanks + body, **moved)
        assert given(answer.body, answer.headers) == struct.pack("<3f", 1, 2, 3)


@pytest.mark.attack(29)
def test_slow_inputs_end_at_the_limit_and_keep_nobody_waiting(world: Deployment, observed: Observed) -> None:
    """Days of work end at the limit of the terms, uncharged; others are answered within it, however many there are."""
    eve = world.add_consumer("eve")
    links = [eve.connect() for _ in range(RUNS)]
    mine = world.connect()
    assert ask(mine, ONE).status == 200

    def slow(link: Connection) -> tuple[float, Answer]:
        begun = time.monotonic()
        answer = ask(link, ONE, count=1 << 40)
        return time.monotonic() - begun, answer

    waits: list[float] = []
    with ThreadPoolExecutor(len(links)) as pool:
        running = [pool.submit(slow, link) for link in links]
        while not all(one.done() for one in running):
            begun = time.monotonic()
            assert ask(mine, ONE).status == 200
            waits.append(time.monotonic() - begun)
    refused = [observed.refusal(refusal_of(one.result()[1], 504)) for one in running]
    assert set(refused) == {"deadline_exceeded: compute_limit"}
    longest = max(one.result()[0] for one in running)
    # They wait for each other, two at a time; each is tried for at most twice its limit.
    assert longest < RUNS * 2 * CAP_MS / 1000
    observed.figure(f"s until the last of {RUNS} runs without an end was ended", round(longest, 1))
    assert len(waits) > 6 * RUNS
    p99 = sorted(waits)[int(len(waits) * 0.99)]
    assert p99 < CAP_MS / 1000
    observed.figure("ms that others waited (p99)", round(p99 * 1000, 1))
    world.end("enclave")  # it closes its leases, and says what was used of them
    (eves,) = [one for one in world.view("/v1/usage")["usage"] if one["consumer"] == "eve"]
    assert (eves["open_leases"], eves["charged"], eves["ok"]) == (0, {}, 0)
    world.start_enclave()
