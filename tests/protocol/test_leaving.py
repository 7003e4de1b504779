"""Which outputs leave: held to what a model has."""

import pytest

from aigovtool.errors import ForbiddenError, InvalidValueError
from aigovtool.ledger.answers import AnswerTerms, OutputRule
from aigovtool.package.manifest import Datatype, TensorSpec
from aigovtool.protocol.leaving import leaving, require_keepable, wanted

OUTPUTS = tuple(
    TensorSpec(name=name, datatype=datatype, shape=("n", 2))
    for name, datatype in (("label", Datatype.INT64), ("logits", Datatype.FP16), ("probabilities", Datatype.FP32))
)
HIDDEN = AnswerTerms(outputs=(OutputRule(name="logits", hide=True),))
NAMED = AnswerTerms(outputs=(OutputRule(name="label"),), only_named=True)


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ((OutputRule(name="Logits", hide=True),), "no_such_output"),
        ((OutputRule(name="label", top_k=1),), "not_a_float"),
        ((OutputRule(name="label", decimals=1),), "not_a_float"),
        (tuple(OutputRule(name=spec.name, hide=True) for spec in OUTPUTS), "nothing_leaves"),
        ((OutputRule(name="logits", top_k=2),), "restricts_nothing"),
    ],
)
def test_rules_that_a_model_cannot_keep_are_refused(outputs: tuple[OutputRule, ...], reason: str) -> None:
    """A name that it has not (a slip would let the output leave), elements that are no floats, nothing left."""
    with pytest.raises(InvalidValueError) as caught:
        require_keepable(AnswerTerms(outputs=outputs), OUTPUTS)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        (("n", 10, 1), False),
        ((), False),
        (("n", 3), False),
        (("n", 4), True),
        (("n", "m"), True),
        ((10, -1), True),
        (None, True),
    ],
)
def test_the_largest_of_a_row_are_fewer_than_it_has(shape: tuple[int | str, ...] | None, taken: bool) -> None:  # noqa: FBT001 -- case
    """Who wrote "the largest three" of classes that are not on the last axis would let all of them leave."""
    spec = TensorSpec(name="y", datatype=Datatype.FP32, shape=shape)
    terms = AnswerTerms(outputs=(OutputRule(name="y", top_k=3),))
    if taken:
        require_keepable(terms, [spec])
        return
    with pytest.raises(InvalidValueError) as caught:
        require_keepable(terms, [spec])
    assert caught.value.reason == "restricts_nothing"


@pytest.mark.parametrize("datatype", [Datatype.BF16, Datatype.BYTES, Datatype.BOOL, Datatype.UINT8])
def test_only_floats_that_the_engine_knows_are_rounded(datatype: Datatype) -> None:
    """BF16 is none of them."""
    spec = TensorSpec(name="y", datatype=datatype, shape=None)
    with pytest.raises(InvalidValueError):
        require_keepable(AnswerTerms(outputs=(OutputRule(name="y", decimals=1),)), [spec, *OUTPUTS])


@pytest.mark.parametrize("terms", [None, HIDDEN, NAMED, AnswerTerms(pad_bytes=1_024)])
def test_rules_that_a_model_can_keep_are_taken(terms: AnswerTerms | None) -> None:
    """Hidden, named, and none at all."""
    require_keepable(terms, OUTPUTS)


@pytest.mark.parametrize(
    ("terms", "names", "found"),
    [
        (None, [], ()),
        (None, ["logits"], ("logits",)),
        (HIDDEN, [], ("label", "probabilities")),
        (HIDDEN, ["probabilities", "label"], ("probabilities", "label")),
        (NAMED, [], ("label",)),
        (HIDDEN, ["label", "logits"], None),
        (NAMED, ["probabilities"], None),
        (AnswerTerms(outputs=(OutputRule(name="other"),), only_named=True), [], None),
    ],
)
def test_a_request_gets_what_leaves(terms: AnswerTerms | None, names: list[str], found: tuple[str, ...] | None) -> None:
    """Who names nothing gets all that leaves; who names what does not is refused, and so is who would get nothing."""
    if found is None:
        with pytest.raises(ForbiddenError) as caught:
            wanted(terms, OUTPUTS, names)
        assert caught.value.reason == "output_withheld"
    else:
        assert wanted(terms, OUTPUTS, names) == found
    shown = [spec.name for spec in leaving(terms, OUTPUTS)]
    assert shown == [name for name in ("label", "logits", "probabilities") if terms is None or terms.lets(name)]
