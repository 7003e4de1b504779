"""What a model's terms say of charges and answers is kept for requests that are answered together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL
from tests.enclave.gateway.fast import Fast, binary, in_json, outputs_of, parts, receipt_of
from tests.enclave.site import Service, Site, open_site, served

from aigovtool.custodian.service import views
from aigovtool.enclave.gateway.padding import HEAD_BYTES
from aigovtool.ledger.answers import AnswerTerms, OutputRule
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands as acts

MOST_MS = 50
INFERENCES, COMPUTE = Dimension.INFERENCES, Dimension.COMPUTE_MS


@asynccontextmanager
async def lent(directory: Path, **changes: Any) -> AsyncIterator[tuple[Site, Service, Fast]]:
    """Run an instance of a model on such terms, with a million of each unit."""
    async with open_site(directory, **changes) as site:
        await site.bench.add_consumer(CONSUMER, BORROWER)
        for dimension in site.bench.policy.counts:
            limit = BudgetLimit(scope=Scope(model=MODEL), dimension=dimension, window=Window.LIFETIME, limit=1_000_000)
            await site.bench.command(acts.SetBudget(limit=limit))
        async with served(site) as service:
            fast = Fast(service)
            await fast.warm(at_once=12)
            yield site, service, fast


async def posted(site: Site) -> dict[Dimension, int]:
    """Return what is charged for good of each unit."""
    return {row.key.dimension: row.posted for row in (await views.show_budgets(site.bench.custodian)).budgets}


async def test_each_request_is_charged_the_compute_that_it_took(tmp_path: Path) -> None:
    """A begun millisecond at the least, at the most what it reserved; the receipts add up to what the ledger has."""
    charged = {INFERENCES: 0, COMPUTE: 0}
    async with lent(tmp_path, policy=default_policy(Dial.BALANCED, compute_ms=MOST_MS)) as (site, service, fast):
        before = service.run.instance.meter.remaining(MODEL, CONSUMER)
        answers = await asyncio.gather(*(fast.ask() for _ in range(12)))
        for answer in answers:
            fields, _ = parts(answer)
            units = receipt_of(answer).receipt.units
            assert units.inferences == 1
            assert 1 <= units.compute_ms <= MOST_MS
            assert "compute_ms=" in fields["aigovtool-units-remaining"]
            charged = {INFERENCES: charged[INFERENCES] + 1, COMPUTE: charged[COMPUTE] + units.compute_ms}
        after = service.run.instance.meter.remaining(MODEL, CONSUMER)
        assert before.inferences - after.inferences == charged[INFERENCES]
        assert before.compute_ms - after.compute_ms == charged[COMPUTE]
        await service.shut_down()
        assert (await posted(site))[INFERENCES] == fast.charged


@pytest.mark.parametrize("body", [binary((1.0, 2.0)), in_json((1.0, 2.0)), in_json((0.123456, 2.0))])
async def test_answers_have_the_sizes_that_the_terms_say(body: tuple[bytes, str | None], tmp_path: Path) -> None:
    """Whatever is in them: head and body are filled up as they are the long way."""
    policy = msgspec.structs.replace(default_policy(Dial.BALANCED), answers=AnswerTerms(pad_bytes=1_024))
    async with lent(tmp_path, policy=policy) as (_, _, fast):
        for answer in await asyncio.gather(*(fast.ask(body) for _ in range(5))):
            fields, content = parts(answer)
            assert len(content) == 1_024
            own = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if name not in UNFILLED)
            assert len(own) % HEAD_BYTES == 0


#: What the server adds to each head, and which is always as long.
UNFILLED = {"content-length", "aigovtool-warning"}


async def test_what_may_not_leave_does_not_leave_together(tmp_path: Path) -> None:
    """Of each row the largest; the receipt is of what has left."""
    rule = OutputRule(name="y", top_k=1)
    policy = msgspec.structs.replace(default_policy(Dial.BALANCED), answers=AnswerTerms(outputs=(rule,)))
    async with lent(tmp_path, policy=policy) as (_, _, fast):
        answers = await asyncio.gather(*(fast.ask(binary((number, 2.5))) for number in range(6)))
    assert [outputs_of(answer) for answer in answers] == [
        [number, 0.0] if number > 2.5 else [0.0, 2.5] for number in range(6)
    ]
