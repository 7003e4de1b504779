"""What may leave of a model's outputs: the rules of its terms, held to what the model has."""

from collections.abc import Sequence
from typing import Final

from aigovtool.errors import ForbiddenError, InvalidValueError
from aigovtool.ledger.answers import AnswerTerms, OutputRule
from aigovtool.package.manifest import Datatype, TensorSpec

#: Datatypes of which elements can be compared, left out and rounded.
_FLOATS: Final = frozenset({Datatype.FP16, Datatype.FP32, Datatype.FP64})


def require_keepable(terms: AnswerTerms | None, outputs: Sequence[TensorSpec]) -> None:
    """Refuse rules that cannot be kept for a model with these outputs, or that leave nothing of it.

    Raises:
        InvalidValueError: `no_such_output`, `not_a_float`, `nothing_leaves`; `restricts_nothing` for a `top_k` that
            leaves all of each row, as of an output of shape [-1, 10, 1], whose rows have one element.
    """
    if terms is None:
        return
    specs = {spec.name: spec for spec in outputs}
    for rule in terms.outputs:
        spec = specs.get(rule.name)
        if spec is None:
            raise InvalidValueError(
                f"the model has no output {rule.name[:80]!r}",
                reason="no_such_output",
                fix="its outputs: " + ", ".join(sorted(specs)),
            )
        if rule.limits and spec.datatype not in _FLOATS:
            raise InvalidValueError(
                f"output {rule.name!r} is {spec.datatype.value}: only elements of FP16, FP32 and FP64 can be"
                " left out or rounded",
                reason="not_a_float",
                fix="hide the output, or let it leave as it is",
            )
        _require_narrow(rule, spec)
    if not any(terms.lets(name) for name in specs):
        raise InvalidValueError("no output of the model would leave", reason="nothing_leaves", fix="withdraw the model")


def _require_narrow(rule: OutputRule, spec: TensorSpec) -> None:
    row = 1 if spec.shape == () else spec.shape[-1] if spec.shape else None
    if rule.top_k is not None and isinstance(row, int) and 0 <= row <= rule.top_k:
        raise InvalidValueError(
            f"a row (the last axis) of output {rule.name!r} has {row} elements: all of them would leave",
            reason="restricts_nothing",
            fix="let fewer leave, or export the model with its classes on the last axis",
        )


def leaving(terms: AnswerTerms | None, outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return those outputs of which something may leave, in the model's order."""
    return tuple(spec for spec in outputs if terms is None or terms.lets(spec.name))


def wanted(terms: AnswerTerms | None, outputs: Sequence[TensorSpec], names: Sequence[str]) -> tuple[str, ...]:
    """Return which outputs a request gets that names these outputs of the model, or none for all that leave.

    An empty tuple is the whole model, in its order.

    Raises:
        ForbiddenError: an output does not leave (`output_withheld`).
    """
    if terms is None:
        return tuple(names)
    for name in names:
        if not terms.lets(name):
            raise ForbiddenError(
                f"output {name[:80]!r} does not leave: the model is lent without it",
                reason="output_withheld",
                fix="ask for the outputs that the model's metadata shows, or ask the custodian for other terms",
            )
    found = tuple(names) or tuple(spec.name for spec in leaving(terms, outputs))
    if not found:  # never by terms that were ordered for this model
        raise ForbiddenError("no output of this model leaves", reason="output_withheld", fix="ask the custodian")
    return found
