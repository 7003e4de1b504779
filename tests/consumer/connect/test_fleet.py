"""Several enclaves behind one gateway: who is asked, who is asked next, and that nobody is charged twice."""

import asyncio
import threading

import pytest
from starlette.responses import Response
from tests.consumer.conftest import FakeEnclave, World
from tests.consumer.connect.kit import connected, in_json, reason_of

from aigovtool.consumer import lines
from aigovtool.consumer.connect import api
from aigovtool.errors import (
    AIGovToolError,
    BudgetExhaustedError,
    BudgetReservedError,
    EngineError,
    ForbiddenError,
    InvalidValueError,
    LeaseCappedError,
    LeaseExpiredError,
    OverloadedError,
    StoppedError,
    UnauthenticatedError,
)

#: What another enclave may not say: it has leases of its own, an engine of its own, authority of its own.
ELSEWHERE = [
    BudgetExhaustedError("nothing left", reason="exhausted"),
    BudgetReservedError("held by others", reason="held"),
    LeaseCappedError("no more than that", reason="capped"),
    LeaseExpiredError("no authority", reason="expired"),
    OverloadedError("busy", reason="busy", retry_after_s=1),
    EngineError("the engine died", reason="engine_died"),
    StoppedError("this enclave is stopped", reason="enclave_stopped"),
    UnauthenticatedError("this credential is not known here", reason="bad_credential"),
]


@pytest.fixture
def others(world: World, enclave: FakeEnclave) -> tuple[FakeEnclave, FakeEnclave]:
    """Two enclaves with the same model, as two hosts of one borrower are."""
    both = enclave, world.enclave()
    for one in both:
        one.remaining = 1_000
    return both


