"""A real engine under metered compute and in bound mode: what a run took is charged, one that takes too long is not."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL
from tests.enclave.site import Service, Site, asked, open_site, served

from aigovtool.codec import decode
from aigovtool.custodian.service import views
from aigovtool.enclave.gateway.asked import Asked
from aigovtool.enclave.gateway.inference import infer
from aigovtool.enclave.results import Answered
from aigovtool.errors import BudgetExhaustedError, DeadlineError, NoBudgetError
from aigovtool.ids import RequestKey
from aigovtool.ledger import entry
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.receipt import Receipt, SignedReceipt
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands as acts
from aigovtool.protocol.session import RECEIPT_HEADER, UNITS_HEADER

INFERENCES, COMPUTE = Dimension.INFERENCES, Dimension.COMPUTE_MS
FOR_EVER = 1 << 40


def loop() -> bytes:
    """Return a model that takes `count` small steps: 2**40 of them take days."""

    def value(name: str, shape: list[int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Add", ["carried", "carried"], ["next"]), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [value("step", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("carried", [64])],
        [value("go_on", [], TensorProto.BOOL), value("next", [64])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["count", "yes", "x"], ["y"], body=body)],
        "g",
        [value("count", [], TensorProto.INT64), value("x", [64])],
        [value("y", [64])],
        [helper.make_tensor("yes", TensorProto.BOOL, [], [True])],
    )
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def steps(service: Service, count: int, key: str) -> Asked:
    tensors = [
        {"name": "count", "shape": [], "datatype": "INT64", "data": [count]},
        {"name": "x", "shape": [64], "datatype": "FP32", "data": [0.0] * 64},
    ]
    return Asked(
        model=service.run.instance.models[MODEL],
        consumer=CONSUMER,
        key=RequestKey(key),
        repeatable=True,
        salt=b"",
        body=json.dumps({"inputs": tensors}).encode(),
        header_length=None,
    )


async def budget(site: Site, dimension: Dimension, limit: int) -> None:
    made = BudgetLimit(scope=Scope(model=MODEL), dimension=dimension, window=Window.LIFETIME, limit=limit)
    await site.bench.command(acts.SetBudget(limit=made))


async def rows(site: Site) -> dict[Dimension, tuple[int, int]]:
    shown = (await views.show_budgets(site.bench.custodian)).budgets
    return {row.key.dimension: (row.posted, row.pending) for row in shown}


@asynccontextmanager
async def lent(directory: Path, budgets: dict[Dimension, int], **changes: Any) -> AsyncIterator[tuple[Site, Service]]:
    """Run an instance of a model that is lent on other terms, with these budgets."""
    async with open_site(directory, **changes) as site:
        await site.bench.add_consumer(CONSUMER, BORROWER)
        for dimension, limit in budgets.items():
            await budget(site, dimension, limit)
        async with served(site) as service:
            yield site, service


def metered(compute_ms: int) -> dict[str, Any]:
    return {"graph": loop(), "policy": default_policy(Dial.BALANCED, compute_ms=compute_ms)}


def told(answered: Answered) -> tuple[str, Receipt]:
    """Return what the headers of an answer say is left, and its receipt."""
    headers = dict(answered.headers)
    signed = decode(base64.b64decode(headers[RECEIPT_HEADER]), SignedReceipt)
    return headers[UNITS_HEADER], signed.receipt


async def test_compute_is_charged_as_it_was(tmp_path: Path) -> None:
    """Begun milliseconds whole; header, receipt and ledger say the same, in each dimension."""
    async with lent(tmp_path, {INFERENCES: 10, COMPUTE: 100_000}, **metered(20_000)) as (site, service):
        header, short = told(await infer(service.run, steps(service, 1, "short")))
        assert (short.units.inferences, short.units.compute_ms >= 1) == (1, True)
        assert short.remaining.inferences == 9
        assert short.remaining.compute_ms == 100_000 - short.units.compute_ms
        assert header == f"inferences=9, compute_ms={short.remaining.compute_ms}"
        _, long = told(await infer(service.run, steps(service, 300_000, "long")))
        assert short.units.compute_ms < long.units.compute_ms <= 20_000
        await service.shut_down()
        charged = short.units.plus(long.units)
        assert await rows(site) == {INFERENCES: (2, 0), COMPUTE: (charged.compute_ms, 0)}


async def test_a_run_over_its_compute_limit_is_charged_nothing(tmp_path: Path) -> None:
    """It is ended, whoever asked is told why, and others are served on."""
    async with lent(tmp_path, {INFERENCES: 10, COMPUTE: 100_000}, **metered(1_000)) as (site, service):
        with pytest.raises(DeadlineError) as caught:
            await infer(service.run, steps(service, FOR_EVER, "endless"))
        assert caught.value.reason == "compute_limit"
        _, receipt = told(await infer(service.run, steps(service, 1, "short")))
        await service.shut_down()
        assert await rows(site) == {INFERENCES: (1, 0), COMPUTE: (receipt.units.compute_ms, 0)}


async def test_an_operator_that_outlasts_the_limit_is_not_answered(tmp_path: Path) -> None:
    """The engine looks between operators only: the last one ends late, in order, and was too long all the same."""
    changes = {"graph": product(), "policy": default_policy(Dial.BALANCED, compute_ms=10)}
    async with lent(tmp_path, {INFERENCES: 10, COMPUTE: 100_000}, **changes) as (site, service):
        body = {"inputs": [{"name": "s", "shape": [2], "datatype": "INT64", "data": [2_500, 2_500]}]}
        large = replace(asked(service.run, "large"), body=json.dumps(body).encode())
        with pytest.raises(DeadlineError) as caught:
            await infer(service.run, large)
        assert caught.value.reason == "compute_limit"
        await service.shut_down()
        assert await rows(site) == {INFERENCES: (0, 0), COMPUTE: (0, 0)}


def product() -> bytes:
    """Return a model whose last operator is a product of two matrices of the size that is asked for."""
    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["s"], ["a"]), helper.make_node("MatMul", ["a", "a"], ["y"])],
        "g",
        [helper.make_tensor_value_info("s", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
    )
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


async def test_no_more_is_charged_than_was_reserved(tmp_path: Path) -> None:
    """However long the engine took beside the run itself: the most of a request is the most of its charge."""
    async with lent(tmp_path, {INFERENCES: 100, COMPUTE: 100_000}, **metered(1)) as (site, service):
        charges = []
        for number in range(20):
            try:
                _, receipt = told(await infer(service.run, steps(service, 1, f"k{number}")))
            except DeadlineError as error:
                assert error.reason == "compute_limit"
                continue
            charges.append(receipt.units.compute_ms)
        await service.shut_down()
        assert set(charges) <= {1}
        assert await rows(site) == {INFERENCES: (len(charges), 0), COMPUTE: (len(charges), 0)}


async def served_in_the_end(service: Service) -> Answered:
    """Ask until the push that tells of more budget has arrived."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await infer(service.run, steps(service, 1, "again"))
            except BudgetExhaustedError:
                await asyncio.wait([service.run._changed], timeout=0.2)


