"""Arrays become tensors and come back, and nothing is lost on the way unnoticed."""

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aigovtool.consumer.tensors import array_from, dtype_of, name_inputs, tensor_from
from aigovtool.errors import InvalidValueError
from aigovtool.protocol.oip_metadata import TensorMetadata
from aigovtool.protocol.tensor import Datatype, Tensor

NUMERIC = [datatype for datatype in Datatype if datatype not in (Datatype.BYTES, Datatype.BF16)]


def spec(datatype: Datatype = Datatype.FP32, shape: tuple[int, ...] = (-1, -1), name: str = "x") -> TensorMetadata:
    return TensorMetadata(name=name, datatype=datatype, shape=shape)


def refused(value: object, reason: str, **about: Any) -> InvalidValueError:
    with pytest.raises(InvalidValueError) as caught:
        tensor_from(spec(**about), value)
    assert caught.value.reason == reason
    return caught.value


@settings(max_examples=60)
@given(st.data())
def test_arrays_round_trip(data: st.DataObject) -> None:
    """Every datatype and shape comes back bit for bit."""
    datatype = data.draw(st.sampled_from(NUMERIC))
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = data.draw(arrays.arrays(dtype_of(datatype), shape))
    back = array_from(tensor_from(spec(datatype, (-1,) * len(shape)), array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_byte_order_and_strides_are_adapted() -> None:
    """The wire is little-endian and row-major, whatever the array is."""
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    assert array_from(tensor_from(spec(), array)).tolist() == array.tolist()


class TorchLike:
    """What a torch tensor can do and refuses, as torch 2.13 does: no copy unless asked, no loss unsaid."""

    def __init__(
        self,
        array: Any,
        dtype: str = "float32",
        *,
        grad: bool = False,
        on: str = "cpu",
        noted: frozenset[str] = frozenset(),
    ) -> None:
        self.array, self.dtype, self.grad, self.on, self.noted = array, f"torch.{dtype}", grad, on, noted

    def _with(self, **changes: Any) -> "TorchLike":
        now = {"dtype": self.dtype[6:], "grad": self.grad, "on": self.on, "noted": self.noted}
        return TorchLike(**({"array": self.array} | now | changes))

    def detach(self) -> "TorchLike":
        """Leave the graph."""
        return self._with(grad=False)

    def cpu(self) -> "TorchLike":
        """Leave the device."""
        if self.on == "meta":
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        return self._with(on="cpu")

    def resolve_conj(self) -> "TorchLike":
        """Carry out a conjugation that was only noted."""
        return self._with(noted=self.noted - {"conj"})

    def resolve_neg(self) -> "TorchLike":
        """Carry out a change of sign that was only noted."""
        return self._with(array=-self.array, noted=frozenset()) if "neg" in self.noted else self

    def float(self) -> "TorchLike":
        """Become float32."""
        return self._with(dtype="float32")

    def numpy(self) -> Any:
        """Share the data, where numpy has the datatype and nothing stands in the way."""
        if self.grad or self.on != "cpu" or self.noted:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        if not hasattr(np, self.dtype[6:]):
            raise TypeError(f"Got unsupported ScalarType {self.dtype}")
        return self.array

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Have numpy take it, as it does the elements of a list."""
        return self.numpy()


@pytest.mark.parametrize("how", [{}, {"grad": True}, {"on": "cuda:0"}, {"noted": frozenset({"conj"})}])
def test_a_torch_tensor_is_recognised_by_what_it_can_do(how: dict[str, Any]) -> None:
    """Gradients are detached and devices left before the data is read; it is laid out as it may be."""
    value = TorchLike(np.array([[1, 3], [2, 4]], dtype=np.float32).T, **how)
    assert array_from(tensor_from(spec(), value)).tolist() == [[1, 2], [3, 4]]


def test_a_sign_that_a_torch_tensor_only_notes_is_carried_out() -> None:
    """The imaginary part of a conjugated tensor is such a view."""
    value = TorchLike(np.array([[1, 2]], dtype=np.float32), noted=frozenset({"neg"}))
    assert array_from(tensor_from(spec(), value)).tolist() == [[-1, -2]]


@pytest.mark.parametrize(
    "how", [{"dtype": "bfloat16"}, {"dtype": "float8_e4m3fn"}, {"dtype": "quint8"}, {"on": "meta"}]
)
def test_a_torch_tensor_that_numpy_cannot_hold_is_refused(how: dict[str, Any]) -> None:
    """The message says what it is and what to do, not what torch said."""
    error = refused(TorchLike(np.zeros((1, 2), np.float32), **how), "bad_input")
    assert ".float()" in (error.fix or "")
    assert f"torch.{how.get('dtype', 'float32')}" in error.message


def test_bfloat16_of_torch_is_taken_where_the_model_takes_it() -> None:
    """Each of its values is one of float32, so nothing is lost."""
    value = TorchLike(np.array([[1.5, -2.0]], dtype=np.float32), "bfloat16", grad=True)
    assert array_from(tensor_from(spec(datatype=Datatype.BF16), value)).tolist() == [[1.5, -2.0]]


def test_a_torch_tensor_of_another_datatype_is_refused_in_words_of_torch() -> None:
    """Numpy's are no method of it."""
    error = refused(TorchLike(np.zeros((1, 2)), "float64"), "wrong_datatype")
    assert error.fix == "convert it, for example with .to(torch.float32)"


def test_a_list_of_tensors_that_numpy_cannot_take_is_refused() -> None:
    """What torch raises is no error that anybody expects of us."""
    row = np.array([1, 2], dtype=np.float32)
    assert array_from(tensor_from(spec(), [TorchLike(row), TorchLike(row)])).tolist() == [[1, 2], [1, 2]]
    assert "one array" in (refused([TorchLike(row), TorchLike(row, grad=True)], "bad_input").fix or "")


def test_torch_is_not_imported() -> None:
    """Recognising a tensor must not load a library of a gigabyte."""
    assert "torch" not in sys.modules


def test_an_array_of_another_datatype_is_refused_with_the_conversion() -> None:
    """float64 from a careless computation is not silently rounded."""
    error = refused(np.zeros((1, 2)), "wrong_datatype")
    assert error.fix == "convert it, for example with .astype('float32')"


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        ([[1.5]], Datatype.INT64),
        ([[True]], Datatype.FP32),
        ([[True]], Datatype.INT8),
        ([[1]], Datatype.BOOL),
        ([["1"]], Datatype.FP32),
        ([[10**30]], Datatype.FP64),
        ([[b"x"]], Datatype.UINT8),
        ([[None]], Datatype.FP32),
        ([[1j]], Datatype.FP32),
        ([[5]], Datatype.BYTES),
    ],
)
def test_a_list_of_other_values_is_refused(value: object, datatype: Datatype) -> None:
    """1.5 is no integer, `True` no number, "1" nothing but text."""
    refused(value, "wrong_datatype", datatype=datatype)


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        ([[256]], Datatype.UINT8),
        ([[-1]], Datatype.UINT64),
        ([[2**63]], Datatype.INT64),
        ([[1e39]], Datatype.FP32),
        ([[70000.0]], Datatype.FP16),
    ],
)
def test_a_list_with_values_beyond_the_datatype_is_refused(value: object, datatype: Datatype) -> None:
    """Nothing wraps, and nothing becomes infinite."""
    refused(value, "value_lost", datatype=datatype)


