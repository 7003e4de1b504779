"""Arrays in, arrays out: numpy on this side, tensors of the Open Inference Protocol on the wire.

Rules, because a silent conversion is a wrong question:

1. An array (numpy, or anything with `detach`, `cpu` and `numpy`, such as a torch tensor) has the datatype of the
   model's input, or is refused with the conversion to make. Byte order and strides are not datatypes: they are adapted.
2. Lists and scalars take the datatype of the input, if every value survives that: 1.5 is no integer, 300 no
   `UINT8`, 1e39 no `FP32`, `True` no number. A scalar fills an input whose dimensions are all 1 or free.
3. The shape fits the model's: the same rank, and the same size where the model fixes one.
4. `BF16` has no numpy type: it is given and answered as float32, rounded to nearest even on the way in. A torch tensor
   of bfloat16 is given as it is.
5. `BYTES` elements are `bytes`, or `str` sent as UTF-8; they are answered as an array of `bytes` objects.

6. A pandas frame is the input of a model with one, of rank 2, row by row in the order of its columns; of a model with
   several it is all of them, each the column of its name. Its values, and those of a series, are taken as lists are.

Neither torch nor pandas is imported: what is theirs is recognised by what it can do.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from aigovtool.errors import InvalidValueError
from aigovtool.protocol.oip_metadata import TensorMetadata
from aigovtool.protocol.tensor import Datatype, Tensor, frame_bytes, split_bytes

#: Elements have many types, one per datatype; what they are is said by `dtype`.
Array = NDArray[Any]

_DTYPES: Final[dict[Datatype, np.dtype[Any]]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype("<u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("<i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
    # Rule 4: in memory it is float32.
    Datatype.BF16: np.dtype("<f4"),
    Datatype.BYTES: np.dtype(np.object_),
}
#: Kinds of Python values (numpy's letters) that may become the kind of a datatype.
_TAKES: Final = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}


def tensor_from(spec: TensorMetadata, value: object) -> Tensor:
    """Return `value` as the tensor for the model's input `spec`.

    Raises:
        InvalidValueError: `wrong_datatype`, `wrong_shape`, `bad_input`, `value_lost`, and those of `Tensor.checked`.
        TooLargeError: those of `Tensor.checked`.
    """
    array = _as_array(spec, value)
    check_shape(spec, array.shape)
    return Tensor.checked(spec.name, spec.datatype, array.shape, _wire_data(spec, array))


def array_from(tensor: Tensor) -> Array:
    """Return a tensor as an array of its own (writable, native byte order); shape as on the wire."""
    if tensor.datatype is Datatype.BYTES:
        items = np.empty(len(elements := split_bytes(tensor)), dtype=np.object_)
        items[:] = elements
        return items.reshape(tensor.shape)
    if tensor.datatype is Datatype.BF16:
        bits = np.frombuffer(tensor.data, dtype="<u2").astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).reshape(tensor.shape)
    flat = np.frombuffer(tensor.data, dtype=_DTYPES[tensor.datatype])
    return flat.astype(flat.dtype.newbyteorder("=")).reshape(tensor.shape)


def dtype_of(datatype: Datatype) -> np.dtype[Any]:
    """Return the numpy type in which `datatype` is given and answered."""
    return _DTYPES[datatype].newbyteorder("=")


def name_inputs(inputs: object, specs: Sequence[TensorMetadata]) -> Mapping[str, object]:
    """Return inputs by name; a value that is no mapping is the only input of a model that has one.

    Raises:
        InvalidValueError: `unnamed_input`, `unknown_input`, `missing_input`.
    """
    wanted = [spec.name for spec in specs]
    if len(wanted) > 1 and _is_frame(inputs):
        inputs = {name: cast("Any", inputs)[name] for name in cast("Any", inputs).columns}
    listed = ", ".join(repr(name) for name in wanted) or "none"
    if not isinstance(inputs, Mapping):
        if len(wanted) != 1:
            raise InvalidValueError(
                f"the model has {len(wanted)} inputs", reason="unnamed_input", fix=f"pass a mapping by name: {listed}"
            )
        return {wanted[0]: inputs}
    given = cast("Mapping[object, object]", inputs)
    for name in given:
        if name not in wanted:
            raise InvalidValueError(
                f"the model has no input {str(name)[:40]!r}", reason="unknown_input", fix=f"its inputs are {listed}"
            )
    for name in wanted:
        if name not in given:
            raise InvalidValueError(f"input {name!r} is missing", reason="missing_input", fix=f"pass all of {listed}")
    return {name: given[name] for name in wanted}


def check_shape(spec: TensorMetadata, shape: Sequence[int]) -> None:
    """Raise `InvalidValueError` (`wrong_shape`) unless `shape` fits the model's."""
    fits = len(shape) == len(spec.shape) and all(
        fixed in (-1, size) for fixed, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise InvalidValueError(
            f"{spec.name!r} has shape {list(shape)}; the model says {list(spec.shape)}",
            reason="wrong_shape",
            fix="a dimension of -1 may have any size; add the batch dimension if it is missing",
        )


def _as_array(spec: TensorMetadata, value: object) -> Array:
    convert = f".astype({str(dtype_of(spec.datatype))!r})"
    if all(hasattr(value, name) for name in ("detach", "cpu", "numpy")):
        value = _from_torch(spec, value)
        convert = f".to(torch.{dtype_of(spec.datatype)})"
    if hasattr(value, "to_numpy"):
        return _from_pandas(spec, value)
    if not isinstance(value, np.ndarray | np.generic):
        return _from_python(spec, value)
    array: Array = np.asarray(value)
    expected = _DTYPES[spec.datatype]
    text = spec.datatype is Datatype.BYTES and array.dtype.kind in "SU"
    if not text and array.dtype.newbyteorder("=") != expected.newbyteorder("="):
        raise InvalidValueError(
            f"input {spec.name!r} is {array.dtype}; the model takes {spec.datatype}",
            reason="wrong_datatype",
            fix="give bytes or text" if spec.datatype is Datatype.BYTES else f"convert it, for example with {convert}",
        )
    return array


def _from_torch(spec: TensorMetadata, value: object) -> object:
    """Take a tensor off its device and out of its graph; what is only noted on it (a conjugation, a sign) is done."""
    tensor = cast("Any", value)
    dtype = str(getattr(tensor, "dtype", "a tensor"))
    try:
        tensor = tensor.detach().cpu()
        for noted in ("resolve_conj", "resolve_neg"):
            tensor = getattr(tensor, noted)() if hasattr(tensor, noted) else tensor
        if spec.datatype is Datatype.BF16 and dtype.endswith("bfloat16"):
            tensor = tensor.float()  # rule 4; each value of it is one of float32
        return tensor.numpy()
    except (TypeError, RuntimeError, ValueError):
        raise InvalidValueError(
            f"the tensor for input {spec.name!r} is {dtype[:40]}, and does not convert to numpy as it is",
            reason="bad_input",
            fix="give a dense one of a datatype that numpy has: .float(), .to_dense() or .dequantize() makes one",
        ) from None


def _is_frame(value: object) -> bool:
    return all(hasattr(value, name) for name in ("columns", "dtypes", "to_numpy"))


def _from_pandas(spec: TensorMetadata, value: object) -> Array:
    """Convert a frame, or a series, which fills an input that has one column."""
    try:
        array: Array = np.asarray(cast("Any", value).to_numpy())
    except (TypeError, RuntimeError, ValueError):
        raise InvalidValueError(
            f"what is given for input {spec.name!r} does not convert to numpy", reason="bad_input"
        ) from None
    if array.ndim == 1 and len(spec.shape) == 2 and spec.shape[1] in (-1, 1):
        array = array.reshape(-1, 1)
    if array.dtype == np.object_ and spec.datatype is not Datatype.BYTES:
        # Columns of several types have none in common; each number is taken for itself, and a missing one is none.
        return _from_python(spec, array.tolist())
    return _from_python(spec, array)


def _from_python(spec: TensorMetadata, value: object) -> Array:
    """Convert lists and scalars, and refuse every loss (rule 2)."""
    try:
        natural: Array = np.asarray(value, dtype=np.object_ if spec.datatype is Datatype.BYTES else None)
    except (ValueError, TypeError, OverflowError, RuntimeError):  # the last from what is in a list
        raise InvalidValueError(
            f"input {spec.name!r} is no regular nesting of numbers",
            reason="bad_input",
            fix="give one array, or lists of numbers that are equally long",
        ) from None
    if natural.ndim == 0 and all(size in (-1, 1) for size in spec.shape):
        natural = natural.reshape((1,) * len(spec.shape))
    if spec.datatype is Datatype.BYTES:
        return natural
    target = _DTYPES[spec.datatype]
    if natural.size == 0:
        return natural.astype(target)
    if natural.dtype.kind not in _TAKES[target.kind]:
        raise InvalidValueError(
            f"input {spec.name!r} holds values that are not {spec.datatype}",
            reason="wrong_datatype",
            fix="pass an array of the right type, or other values",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        converted = natural.astype(target)
    kept = np.isfinite(converted) == np.isfinite(natural) if target.kind == "f" else converted == natural
    if not bool(np.all(kept)):
        raise InvalidValueError(f"input {spec.name!r} holds values beyond {spec.datatype}", reason="value_lost")
    return converted


def _wire_data(spec: TensorMetadata, array: Array) -> bytes | memoryview:
    if spec.datatype is Datatype.BYTES:
        return frame_bytes(_element_bytes(spec, element) for element in array.ravel().tolist())
    little = np.ascontiguousarray(array, dtype=_DTYPES[spec.datatype])
    if spec.datatype is Datatype.BF16:
        little = _bfloat16_bits(little)
    return little.tobytes()


def _element_bytes(spec: TensorMetadata, element: object) -> bytes:
    if isinstance(element, str):
        try:
            return element.encode()
        except UnicodeEncodeError:
            raise InvalidValueError(f"input {spec.name!r} holds text that is not Unicode", reason="bad_input") from None
    if isinstance(element, bytes):
        return element
    raise InvalidValueError(f"input {spec.name!r} takes bytes or text", reason="wrong_datatype")


def _bfloat16_bits(array: Array) -> Array:
    """Round float32 to the upper 16 bits, to nearest even; a NaN stays one."""
    bits = array.view("<u4").astype(np.uint64)
    rounded = (bits + np.uint64(0x7FFF) + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
    quiet = (bits >> np.uint64(16)) | np.uint64(0x40)
    return np.where(np.isnan(array), quiet, rounded).astype("<u2")
