"""What may leave in a model's answers: terms that make sense, one encoding of them, and which of two are looser."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.codec import convert, decode, encode
from aigovtool.errors import InvalidValueError
from aigovtool.ledger.answers import MAX_DECIMALS, AnswerTerms, Fill, OutputRule, allows
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.limits import MAX_ANSWER_TERMS_BYTES, MAX_PADDING_BYTES, MIN_PADDING_BYTES

NAMES = ("logits", "probabilities")
PADDINGS = st.sampled_from([0, MIN_PADDING_BYTES, MAX_PADDING_BYTES])


@st.composite
def rules(draw: st.DrawFn, name: str) -> OutputRule:
    """Draw any rule of an output."""
    if draw(st.booleans()):
        return OutputRule(name=name, hide=True)
    top_k = draw(st.none() | st.integers(1, 4))
    fill = Fill.ZERO if top_k is None else draw(st.sampled_from(Fill))
    return OutputRule(name=name, top_k=top_k, fill=fill, decimals=draw(st.none() | st.integers(0, 3)))


@st.composite
def terms(draw: st.DrawFn) -> AnswerTerms | None:
    """Draw any terms of answers, or none."""
    chosen = [draw(rules(name)) for name in NAMES if draw(st.booleans())]
    only_named = draw(st.booleans()) and not all(rule.hide for rule in chosen)
    kept = tuple(rule for rule in chosen if only_named or rule.hide or rule.limits)
    pad_bytes = draw(PADDINGS)
    if not (kept or only_named or pad_bytes):
        return None
    return AnswerTerms(outputs=kept, only_named=only_named, pad_bytes=pad_bytes)


def test_a_policy_without_them_is_encoded_as_it_always_was() -> None:
    """Digests of policies stand in grants and in the audit log."""
    plain = default_policy(Dial.BALANCED)
    assert b"answers" not in encode(plain)
    restricted = msgspec.structs.replace(plain, answers=AnswerTerms(only_named=True, outputs=(OutputRule(name="y"),)))
    assert encode(restricted).endswith(b',"answers":{"outputs":[{"name":"y"}],"only_named":true}}')
    assert restricted.digest() != plain.digest()


@given(terms())
def test_terms_have_one_encoding(some: AnswerTerms | None) -> None:
    """What is decoded is encoded alike: its digest can be compared."""
    policy = msgspec.structs.replace(default_policy(Dial.STRICT), answers=some)
    assert encode(decode(encode(policy), ServingPolicy)) == encode(policy)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"outputs": []},
        {"pad_bytes": 0},
        {"outputs": [{"name": "y"}]},
        {"outputs": [{"name": "y", "hide": True}, {"name": "y", "hide": True}]},
        {"outputs": [{"name": "y", "hide": True, "top_k": 1}]},
        {"outputs": [{"name": "y", "hide": True, "decimals": 1}]},
        {"outputs": [{"name": "y", "fill": "lowest", "decimals": 1}]},
        {"outputs": [{"name": "y", "top_k": 0}]},
        {"outputs": [{"name": "y", "top_k": 1.0}]},
        {"outputs": [{"name": "y", "decimals": -1}]},
        {"outputs": [{"name": "y", "decimals": MAX_DECIMALS + 1}]},
        {"outputs": [{"name": "", "hide": True}]},
        {"outputs": [{"name": "y", "hide": True, "more": 1}]},
        {"only_named": True},
        {"only_named": True, "outputs": [{"name": "y", "hide": True}]},
        {"pad_bytes": MIN_PADDING_BYTES // 2},
        {"pad_bytes": MIN_PADDING_BYTES + 1},
        {"pad_bytes": 2 * MAX_PADDING_BYTES},
        {"outputs": [{"name": f"{number}{'n' * 30}", "hide": True} for number in range(20)]},
        {"outputs": [{"name": str(number), "hide": True} for number in range(65)]},
    ],
)
def test_terms_that_make_no_sense_are_refused(members: dict[str, Any]) -> None:
    """Nothing restricted, two rules of one output, members that contradict each other, numbers out of bounds."""
    with pytest.raises(InvalidValueError):
        convert(members, AnswerTerms)


def test_terms_are_small() -> None:
    """Those of all models of an enclave travel with each answer to a renewal."""
    many = tuple(OutputRule(name=f"{number:02}{'n' * 20}", hide=True) for number in range(20))
    assert len(encode(AnswerTerms(outputs=many))) <= MAX_ANSWER_TERMS_BYTES


def test_what_leaves_is_said_by_the_rules() -> None:
    """A hidden output does not; one that no rule names does, unless only what is named may."""
    hidden = OutputRule(name="logits", hide=True)
    named = AnswerTerms(outputs=(OutputRule(name="probabilities", top_k=1), hidden), only_named=True)
    also = AnswerTerms(outputs=(hidden,))
    assert [named.lets(name) for name in ("logits", "probabilities", "label")] == [False, True, False]
    assert [also.lets(name) for name in ("logits", "probabilities", "label")] == [False, True, True]


def _leaves(some: AnswerTerms | None, name: str) -> tuple[int, int]:
    """Return elements and decimals that may leave, said in another way than the product does."""
    if some is None:
        return (99, 99)
    rule = next((rule for rule in some.outputs if rule.name == name), None)
    if rule is None:
        return (0, 0) if some.only_named else (99, 99)
    if rule.hide:
        return (0, 0)
    return (99 if rule.top_k is None else rule.top_k, 99 if rule.decimals is None else 1 + rule.decimals)


@given(terms(), terms())
def test_what_is_looser_lets_everything_leave_that_the_other_does(
    one: AnswerTerms | None, two: AnswerTerms | None
) -> None:
    """For each output, also one that no rule names: as many elements and decimals; and sizes say no more."""
    pads = [0 if some is None else some.pad_bytes for some in (one, two)]
    covered = all(_leaves(one, name)[part] >= _leaves(two, name)[part] for name in (*NAMES, "label") for part in (0, 1))
    assert allows(one, two) is (covered and pads[0] <= pads[1])


@given(terms())
def test_nothing_is_looser_than_itself_and_no_terms_allow_everything(some: AnswerTerms | None) -> None:
    """The order of terms begins with itself and ends with none."""
    assert allows(some, some)
    assert allows(None, some)
