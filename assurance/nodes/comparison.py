"""Compares what a consumer was answered with what ONNX Runtime gave, and names what the product does not take.

An answer has the same outputs, bit for bit, and with that the verdict of `onnx`'s own comparison. Where ONNX Runtime
gives nothing, there is a typed refusal. Where it gives something, a refusal is one of `NOT_TAKEN`: a closed list. What
is answered is charged once, and what is refused is not.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from onnx.backend.test.runner import Runner

from assurance.nodes.bare import Bare, Came
from assurance.nodes.cases import Case

#: What the product does not take by design, by the words of its refusal.
NOT_TAKEN: Final[Mapping[str, str]] = {
    "model_refused: datatype": "an input or output of a type that the inference protocol does not have: floats of 8 "
    "or 4 bits, integers of 4 or 2",
    "model_refused: not_a_tensor": "an input or output that is a sequence or an optional",
    "model_refused: no_tensors": "no input",
    "model_not_served: unsupported_datatype": "an input or output of bfloat16: the protocol has it, numpy does not",
    "invalid_value: empty_input": "an input of no rows, or none with an element: there is nothing to charge",
}
#: How it says what ONNX Runtime says: that it loads a model, or runs it, in no way.
AS_BARE: Final[Mapping[Came, frozenset[str]]] = {
    Came.NOT_LOADED: frozenset({"model_refused: custom_operator", "model_not_served: engine_refused"}),
    Came.NOT_RUN: frozenset({"invalid_value: model_refused_input"}),
    Came.ANSWERED: frozenset(),
}
#: It changes the case of letters by a locale, a file of the system: the sandbox of an engine lets it open none.
_NEEDS_LOCALE: Final = b"StringNormalizer"
#: What such a model is refused by, also on machines that have the locale.
NO_LOCALE: Final = "model_not_served: engine_refused"


@dataclass(frozen=True)
class Told:
    """What a consumer, or who lends a model, was told: outputs, or why there are none; and the units charged for it."""

    outputs: Mapping[str, Any] = field(default_factory=dict)
    refusal: str = ""
    charged: int = 0


@dataclass(frozen=True)
class Judgement:
    """Under what a test is counted, and what is wrong, if anything is."""

    counted: str
    wrong: str | None = None


def judge(case: Case, bare: Bare, told: Told) -> Judgement:
    """Say what came of one test."""
    judged = _of_refusal(case, bare, told.refusal) if told.refusal else _of_answer(case, bare, told.outputs)
    units = 0 if told.refusal else 1
    if judged.wrong is None and told.charged != units:
        return Judgement("differs", f"{told.charged} units are charged, not {units}")
    return judged


def _of_refusal(case: Case, bare: Bare, refusal: str) -> Judgement:
    if refusal in NOT_TAKEN:
        return Judgement(f"not taken: {refusal}")
    if refusal in AS_BARE[bare.came]:
        return Judgement(f"{bare.came.value} in both")
    if refusal == NO_LOCALE and _NEEDS_LOCALE in case.model:
        return Judgement(f"not taken: {refusal}")
    return Judgement("differs", f"{refusal}; by ONNX Runtime alone {bare.came.value}")


def _of_answer(case: Case, bare: Bare, outputs: Mapping[str, Any]) -> Judgement:
    if bare.came is not Came.ANSWERED:
        return Judgement("differs", f"answered; by ONNX Runtime alone {bare.came.value}")
    wrong = difference(bare.outputs, outputs)
    verdict, expected = passes(case, outputs), passes(case, bare.outputs)
    if verdict is not expected:
        wrong = f"passes: {verdict}, and by ONNX Runtime alone: {expected}; {wrong}"
    return Judgement("differs" if wrong else "passes in both" if verdict else "fails in both", wrong)


def passes(case: Case, outputs: Mapping[str, Any]) -> bool:
    """Return the verdict of the comparison that `onnx` makes, within its tolerances."""
    given = [_with_texts(array) for array in outputs.values()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it subtracts infinities
            Runner.assert_similar_outputs(list(case.expected), given, case.rtol, case.atol)
    except (AssertionError, AttributeError, TypeError):  # another type than expected has other members
        return False
    return True


def difference(expected: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """Return where outputs are not the same: their names and order, datatypes, shapes, and every bit."""
    if list(expected) != list(given):
        return f"outputs {list(given)}, not {list(expected)}"
    for name, array in expected.items():
        if not isinstance(array, np.ndarray):
            return f"{name} is no array, and was answered"
        other = _with_texts(given[name])
        if (array.dtype, array.shape) != (other.dtype, other.shape):
            return f"{name} is {other.dtype}{list(other.shape)}, not {array.dtype}{list(array.shape)}"
        if _elements(array) != _elements(other):
            return f"{name} has other elements"
    return None


def _elements(array: Any) -> object:  # noqa: ANN401 - of any type
    return array.ravel().tolist() if array.dtype == np.object_ else np.ascontiguousarray(array).tobytes()


def _with_texts(array: Any) -> Any:  # noqa: ANN401
    """Return texts as ONNX Runtime gives them, as `str`: over the wire they are bytes."""
    if not isinstance(array, np.ndarray) or array.dtype != np.object_:
        return array
    texts = np.empty(array.size, dtype=np.object_)
    texts[:] = [one.decode() if isinstance(one, bytes) else one for one in array.ravel().tolist()]
    return texts.reshape(array.shape)
