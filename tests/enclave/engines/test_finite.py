"""Inputs that are no numbers, for models whose terms do not take them."""

import math
from typing import Any

import numpy as np
import pytest

from aigovtool.enclave.engines import finite
from aigovtool.enclave.engines.finite import require_finite
from aigovtool.enclave.engines.process import EngineProcess
from aigovtool.errors import DeadlineError, InvalidValueError
from aigovtool.ids import ConsumerId
from aigovtool.protocol.tensor import Datatype, Tensor

ANN = ConsumerId("ann")
MINUTE_MS = 60_000
FOR_EVER = 1 << 63
DATATYPES = {"<f2": Datatype.FP16, "<f4": Datatype.FP32, "<f8": Datatype.FP64}


def tensor(values: list[float], dtype: str = "<f4", name: str = "x") -> Tensor:
    return Tensor(name, DATATYPES[dtype], (len(values),), np.array(values, dtype).tobytes())


@pytest.mark.parametrize("dtype", DATATYPES)
@pytest.mark.parametrize("place", [0, 4, 9])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_element_that_is_no_number_is_found(
    value: float, place: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is, in whichever input, also where they are looked at in pieces; its place is not told."""
    monkeypatch.setattr(finite, "_BLOCK", 3)
    values = [1.0] * 10
    require_finite([tensor(values, dtype)], FOR_EVER)
    values[place] = value
    with pytest.raises(InvalidValueError) as caught:
        require_finite([tensor([0.0]), tensor(values, dtype, "scans")], FOR_EVER)
    assert (caught.value.reason, caught.value.status) == ("not_finite", 422)
    assert caught.value.message == "input 'scans' holds NaN or an infinity, which this model does not take"


@pytest.mark.parametrize("dtype", DATATYPES)
def test_every_number_is_taken(dtype: str) -> None:
    """The largest and the least, zeros of both signs, denormals, and none at all."""
    limits = np.finfo(np.dtype(dtype))
    values = [limits.max, limits.min, 0.0, -0.0, limits.smallest_subnormal, -limits.smallest_subnormal]
    require_finite([tensor([float(value) for value in values], dtype), tensor([], dtype)], FOR_EVER)


def test_what_has_no_such_elements_is_not_looked_at() -> None:
    """Whole numbers and texts may have any bytes."""
    for datatype in (Datatype.INT64, Datatype.UINT8, Datatype.BOOL, Datatype.BYTES):
        require_finite([Tensor("x", datatype, (8,), b"\xff" * 8)], FOR_EVER)


def test_looking_is_a_part_of_the_run() -> None:
    """It ends with the time that the run has."""
    with pytest.raises(DeadlineError):
        require_finite([tensor([1.0])], 0)


async def test_the_engine_refuses_them_where_it_is_told_to(kit: Any, process: EngineProcess, double: Any) -> None:
    """Before the model sees them; without the demand they are numbers like others."""
    model = await double.load(process)
    given = [kit.fp32("x", [1.0, math.inf])]
    with pytest.raises(InvalidValueError) as caught:
        await process.run(model, given, [], MINUTE_MS, consumer=ANN, finite=True)
    assert caught.value.reason == "not_finite"
    for array, demanded in ((given, False), ([kit.fp32("x", [1.0, 2.0])], True)):
        await process.run(model, array, [], MINUTE_MS, consumer=ANN, finite=demanded)