@pytest.mark.parametrize("value", [[[1], [1, 2]], [[1], 2]])
def test_a_ragged_list_is_refused(value: object) -> None:
    """A tensor is regular."""
    refused(value, "bad_input")


def test_lists_take_the_datatype_of_the_input() -> None:
    """Integers are good floating-point numbers; infinity and NaN are values too."""
    assert array_from(tensor_from(spec(), [[1, 2]])).dtype == np.float32
    assert np.isnan(array_from(tensor_from(spec(), [[float("nan"), float("inf")]]))[0, 0])
    assert array_from(tensor_from(spec(Datatype.BOOL), [[True, False]])).tolist() == [[True, False]]
    assert tensor_from(spec(Datatype.INT8, (0, 2)), np.zeros((0, 2), np.int8)).shape == (0, 2)


@pytest.mark.parametrize(("shape", "sent"), [((), ()), ((1,), (1,)), ((-1, 1), (1, 1))])
def test_a_scalar_fills_an_input_of_one_element(shape: tuple[int, ...], sent: tuple[int, ...]) -> None:
    """A single number needs no brackets."""
    assert tensor_from(spec(shape=shape), 3.5).shape == sent


@pytest.mark.parametrize(("fixed", "value"), [((-1, 2), [[1, 2, 3]]), ((-1, 2), [1, 2]), ((2,), 5.0)])
def test_another_shape_than_the_models_is_refused_before_it_is_sent(fixed: tuple[int, ...], value: object) -> None:
    """A forgotten batch dimension costs no unit."""
    refused(value, "wrong_shape", shape=fixed)


def test_text_and_bytes() -> None:
    """`BYTES` takes both, in lists and in numpy's own types, and answers bytes."""
    for value in ([["a", b"\xff"]], np.array([["a", b"\xff"]], dtype=np.object_)):
        assert array_from(tensor_from(spec(Datatype.BYTES), value)).tolist() == [[b"a", b"\xff"]]
    assert array_from(tensor_from(spec(Datatype.BYTES, (-1,)), np.array(["héllo", ""]))).tolist() == [
        "héllo".encode(),
        b"",
    ]
    refused([["\ud800"]], "bad_input", datatype=Datatype.BYTES)


