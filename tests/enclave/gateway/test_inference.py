"""One inference, from the request to the answer that may leave: what is charged is released, and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from tests.custodian.conftest import BORROWER, CONSUMER
from tests.enclave.site import Service, Site, asked, served

from aigovtool.enclave.gateway.inference import infer
from aigovtool.enclave.results import Answered
from aigovtool.enclave.room import Room
from aigovtool.errors import FaultError, OverloadedError

UNSIGNABLE = bytes(300)  # a salt whose length fits no byte: the receipt cannot be made


@pytest.fixture
async def service(site: Site) -> AsyncIterator[Service]:
    """An instance with a budget of ten."""
    await site.bench.add_consumer(CONSUMER, BORROWER)
    await site.bench.grant(10)
    async with served(site) as made:
        yield made


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_run_that_cannot_be_signed_is_charged_nothing(
    repeatable: bool,  # noqa: FBT001 -- case
    site: Site,
    service: Service,
) -> None:
    """The receipt comes before the charge: the consumer gets a typed error, and its request id is free."""
    run = service.run
    with pytest.raises(FaultError) as caught:
        await infer(run, asked(run, salt=UNSIGNABLE, repeatable=repeatable))
    assert caught.value.reason == "internal"
    answered = await infer(run, asked(run))
    assert json.loads(answered.body)["outputs"][0]["data"] == [1.0, 2.0]
    await service.shut_down()
    assert (await site.posted(), await site.pending()) == (1, 0)


async def test_a_chosen_id_is_charged_once(site: Site, service: Service) -> None:
    """Ten at a time and one later: one run, one answer."""
    run = service.run
    answers = await asyncio.gather(*(infer(run, asked(run)) for _ in range(10)))
    answers.append(await infer(run, asked(run)))
    assert len(set(answers)) == 1
    await service.shut_down()
    assert await site.posted() == 1


async def test_of_an_id_that_the_enclave_made_nothing_is_kept(site: Site, service: Service) -> None:
    """Who got no answer never saw it, and who got one needs no other: each request is a run."""
    run = service.run
    for _ in range(3):
        await infer(run, asked(run, repeatable=False))
    assert (run.results._kept, run.results._accounts) == ({}, {})
    await service.shut_down()
    assert await site.posted() == 3


async def test_requests_that_wait_are_bounded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold their bodies for up to a minute, also when their clients are gone: the next is refused at once."""
    run = service.run
    monkeypatch.setattr(run, "_queue", Room(2, 3, "too_many_waiting"))
    answers = await asyncio.gather(
        *(infer(run, asked(run, f"k{number}")) for number in range(4)), return_exceptions=True
    )
    refusals = [answer for answer in answers if isinstance(answer, OverloadedError)]
    assert [(refusal.reason, refusal.retry_after_s) for refusal in refusals] == [("too_many_waiting", 1)] * 2
    assert len([answer for answer in answers if isinstance(answer, Answered)]) == 2
