"""One inference, from the request to the answer that may leave: what is charged is released, and nothing else."""

import json
from collections.abc import AsyncIterator

import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL
from tests.enclave.site import Service, Site, served

from aigovtool.enclave.gateway.inference import Asked, infer
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.errors import EngineError
from aigovtool.ids import RequestKey

UNSIGNABLE = bytes(300)  # a salt whose length fits no byte: the receipt cannot be made


@pytest.fixture
async def service(site: Site) -> AsyncIterator[Service]:
    """An instance with a budget of ten."""
    await site.bench.add_consumer(CONSUMER, BORROWER)
    await site.bench.grant(10)
    async with served(site) as made:
        yield made


def asked(run: InstanceRun, key: str = "k1", *, rows: int = 1, salt: bytes = b"") -> Asked:
    tensor = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": [1.0, 2.0] * rows}
    body = json.dumps({"inputs": [tensor]}).encode()
    model = run.instance.models[MODEL]
    return Asked(model=model, consumer=CONSUMER, key=RequestKey(key), salt=salt, body=body, header_length=None)


async def test_a_run_that_cannot_be_signed_is_charged_nothing(site: Site, service: Service) -> None:
    """The receipt comes before the charge: the consumer gets a typed error, and its request id is free."""
    run = service.run
    with pytest.raises(EngineError) as caught:
        await infer(run, asked(run, salt=UNSIGNABLE))
    assert caught.value.reason == "internal"
    answered = await infer(run, asked(run))
    assert json.loads(answered.body)["outputs"][0]["data"] == [1.0, 2.0]
    await service.shut_down()
    assert (await site.posted(), await site.pending()) == (1, 0)
