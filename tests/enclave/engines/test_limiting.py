"""What of an output may leave: exactly so many elements, the largest, so exact and no more."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aigovtool.enclave.engines import limiting
from aigovtool.enclave.engines.ipc import Limit
from aigovtool.enclave.engines.limiting import limited
from aigovtool.enclave.engines.process import EngineProcess
from aigovtool.errors import DeadlineError, EngineError
from aigovtool.ids import ConsumerId
from aigovtool.protocol.tensor import Datatype, Tensor

Array = npt.NDArray[Any]
DATATYPES = {"<f2": Datatype.FP16, "<f4": Datatype.FP32, "<f8": Datatype.FP64}
FOR_EVER = 1 << 63
NAN, INF = math.nan, math.inf


def through(array: Array, top_k: int | None = None, decimals: int | None = None, *, lowest: bool = False) -> Array:
    """Return what leaves of an array."""
    tensor = Tensor("y", DATATYPES[array.dtype.str], array.shape, array.tobytes())
    (made,) = limited([tensor], [Limit("y", top_k, lowest, decimals)], FOR_EVER)
    assert (made.name, made.datatype, made.shape) == (tensor.name, tensor.datatype, tensor.shape)
    return np.frombuffer(made.data, array.dtype).reshape(array.shape)


@pytest.mark.parametrize(
    ("row", "top_k", "left"),
    [
        ([1, 3, 2], 1, [0, 3, 0]),
        ([1, 3, 2], 2, [0, 3, 2]),
        ([1, 3, 2], 3, [1, 3, 2]),
        ([1, 3, 2], 9, [1, 3, 2]),
        ([2, 2, 2, 2], 2, [2, 2, 0, 0]),
        ([1, 2, 2, 2], 2, [0, 2, 2, 0]),
        ([-1, -3, -2], 1, [-1, 0, 0]),
        ([NAN, 1, 2], 1, [0, 0, 2]),
        ([NAN, 1, NAN], 2, [NAN, 1, 0]),
        ([NAN, -INF, NAN], 1, [0, -INF, 0]),
        ([INF, 1, -INF], 1, [INF, 0, 0]),
        ([], 1, []),
    ],
)
def test_the_largest_stay_and_the_first_of_equal_ones(row: list[float], top_k: int, left: list[float]) -> None:
    """Exactly so many; what is no number counts as less than any number."""
    np.testing.assert_array_equal(through(np.array([row], "<f4"), top_k), np.array([left], "<f4"))


def test_each_row_of_the_last_axis_has_its_own_largest() -> None:
    """Of a batch, and of a batch of sequences; a single number has itself."""
    array = np.arange(24, dtype="<f4").reshape(2, 3, 4)
    left = through(array, 1)
    assert np.count_nonzero(left) == 6
    assert (left[..., :3] == 0).all()
    assert through(np.array(7, "<f4"), 1) == 7


@pytest.mark.parametrize("kind", DATATYPES)
def test_the_fill_for_logits_is_less_than_any_logit(kind: str) -> None:
    """And finite, so that JSON can say it; also where the rest is rounded."""
    left = through(np.array([[-3.25, -1.125, -2]], kind), 1, 1, lowest=True)
    assert list(left[0]) == [np.finfo(kind).min, np.dtype(kind).type(-1.1), np.finfo(kind).min]
    assert left.argmax() == 1


@pytest.mark.parametrize(
    ("value", "decimals", "left"),
    [
        (0.125, 2, 0.12),
        (0.375, 2, 0.38),
        (2.5, 0, 2.0),
        (3.5, 0, 4.0),
        (-0.001, 2, 0.0),
        (1e30, 2, 1e30),
        (-1e300, 15, -1e300),
        (INF, 2, INF),
        (NAN, 2, NAN),
    ],
)
def test_floats_are_rounded_half_to_even(value: float, decimals: int, left: float) -> None:
    """What has no decimals stays what it is, however large."""
    np.testing.assert_array_equal(through(np.array([value], "<f8"), None, decimals), [left])


def test_rounding_leaves_one_zero_and_one_nan() -> None:
    """A sign of zero, or the 22 free bits of a NaN, would say something of what was rounded away."""
    odd = np.frombuffer(np.array([0x7FC12345, 0xFFC00001, 0x80000000], "<u4").tobytes(), "<f4")
    assert len({bits.tobytes() for bits in through(odd, None, 1)[:2]}) == 1
    assert through(odd, None, 1)[2:].tobytes() == bytes(4)


SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)
FLOATS = st.sampled_from(sorted(DATATYPES)).flatmap(lambda kind: arrays.arrays(np.dtype(kind), SHAPES))
TOP, DECIMALS = st.none() | st.integers(1, 7), st.none() | st.integers(0, 6)


@given(FLOATS, TOP, DECIMALS, st.booleans())
def test_no_output_has_more_than_it_may(array: Array, top_k: int | None, decimals: int | None, lowest: bool) -> None:  # noqa: FBT001 -- drawn
    """For any numbers: what stays of a row are its largest, as near as so many decimals are; the rest is the fill."""
    left = through(array, top_k, decimals, lowest=lowest)
    fill = np.finfo(array.dtype).min if lowest else 0.0
    width = array.shape[-1] if array.shape else 1
    for given_row, row in zip(array.reshape(-1, width or 1), left.reshape(-1, width or 1), strict=True):
        stays = _stays(list(map(float, given_row)), top_k)
        for before, after, stay in zip(given_row, row, stays, strict=True):
            if not stay:
                assert after == fill
            elif decimals is None or not math.isfinite(before):
                np.testing.assert_equal(after, before)
            else:
                _require_rounded(float(before), float(after), decimals, array.dtype)


def _stays(row: Sequence[float], top_k: int | None) -> list[bool]:
    """Return which elements stay, by sorting, which the product does not do."""
    order = sorted(range(len(row)), key=lambda i: (math.isnan(row[i]), 0 if math.isnan(row[i]) else -row[i], i))
    chosen = set(order if top_k is None else order[:top_k])
    return [index in chosen for index in range(len(row))]


def _require_rounded(before: float, after: float, decimals: int, dtype: Any) -> None:
    """Require the number of its datatype that is nearest to one with so many decimals, half a decimal away at most."""
    assert dtype.type(round(after, decimals)) == after
    assert abs(after - before) <= 0.5 * 10**-decimals + abs(before) * float(np.finfo(dtype).eps)


def test_a_large_output_is_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are not torn apart, wherever a piece ends, and one row may be longer than a piece."""
    array = np.random.default_rng(1).random((7, 5)).astype("<f4")
    whole = through(array, 2, 3)
    for block in (1, 4, 5, 11, 34, 36):
        monkeypatch.setattr(limiting, "_BLOCK", block)
        assert (through(array, 2, 3) == whole).all()


