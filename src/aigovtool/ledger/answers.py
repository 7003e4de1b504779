"""What may leave in a model's answers: a part of its terms (leases spec section 2).

Of each output that is named: whether it leaves at all, how many of its largest elements, with how many decimals; of the
others: whether they leave. `allows` compares two such terms, so that what is looser needs more than one operator, and
no answer that was kept under looser terms leaves under stricter ones.

This prices the extraction of a model, and does not prevent it: each answer says less, and costs a unit all the same.
"""

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from aigovtool.codec import Message, encode
from aigovtool.limits import (
    MAX_ANSWER_TERMS_BYTES,
    MAX_PADDING_BYTES,
    MAX_TENSOR_ELEMENTS,
    MAX_TENSOR_NAME_CHARS,
    MAX_TENSORS,
    MIN_PADDING_BYTES,
)

#: More decimals than a double has.
MAX_DECIMALS: Final = 15


class Fill(StrEnum):
    """What stands where an element was left out: zero, or the least number of the datatype (logits)."""

    ZERO = "zero"
    LOWEST = "lowest"


class OutputRule(Message, omit_defaults=True):
    """What may leave of one output: nothing, or the `top_k` largest of each row, rounded to `decimals`.

    Raises:
        ValueError: (an `InvalidValueError` where it is decoded) for members that make no sense together.
    """

    name: Annotated[str, Meta(min_length=1, max_length=MAX_TENSOR_NAME_CHARS)]
    hide: bool = False
    top_k: Annotated[int, Meta(ge=1, le=MAX_TENSOR_ELEMENTS)] | None = None
    fill: Fill = Fill.ZERO
    decimals: Annotated[int, Meta(ge=0, le=MAX_DECIMALS)] | None = None

    def __post_init__(self) -> None:
        if self.hide and self.limits:
            raise ValueError("of an output that is hidden nothing else can be said")
        if self.top_k is None and self.fill is not Fill.ZERO:
            raise ValueError("`fill` is for what `top_k` leaves out")

    @property
    def limits(self) -> bool:
        """Whether the values of the output are changed."""
        return self.top_k is not None or self.decimals is not None


class AnswerTerms(Message, omit_defaults=True):
    """What may leave in the answers of one model, and to which sizes these are padded.

    `only_named`: outputs that no rule names are hidden. `pad_bytes`: the smallest size of a body, a power of two; 0
    for bodies as they are. Terms that restrict nothing are no terms: the policy has none then.

    Raises:
        ValueError: (an `InvalidValueError` where it is decoded) for members that make no sense together.
    """

    outputs: Annotated[tuple[OutputRule, ...], Meta(max_length=MAX_TENSORS)] = ()
    only_named: bool = False
    pad_bytes: Annotated[int, Meta(ge=0, le=MAX_PADDING_BYTES)] = 0

    def __post_init__(self) -> None:
        if len({rule.name for rule in self.outputs}) != len(self.outputs):
            raise ValueError("an output has one rule")
        if not (self.outputs or self.only_named or self.pad_bytes):
            raise ValueError("terms of answers that restrict nothing are left out")
        if not self.only_named and any(not (rule.hide or rule.limits) for rule in self.outputs):
            raise ValueError("a rule that restricts nothing is for `only_named`")
        if self.only_named and all(rule.hide for rule in self.outputs):
            raise ValueError("under `only_named` at least one output is named that may leave")
        if self.pad_bytes and (self.pad_bytes < MIN_PADDING_BYTES or self.pad_bytes & (self.pad_bytes - 1)):
            raise ValueError(f"`pad_bytes` is a power of two from {MIN_PADDING_BYTES} on, or 0")
        if len(encode(self)) > MAX_ANSWER_TERMS_BYTES:
            raise ValueError(f"terms of answers take at most {MAX_ANSWER_TERMS_BYTES} bytes")

    def rule(self, name: str) -> OutputRule | None:
        """Return the rule of an output, if it has one."""
        return next((rule for rule in self.outputs if rule.name == name), None)

    def lets(self, name: str) -> bool:
        """Return whether (something of) an output may leave."""
        rule = self.rule(name)
        return not self.only_named if rule is None else not rule.hide


#: Whatever stands for the outputs that no rule names: no output is called like this.
_UNNAMED: Final = ""


def allows(terms: AnswerTerms | None, others: AnswerTerms | None) -> bool:
    """Return whether whatever may leave under `others` may leave under `terms`: they are as loose, or looser."""
    rules = (*(terms.outputs if terms else ()), *(others.outputs if others else ()))
    names = {_UNNAMED, *(rule.name for rule in rules)}
    sizes = (terms.pad_bytes if terms else 0) <= (others.pad_bytes if others else 0)
    return sizes and all(_covers(_allowance(terms, name), _allowance(others, name)) for name in names)


def _allowance(terms: AnswerTerms | None, name: str) -> tuple[int, int] | None:
    """Return how many elements and decimals may leave of an output, or None for nothing."""
    everything = (MAX_TENSOR_ELEMENTS, MAX_DECIMALS + 1)
    if terms is None:
        return everything
    if not terms.lets(name):
        return None
    rule = terms.rule(name)
    if rule is None:
        return everything
    most, finest = everything
    return (
        most if rule.top_k is None else rule.top_k,
        finest if rule.decimals is None else rule.decimals,
    )


def _covers(allowed: tuple[int, int] | None, wanted: tuple[int, int] | None) -> bool:
    if allowed is None or wanted is None:
        return wanted is None
    return allowed[0] >= wanted[0] and allowed[1] >= wanted[1]
