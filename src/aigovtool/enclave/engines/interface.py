"""What a model takes and gives, and whether tensors fit: decided before anything is reserved or charged.

Pure functions over Python integers; no array library. `check_inputs` and `check_outputs` judge a consumer's
request, `check_output` what a model gave, and `check_answer` the engine child, which a bad model may have taken over.

It does not look at the data of inputs: outlines are compared before anybody does, and `Tensor.checked` looks where they
are read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aigovtool.errors import AIGovToolError, EngineError, InvalidValueError
from aigovtool.limits import MAX_INFER_BODY_BYTES
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.tensor import Outline, Tensor, check_bytes_elements


@dataclass(frozen=True, slots=True)
class ModelInterface:
    """The inputs and outputs of a model, in its own order, as its signed manifest lists them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def check_inputs(interface: ModelInterface, tensors: Sequence[Outline | Tensor]) -> None:
    """Raise unless `tensors`, or what they will be, are exactly the inputs of the model, in any order.

    A dimension of the model that is a number is matched; -1 takes any size; a name takes any size, and the
    same one wherever it occurs in this request (the batch axis, for example).

    An input of no rows, and a request that holds no element at all, are refused: nothing is asked, and operators such
    as LSTM and GRU end the process when they meet a batch of none.

    Raises:
        InvalidValueError: `duplicate_input`, `unknown_input`, `missing_input`, `wrong_datatype`, `wrong_rank`,
            `wrong_dimension`, `axes_disagree`, `empty_input`.
    """
    given = _by_name(tensors)
    specs = {spec.name: spec for spec in interface.inputs}
    for name in given.keys() - specs.keys():
        raise _refused(f"the model has no input {name[:80]!r}", "unknown_input", f"its inputs: {_names(specs)}")
    axes: dict[str, int] = {}
    for name, spec in specs.items():
        if name not in given:
            raise _refused(f"input {name!r} is missing", "missing_input", f"the model's inputs: {_names(specs)}")
        _check_tensor(spec, given[name], axes)
        _require_rows(spec, given[name])
    if not any(math.prod(tensor.shape) for tensor in tensors):
        raise _refused("the inputs hold no element", "empty_input", "send data")


def check_outputs(interface: ModelInterface, names: Sequence[str]) -> None:
    """Raise unless `names` are different outputs of the model; none at all asks for every output.

    Raises:
        InvalidValueError: `unknown_output`, `duplicate_output`.
    """
    known = {spec.name for spec in interface.outputs}
    for name in names:
        if name not in known:
            raise _refused(f"the model has no output {name[:80]!r}", "unknown_output", f"its outputs: {_names(known)}")
    if len(set(names)) != len(names):
        raise _refused("an output is asked for twice", "duplicate_output", "ask for each output once")


def check_output(spec: TensorSpec, output: Outline | Tensor) -> None:
    """Raise unless an output is what the model says that it gives.

    Only datatype, rank and fixed dimensions are compared: what the model computes for a symbolic axis is its own
    business.

    Raises:
        EngineError: `output_mismatch`.
    """
    try:
        if spec.shape is not None:
            _check_tensor(spec, output, None)
        elif output.datatype.value != spec.datatype.value:
            raise _refused(f"{spec.name!r} comes as {output.datatype.value}", "wrong_datatype", "")
    except InvalidValueError as error:
        raise EngineError(f"another output than the model says: {error.message}", reason="output_mismatch") from None


def check_answer(interface: ModelInterface, names: Sequence[str], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the child's answer to a run if it is one: the outputs asked for, in that order, well formed.

    Raises:
        EngineError: `bad_answer`.
    """
    specs = {spec.name: spec for spec in interface.outputs}
    wanted = list(names) or list(specs)
    if [tensor.name for tensor in tensors] != wanted:
        raise EngineError("the engine answered with other outputs", reason="bad_answer")
    try:
        check_bytes_elements(tensors)
        answer = [Tensor.checked(t.name, t.datatype, t.shape, t.data) for t in tensors]
        for tensor in answer:
            check_output(specs[tensor.name], tensor)
    except AIGovToolError as error:
        raise EngineError(f"the engine's answer is malformed: {error.message}", reason="bad_answer") from None
    return answer


def answer_too_large(said: str = "would have more") -> InvalidValueError:
    """Return the refusal of an answer that is too large to be sent; how large is said only before anything ran."""
    return InvalidValueError(
        f"the answer {said}; one may have {MAX_INFER_BODY_BYTES} bytes",
        reason="answer_too_large",
        fix="ask for fewer outputs, or about less at once",
    )


def _by_name(tensors: Sequence[Outline | Tensor]) -> dict[str, Outline | Tensor]:
    given: dict[str, Outline | Tensor] = {}
    for tensor in tensors:
        if tensor.name in given:
            raise _refused(f"input {tensor.name[:80]!r} comes twice", "duplicate_input", "send each input once")
        given[tensor.name] = tensor
    return given


def _check_tensor(spec: TensorSpec, tensor: Outline | Tensor, axes: dict[str, int] | None) -> None:
    """Compare one tensor; `axes` gathers the sizes of named axes, and is None where they are not compared."""
    fix = f"{spec.name!r} is {spec.datatype.value} of shape {_shape(spec)}"
    if tensor.datatype.value != spec.datatype.value:
        raise _refused(f"{spec.name!r} comes as {tensor.datatype.value}", "wrong_datatype", fix)
    dimensions = spec.shape or ()
    if len(tensor.shape) != len(dimensions):
        raise _refused(f"{spec.name!r} comes with {len(tensor.shape)} dimensions", "wrong_rank", fix)
    for index, (expected, size) in enumerate(zip(dimensions, tensor.shape, strict=True)):
        if isinstance(expected, str):
            if axes is not None and axes.setdefault(expected, size) != size:
                raise _refused(
                    f"axis {expected!r} has {axes[expected]} and {size} elements", "axes_disagree", "make them equal"
                )
        elif expected not in {-1, size}:
            raise _refused(f"dimension {index} of {spec.name!r} is {size}", "wrong_dimension", fix)


def _require_rows(spec: TensorSpec, tensor: Outline | Tensor) -> None:
    if spec.shape and tensor.shape[0] == 0 and spec.shape[0] != 0:
        raise _refused(f"input {spec.name!r} has no rows", "empty_input", "send at least one row")


def _refused(message: str, reason: str, fix: str) -> InvalidValueError:
    return InvalidValueError(message, reason=reason, fix=fix)


def _names(names: Sequence[str] | set[str] | dict[str, TensorSpec]) -> str:
    return ", ".join(sorted(names))


def _shape(spec: TensorSpec) -> str:
    return "[" + ", ".join(str(dimension) for dimension in spec.shape or ()) + "]"