def test_a_large_output_is_not_worked_on_beyond_the_deadline_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at after each piece: of a hundred, one is worked on."""
    pieces: list[int] = []
    real = limiting._rows

    def counted(rows: Array, limit: Limit) -> Array:
        pieces.append(rows.shape[0])
        return real(rows, limit)

    monkeypatch.setattr(limiting, "_rows", counted)
    tensor = Tensor("y", Datatype.FP32, (100, 1 << 16), bytes(400 << 16))
    with pytest.raises(DeadlineError):
        limited([tensor], [Limit("y", 1, lowest=False, decimals=None)], time.monotonic_ns())
    assert pieces == [1]


@pytest.mark.parametrize("datatype", [Datatype.INT64, Datatype.BOOL, Datatype.BYTES, Datatype.BF16])
def test_what_is_no_float_is_not_let_through(datatype: Datatype) -> None:
    """Rules that cannot be kept cost the run: nothing leaves as it is."""
    tensor = Tensor("y", datatype, (1, 1), b"\0" * max(4, datatype.size_bytes))
    with pytest.raises(EngineError) as caught:
        limited([tensor], [Limit("y", 1, lowest=False, decimals=None)], FOR_EVER)
    assert caught.value.reason == "limit_unusable"


async def test_the_child_limits_before_it_answers(kit: Any, process: EngineProcess, double: Any) -> None:
    """What comes over the channel is what may leave; without limits it is what the model gives."""
    model = await double.load(process)
    inputs, consumer = [kit.fp32("x", [1.06, 3.04])], ConsumerId("ann")
    limits = (Limit("y", 1, lowest=False, decimals=1), Limit("z", 1, lowest=False, decimals=None))
    ran = await process.run(model, inputs, [], 10_000, consumer=consumer, limits=limits)
    whole = await process.run(model, inputs, [], 10_000, consumer=consumer)
    assert kit.numbers(ran.outputs[0]) == [[0.0, float(np.float32(6.1))]]
    assert kit.numbers(whole.outputs[0]) == [[float(np.float32(2.12)), float(np.float32(6.08))]]