async def test_exhaustion_of_compute_alone_is_refused_by_name(tmp_path: Path) -> None:
    """Inferences are left in plenty: the refusal says what is not, and as soon as there is more of it, it serves."""
    async with lent(tmp_path, {INFERENCES: 10, COMPUTE: 0}, **metered(20_000)) as (site, service):
        for number in range(2):
            with pytest.raises(BudgetExhaustedError) as caught:
                await infer(service.run, steps(service, 1, f"k{number}"))
            assert caught.value.status == 402
            assert "compute_ms" in caught.value.message
        await budget(site, COMPUTE, 100_000)
        _, receipt = told(await served_in_the_end(service))
        assert receipt.units.inferences == 1


async def test_both_dimensions_need_a_budget(tmp_path: Path) -> None:
    """A budget of inferences alone serves nobody where compute is metered, too."""
    async with lent(tmp_path, {INFERENCES: 10}, **metered(20_000)) as (site, service):
        with pytest.raises(NoBudgetError):
            await infer(service.run, steps(service, 1, "k1"))
        await service.shut_down()
        assert await rows(site) == {INFERENCES: (0, 0)}


async def test_in_bound_mode_each_request_has_a_lease_of_its_own(tmp_path: Path) -> None:
    """Named by its digest in the log, and given back with what it did not use: nothing stays in stock."""
    policy = default_policy(Dial.BOUND)
    async with lent(tmp_path, {INFERENCES: 10}, policy=policy) as (site, service):
        receipts = [told(await infer(service.run, asked(service.run, f"k{n}", rows=n)))[1] for n in (1, 2, 3)]
        assert [receipt.units.inferences for receipt in receipts] == [1, 2, 3]
        await service.shut_down()
        granted = [line for line in await site.bench.log() if isinstance(line, entry.LeaseGranted)]
        assert [line.units.inferences for line in granted] == [1, 2, 3]
        assert [line.lease_id for line in granted] == [receipt.lease_id for receipt in receipts]
        assert len({line.request for line in granted} - {None}) == 3
        assert await rows(site) == {INFERENCES: (6, 0)}