@settings(max_examples=60)
@given(arrays.arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=True)))
def test_bfloat16_is_rounded_to_nearest_and_answered_as_float32(values: Any) -> None:
    """The upper half of a float32, as hardware rounds it; a NaN stays one."""
    back = array_from(tensor_from(spec(Datatype.BF16, (-1,)), values))
    assert back.dtype == np.float32
    assert (np.isnan(back) == np.isnan(values)).all()
    bits = back.view(np.uint32)
    assert not (bits & 0xFFFF).any()
    finite = np.isfinite(back)
    exact = values[finite].astype(np.float64)
    lower = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)[finite].astype(np.float64)
    assert (np.abs(back[finite].astype(np.float64) - exact) <= np.abs(lower - exact)).all()


@pytest.mark.parametrize(
    ("inputs", "specs", "reason"),
    [
        ([1], 2, "unnamed_input"),
        ({"x0": 1, "z": 2}, 2, "unknown_input"),
        ({"x0": 1}, 2, "missing_input"),
        ({1: 1}, 1, "unknown_input"),
    ],
)
def test_inputs_are_named_completely_and_correctly(inputs: object, specs: int, reason: str) -> None:
    """Every input once, and nothing else."""
    with pytest.raises(InvalidValueError) as caught:
        name_inputs(inputs, [spec(name=f"x{index}") for index in range(specs)])
    assert caught.value.reason == reason


def test_an_answer_is_an_array_of_its_own() -> None:
    """It can be written to, and holds on to no buffer."""
    data = np.array([1, 2], dtype="<f4").tobytes()
    array = array_from(Tensor.checked("y", "FP32", [2], data))
    array[0] = 5
    assert array.tolist() == [5, 2]


# --- pandas ----------------------------------------------------------------------------------------


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_a_frame_is_the_only_input_row_by_row() -> None:
    """In the order of its columns; its numbers take the datatype of the input, as those of lists do."""
    tensor = tensor_from(spec(), frame(age=[63, 7], height=[1.75, 1.2]))
    assert array_from(tensor).tolist() == np.array([[63, 1.75], [7, 1.2]], np.float32).tolist()


def test_a_frame_is_all_inputs_each_the_column_of_its_name() -> None:
    """Whatever the order of the columns; a column is rows of one."""
    specs = [
        spec(Datatype.INT64, (-1, 1), "age"),
        spec(Datatype.FP32, (-1, 1), "height"),
        spec(Datatype.BYTES, (-1, 1), "ward"),
    ]
    given = name_inputs(frame(ward=["a", "\u00e4"], height=[1.75, 1.2], age=[63, 7]), specs)
    tensors = [array_from(tensor_from(one, given[one.name])).tolist() for one in specs]
    assert tensors == [[[63], [7]], np.array([[1.75], [1.2]], np.float32).tolist(), [[b"a"], ["\u00e4".encode()]]]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [({"age": [1]}, "missing_input"), ({"age": [1], "height": [1.0], "name": ["x"]}, "unknown_input")],
)
def test_a_frame_with_other_columns_is_refused(columns: dict[str, Any], reason: str) -> None:
    """More is as wrong as less: a column that nobody reads may be one that was meant."""
    specs = [spec(Datatype.INT64, (-1, 1), "age"), spec(Datatype.FP32, (-1, 1), "height")]
    with pytest.raises(InvalidValueError) as caught:
        name_inputs(frame(**columns), specs)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("columns", "about", "reason"),
    [
        ({"a": [1.5]}, {"datatype": Datatype.INT64}, "wrong_datatype"),
        ({"a": ["1"]}, {}, "wrong_datatype"),
        ({"a": [1.0, None], "b": ["x", "y"]}, {}, "wrong_datatype"),
        ({"a": [300]}, {"datatype": Datatype.UINT8}, "value_lost"),
        ({"a": [1.0], "b": [2.0]}, {"shape": (-1, 3)}, "wrong_shape"),
        ({"a": [True]}, {}, "wrong_datatype"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(columns: dict[str, Any], about: dict[str, Any], reason: str) -> None:
    """As lists are: no silent conversion is a right question."""
    refused(frame(**columns), reason, **about)


def test_a_missing_number_is_no_number() -> None:
    """A gap in a column is NaN, as pandas says; whether the model takes that is its own affair."""
    (row,) = array_from(tensor_from(spec(), frame(a=[np.nan], b=[2.0]))).tolist()
    assert np.isnan(row[0])
    assert row[1] == 2.0


def test_a_series_fills_a_vector_or_a_column() -> None:
    """Whichever the model takes."""
    series = pd.Series([1, 2, 3])
    assert array_from(tensor_from(spec(shape=(-1,)), series)).tolist() == [1, 2, 3]
    assert array_from(tensor_from(spec(shape=(-1, 1)), series)).tolist() == [[1], [2], [3]]
    refused(series, "wrong_shape", shape=(-1, 3))