@pytest.mark.parametrize("error", ELSEWHERE, ids=lambda error: error.code)
async def test_what_one_refuses_another_may_answer(
    error: AIGovToolError, world: World, others: tuple[FakeEnclave, FakeEnclave]
) -> None:
    """Under the same request id; the program sees an answer, and one of them has charged for it."""
    first, second = others
    first.refusals = [error] * 3
    second.refusals = [error] * 0
    async with connected(world, first, second) as asking:
        answers = [await asking.infer(aigovtool_request_id=f"k{number}") for number in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert second.charged == ["k0", "k1"]
    assert first.charged == []


@pytest.mark.parametrize(
    "error", [InvalidValueError("wrong", reason="wrong_rank"), ForbiddenError("not you", reason="foreign_consumer")]
)
async def test_what_is_wrong_with_a_request_is_asked_of_one_only(
    error: AIGovToolError, world: World, others: tuple[FakeEnclave, FakeEnclave]
) -> None:
    """It is as wrong everywhere."""
    first, second = others
    first.refusals = [error]
    async with connected(world, first, second) as asking:
        assert (await asking.infer()).status_code == error.status
    assert (first.charged, second.charged) == ([], [])


async def test_one_that_is_gone_is_passed_over(world: World, others: tuple[FakeEnclave, FakeEnclave]) -> None:
    """Nothing was received there, so the other one is asked; and it is asked first from then on."""
    first, second = others
    async with connected(world, first, second) as asking:
        first.served.stop()
        answers = [await asking.infer() for _ in range(3)]
        states = {one["enclave"]: (one["state"], one["failed"]) for one in (await asking.status())["enclaves"]}
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(second.charged) == 3
    assert states[first.url] == ("unreachable", 1)


async def test_a_request_with_an_unknown_outcome_goes_nowhere_else(
    world: World, others: tuple[FakeEnclave, FakeEnclave]
) -> None:
    """Attack: the host cuts each answer off. The other enclave does not know the id, and would charge again."""
    first, second = others
    first.lose_answers = 2
    async with connected(world, first, second) as asking:
        answer = await asking.infer(aigovtool_request_id="case-1")
        assert answer.status_code >= 400
        assert "case-1" in answer.json()["fix"]
        # Whoever looks at the status is told of the enclave, and nothing of what was asked.
        assert "case-1" not in (await asking.program.get("/aigovtool/status")).text
        assert (first.charged, second.charged) == (["case-1"], [])
        again = await asking.infer(aigovtool_request_id="case-1")
    assert again.status_code == 200
    assert (first.charged, second.charged) == (["case-1"], [])


async def test_a_single_lost_answer_is_not_noticed(world: World, enclave: FakeEnclave) -> None:
    """It is asked for again where it was made, under its id."""
    enclave.lose_answers = 1
    async with connected(world, enclave) as asking:
        assert (await asking.infer()).status_code == 200
    assert len(enclave.charged) == 1


async def test_silence_until_the_time_is_over_is_told_with_the_id(
    world: World, others: tuple[FakeEnclave, FakeEnclave], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stays and nothing comes: it may have been charged, so the other enclave is not asked."""
    first, second = others
    held = threading.Event()

    def hold(answer: Response) -> Response:
        held.wait(20)
        return answer

    async with connected(world, first, second) as asking:
        monkeypatch.setattr(api, "DEADLINE_S", 1.0)
        first.forge_answer = hold
        answer = await asking.infer(aigovtool_request_id="case-1")
        held.set()
        assert (answer.status_code, reason_of(answer)) == (504, "answer_timeout")
        assert "case-1" in answer.json()["fix"]
        again = await asking.infer(aigovtool_request_id="case-1")
    assert again.status_code == 200
    assert (first.charged, second.charged) == (["case-1"], [])


async def test_with_may_charge_the_other_one_is_asked(world: World, others: tuple[FakeEnclave, FakeEnclave]) -> None:
    """Whoever prefers an answer to a unit says so; it is never the default."""
    first, second = others
    first.lose_answers = 2
    async with connected(world, first, second, retry="may-charge") as asking:
        assert (await asking.infer(aigovtool_request_id="case-1")).status_code == 200
    assert (first.charged, second.charged) == (["case-1"], ["case-1"])


async def test_the_load_is_shared(world: World, others: tuple[FakeEnclave, FakeEnclave]) -> None:
    """Whoever has the fewest requests under way is asked."""
    first, second = others
    async with connected(world, first, second) as asking:
        answers = await asyncio.gather(*(asking.infer() for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(first.charged) + len(second.charged) == 40
    assert min(len(first.charged), len(second.charged)) >= 5


async def test_one_that_was_short_of_units_is_asked_later(
    world: World, others: tuple[FakeEnclave, FakeEnclave]
) -> None:
    """For a while the other one is asked first: a refusal costs a round trip."""
    first, second = others
    first.refusals = [LeaseCappedError("no more", reason="capped", retry_after_s=30) for _ in range(9)]
    async with connected(world, first, second) as asking:
        for _ in range(5):
            assert (await asking.infer()).status_code == 200
    assert len(first.refusals) >= 8


async def test_of_several_refusals_the_most_telling_is_told(
    world: World, others: tuple[FakeEnclave, FakeEnclave]
) -> None:
    """A stop is a decision; that the other one is busy passes."""
    first, second = others
    first.refusals = [OverloadedError("busy", reason="busy", retry_after_s=1)]
    second.refusals = [StoppedError("stopped", reason="model_stopped")]
    async with connected(world, first, second) as asking:
        answer = await asking.infer()
    assert (answer.status_code, reason_of(answer)) == (423, "model_stopped")


async def test_the_same_address_twice_is_one_enclave(world: World, enclave: FakeEnclave) -> None:
    """Whoever names it twice does not get it asked twice."""
    urls = [enclave.url, enclave.url + "/"]
    async with connected(world, enclave, enclaves=urls) as asking:
        assert len((await asking.status())["enclaves"]) == 1


async def test_many_programs_at_once_get_their_own_answers(
    world: World, others: tuple[FakeEnclave, FakeEnclave]
) -> None:
    """Each its rows, whichever enclave answered."""
    async with connected(world, *others) as asking:
        answers = await asyncio.gather(*(asking.infer(in_json(rows)) for rows in range(1, 21)))
    found = [{output["name"]: output["data"] for output in answer.json()["outputs"]}["n"] for answer in answers]
    assert found == [[rows] for rows in range(1, 21)]


async def test_more_requests_than_connections_say_nothing_of_the_enclave(
    world: World, enclave: FakeEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for one for too long is told to come again; the enclave is believed as before."""
    begun, held = threading.Event(), threading.Event()

    def hold(answer: Response) -> Response:
        begun.set()
        assert held.wait(20)
        return answer

    monkeypatch.setattr(lines, "_MOST", 1)
    async with connected(world, enclave) as asking:
        assert (await asking.infer()).status_code == 200  # the connection stays
        monkeypatch.setattr(lines, "CONNECT_TIMEOUT_S", 0.2)
        enclave.forge_answer = hold
        first = asyncio.create_task(asking.infer())
        assert await asyncio.to_thread(begun.wait, 10)
        crowded = await asking.infer()
        held.set()
        assert (await first).status_code == 200
        assert (crowded.status_code, reason_of(crowded), crowded.headers["retry-after"]) == (429, "crowded", "1")
        status = (await asking.status())["enclaves"][0]
        assert (status["state"], status["answered"], status["refused"], status["failed"]) == ("verified", 2, 1, 0)
    assert len(enclave.charged) == 2
