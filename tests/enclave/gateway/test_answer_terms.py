"""Answers on a model's terms, from a real engine: what was made on looser ones than those in force does not leave."""

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL
from tests.enclave.site import Service, Site, asked, open_site, served

from aigovtool.codec import decode
from aigovtool.enclave.engines.process import EngineProcess
from aigovtool.enclave.gateway.inference import infer
from aigovtool.enclave.results import Answered
from aigovtool.errors import ConflictError, ForbiddenError
from aigovtool.ledger.answers import AnswerTerms, OutputRule
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.receipt import SignedReceipt, salted_digest
from aigovtool.protocol import commands as acts
from aigovtool.protocol.session import RECEIPT_HEADER

LARGEST = AnswerTerms(outputs=(OutputRule(name="y", top_k=1),))
PADDED = AnswerTerms(pad_bytes=1_024)
ROUNDED = AnswerTerms(outputs=(OutputRule(name="y", decimals=0),))


@pytest.fixture
async def lent(tmp_path: Path) -> AsyncIterator[Site]:
    """A model with one output, of which the largest of each row leaves; a budget of a thousand."""
    policy = msgspec.structs.replace(default_policy(Dial.BALANCED), answers=LARGEST)
    async with open_site(tmp_path, policy=policy) as site:
        await site.bench.add_consumer(CONSUMER, BORROWER)
        await site.bench.grant(1_000)
        yield site


@pytest.fixture
async def service(lent: Site) -> AsyncIterator[Service]:
    """An instance that serves it."""
    async with served(lent) as made:
        yield made


async def order(site: Site, service: Service, terms: AnswerTerms | None, version: int) -> None:
    """Order other terms, and wait until the instance was told."""
    policy = msgspec.structs.replace(default_policy(Dial.BALANCED, version=version), answers=terms)
    await site.bench.command(acts.SetModelTerms(model=MODEL, policy=policy, borrowers=[BORROWER]))
    async with asyncio.timeout(20):
        while service.run.charging.terms(MODEL).answers != terms:  # noqa: ASYNC110 -- the instance tells nobody
            await asyncio.sleep(0.01)


def data(answered: Answered) -> Any:
    return json.loads(answered.body)["outputs"][0]["data"]


async def test_new_terms_reach_a_running_instance(lent: Site, service: Service) -> None:
    """Stricter or looser, one after the other, without a boot: the push brings them at once."""
    run = service.run
    assert data(await infer(run, asked(run))) == [0.0, 2.0]
    for version, (terms, left) in enumerate([(None, [1.0, 2.0]), (ROUNDED, [1.0, 2.0]), (LARGEST, [0.0, 2.0])], 2):
        await order(lent, service, terms, version)
        assert data(await infer(run, asked(run, f"v{version}"))) == left


def tightening(lent: Site, service: Service, monkeypatch: pytest.MonkeyPatch, *steps: AnswerTerms | None) -> None:
    """Have each run of the engine end only when the next of these terms are known to the instance."""
    real, versions, left = EngineProcess.run, itertools.count(100), list(steps)

    async def slowly(*arguments: Any, **options: Any) -> Any:
        ran = await real(*arguments, **options)
        if left:
            await order(lent, service, left.pop(0), next(versions))
        return ran

    monkeypatch.setattr(EngineProcess, "run", slowly)


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_request_under_way_is_answered_on_the_stricter_terms(
    repeatable: bool,  # noqa: FBT001 -- case
    lent: Site,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The terms changed while the engine ran: it runs once more, and is charged once."""
    run = service.run
    await order(lent, service, None, 2)
    tightening(lent, service, monkeypatch, LARGEST)
    assert data(await infer(run, asked(run, repeatable=repeatable))) == [0.0, 2.0]
    await service.shut_down()
    assert await lent.posted() == 1


@pytest.mark.parametrize("repeatable", [True, False])
async def test_an_answer_on_looser_terms_is_not_charged_and_does_not_leave(
    repeatable: bool,  # noqa: FBT001 -- case
    lent: Site,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They changed twice while it ran: refused, and its id is free again."""
    run = service.run
    await order(lent, service, None, 2)
    tightening(lent, service, monkeypatch, LARGEST, PADDED)
    with pytest.raises(ConflictError) as caught:
        await infer(run, asked(run, repeatable=repeatable))
    assert caught.value.reason == "terms_changed"
    assert data(await infer(run, asked(run, repeatable=repeatable))) == [1.0, 2.0]
    await service.shut_down()
    assert await lent.posted() == 1


async def test_a_kept_answer_leaves_while_the_terms_allow_it(lent: Site, service: Service) -> None:
    """Not on stricter ones, nor where sizes say less; and again when they are as loose as before."""
    run = service.run
    await order(lent, service, None, 2)
    kept = await infer(run, asked(run))
    for version, terms in enumerate([LARGEST, PADDED, ROUNDED], 3):
        await order(lent, service, terms, version)
        with pytest.raises(ConflictError) as caught:
            await infer(run, asked(run))
        assert caught.value.reason == "terms_changed"
    await order(lent, service, None, 6)
    assert await infer(run, asked(run)) == kept
    await service.shut_down()
    assert await lent.posted() == 1


async def test_the_receipt_is_for_the_padded_answer(lent: Site, service: Service) -> None:
    """It names the bytes that leave."""
    run = service.run
    await order(lent, service, PADDED, 2)
    answered = await infer(run, replace(asked(run), salt=b"s" * 32))
    assert len(answered.body) == 1_024
    headers = dict(answered.headers)
    assert "aigovtool-padding" in headers
    signed = decode(base64.b64decode(headers[RECEIPT_HEADER]), SignedReceipt)
    assert signed.receipt.response == salted_digest(b"s" * 32, "response", [answered.body])


async def test_rules_that_cannot_be_kept_let_nothing_leave(service: Service, lent: Site) -> None:
    """Had they been ordered all the same (the custodian refuses them): refused, charged nothing."""
    run = service.run
    for terms in (
        AnswerTerms(outputs=(OutputRule(name="other"),), only_named=True),
        AnswerTerms(outputs=(OutputRule(name="y", hide=True),)),
    ):
        policies = run._meter.terms._policies
        policies[MODEL] = msgspec.structs.replace(policies[MODEL], answers=terms)
        with pytest.raises(ForbiddenError) as caught:
            await infer(run, asked(run, repeatable=False))
        assert caught.value.reason == "output_withheld"
    await service.shut_down()
    assert await lent.posted() == 0
