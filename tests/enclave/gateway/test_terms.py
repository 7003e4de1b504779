"""Bounds of runs and inputs, from a real engine, as the terms say while the instance serves."""

import asyncio
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, MODEL
from tests.enclave.gateway.test_metered import COMPUTE, FOR_EVER, INFERENCES, lent, loop, metered, rows, steps
from tests.enclave.site import Service, Site, asked

from aigovtool.enclave.gateway.asked import Asked
from aigovtool.enclave.gateway.inference import infer
from aigovtool.errors import DeadlineError, InvalidValueError
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.protocol import commands as acts

PLAIN = default_policy(Dial.BALANCED)
FINITE = InputTerms(finite=True)


async def order(site: Site, service: Service, policy: ServingPolicy) -> None:
    """Order other terms, and wait until the instance was told."""
    present = service.run.charging.terms(MODEL)
    await site.bench.command(acts.SetModelTerms(model=MODEL, policy=policy, borrowers=[BORROWER]))
    async with asyncio.timeout(20):
        while service.run.charging.terms(MODEL) == present:  # noqa: ASYNC110 -- the instance tells nobody
            await asyncio.sleep(0.01)


def changed(policy: ServingPolicy, version: int, **members: Any) -> ServingPolicy:
    return msgspec.structs.replace(policy, version=version, **members)


def binary(service: Service, *values: float, key: str) -> Asked:
    """Return a request with such numbers, in the form that can say them."""
    data = struct.pack(f"<{len(values)}f", *values)
    tensor = {
        "name": "x",
        "shape": [len(values) // 2, 2],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return replace(asked(service.run, key), body=head + data, header_length=str(len(head)))


async def test_a_run_ends_at_the_terms_of_when_it_began(tmp_path: Path) -> None:
    """Days of work end at the model's limit, which nothing is metered for; nothing is charged."""
    async with lent(tmp_path, {INFERENCES: 10}, graph=loop(), policy=PLAIN) as (site, service):
        await order(site, service, changed(PLAIN, 2, max_run_ms=300))
        with pytest.raises(DeadlineError) as caught:
            await infer(service.run, steps(service, FOR_EVER, "endless"))
        assert (caught.value.reason, "300 ms" in caught.value.message) == ("compute_limit", True)
        await infer(service.run, steps(service, 1, "short"))
        await service.shut_down()
        assert await rows(site) == {INFERENCES: (1, 0)}


async def test_where_compute_is_metered_the_lesser_limit_counts(tmp_path: Path) -> None:
    """A request reserves as it would, and its run ends sooner."""
    async with lent(tmp_path, {INFERENCES: 10, COMPUTE: 100_000}, **metered(20_000)) as (site, service):
        policy = default_policy(Dial.BALANCED, compute_ms=20_000)
        await order(site, service, changed(policy, 2, max_run_ms=200))
        with pytest.raises(DeadlineError) as caught:
            await infer(service.run, steps(service, FOR_EVER, "endless"))
        assert (caught.value.reason, "200 ms" in caught.value.message) == ("compute_limit", True)


async def test_a_run_under_way_keeps_what_it_reserved(tmp_path: Path) -> None:
    """Later ones reserve what they may take now, which is all that is left, and end at it; nobody is charged."""
    async with lent(tmp_path, {INFERENCES: 10_000, COMPUTE: 3_300}, **metered(3_000)) as (site, service):
        first = asyncio.create_task(infer(service.run, steps(service, FOR_EVER, "first")))
        await asyncio.sleep(0.3)
        await order(site, service, changed(default_policy(Dial.BALANCED, compute_ms=250), 2))
        with pytest.raises(DeadlineError) as caught:
            await infer(service.run, steps(service, FOR_EVER, "second"))
        assert "250 ms" in caught.value.message
        assert not first.done()
        with pytest.raises(DeadlineError) as caught:
            await first
        assert "3000 ms" in caught.value.message
        await service.shut_down()
        assert await rows(site) == {INFERENCES: (0, 0), COMPUTE: (0, 0)}


async def test_numbers_only_where_the_terms_demand_it(tmp_path: Path) -> None:
    """NaN and infinities are refused, charged nothing, while it is so; an id that was refused is free again."""
    async with lent(tmp_path, {INFERENCES: 10}) as (site, service):
        await infer(service.run, binary(service, 1.0, float("nan"), key="before"))
        await order(site, service, changed(PLAIN, 2, inputs=FINITE))
        for value in ("nan", "inf", "-inf"):
            with pytest.raises(InvalidValueError) as caught:
                await infer(service.run, binary(service, 1.0, float(value), key="again"))
            assert (caught.value.reason, caught.value.status) == ("not_finite", 422)
        await infer(service.run, binary(service, 1.0, -0.0, key="numbers"))
        await order(site, service, changed(PLAIN, 3))
        await infer(service.run, binary(service, 1.0, float("inf"), key="again"))
        await service.shut_down()
        assert await rows(site) == {INFERENCES: (3, 0)}
