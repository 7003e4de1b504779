"""What may leave in a model's answers, on the command line: said, shown in words, changed, and loosened by two."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from tests.cli.conftest import Place
from tests.cli.site import Site, make_site
from tests.custodian.conftest import MODEL

from aigovtool.cli.model.answers import AnswerWishes, answer_facts, changed
from aigovtool.errors import InvalidValueError
from aigovtool.ledger.answers import AnswerTerms, Fill, OutputRule
from aigovtool.transport.server import bind_loopback

LARGEST = OutputRule(name="p", top_k=3, decimals=2)
HIDDEN = OutputRule(name="logits:0", hide=True)
EVERYTHING = "all other outputs, as they are"
ONE = AnswerTerms(outputs=(LARGEST,))
NAMED = AnswerTerms(outputs=(OutputRule(name="y"), LARGEST), only_named=True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A custodian with two operators, and a model with one output, `y`."""
    with bind_loopback() as listener:
        made = make_site(tmp_path, listener, None)
        yield made
        made.bench.custodian.database.close()


def wishes(*rules: str, only_named: bool | None = None, pad_bytes: int | None = None) -> AnswerWishes:
    return AnswerWishes(rules, only_named, pad_bytes)


@pytest.mark.parametrize(
    ("present", "wished", "then"),
    [
        (None, wishes("p:top=3,decimals=2"), ONE),
        (None, wishes("logits:0:hide", pad_bytes=4096), AnswerTerms(outputs=(HIDDEN,), pad_bytes=4096)),
        (None, wishes("y:fill=lowest,top=1"), AnswerTerms(outputs=(OutputRule(name="y", top_k=1, fill=Fill.LOWEST),))),
        (None, wishes("y:all", only_named=True), AnswerTerms(outputs=(OutputRule(name="y"),), only_named=True)),
        (ONE, wishes("logits:0:hide"), AnswerTerms(outputs=(LARGEST, HIDDEN))),
        (ONE, wishes("p:decimals=0"), AnswerTerms(outputs=(OutputRule(name="p", decimals=0),))),
        (ONE, wishes(pad_bytes=1024), AnswerTerms(outputs=(LARGEST,), pad_bytes=1024)),
        (AnswerTerms(outputs=(LARGEST, HIDDEN)), wishes("p:all"), AnswerTerms(outputs=(HIDDEN,))),
        (ONE, wishes("p:all"), None),
        (AnswerTerms(pad_bytes=1024), wishes(pad_bytes=0), None),
        (NAMED, wishes(only_named=False), ONE),
        (None, wishes("y:all"), None),
        (None, wishes(), None),
        (ONE, wishes(), ONE),
    ],
)
def test_options_change_what_they_name(
    present: AnswerTerms | None, wished: AnswerWishes, then: AnswerTerms | None
) -> None:
    """Each output has the rule that was said last; `all` takes one back; names may have colons."""
    assert changed(present, wished) == then


@pytest.mark.parametrize(
    "rules",
    [
        ("y",),
        (":hide",),
        ("y:",),
        ("y:top",),
        ("y:top=",),
        ("y:top=0",),
        ("y:top=-1",),
        ("y:top=1.5",),
        ("y:top=\N{ARABIC-INDIC DIGIT ONE}",),
        ("y:top=x",),
        ("y:top=1,top=2",),
        ("y:decimals=16",),
        ("y:hide,top=1",),
        ("y:fill=lowest",),
        ("y:fill=least,top=1",),
        ("y:most=1",),
        ("y:hide", "y:top=1"),
        ("x" * 257 + ":hide",),
    ],
)
def test_a_rule_that_says_nothing_is_refused(rules: tuple[str, ...]) -> None:
    """Slips are said, and nothing is guessed: an output might leave."""
    with pytest.raises(InvalidValueError):
        changed(None, wishes(*rules))


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (None, ("all outputs, as they are", "as long as they are")),
        (
            AnswerTerms(outputs=(LARGEST, HIDDEN)),
            (
                "p: the 3 largest of each row, for the others 0, 2 decimals; logits:0: never; " + EVERYTHING,
                "as long as they are",
            ),
        ),
        (
            AnswerTerms(
                outputs=(OutputRule(name="a", top_k=1, fill=Fill.LOWEST), OutputRule(name="b", decimals=1)),
                only_named=True,
                pad_bytes=4096,
            ),
            (
                "a: the largest of each row, for the others the least number; b: 1 decimal; no other output",
                "one of a few, from 4,096 bytes on",
            ),
        ),
        (
            AnswerTerms(outputs=(OutputRule(name="a"),), only_named=True),
            ("a: as it is; no other output", "as long as they are"),
        ),
    ],
)
def test_terms_are_told_in_words(terms: AnswerTerms | None, words: tuple[str, str]) -> None:
    """What leaves of each output, of the others, and in which sizes."""
    assert tuple(text for _, text in answer_facts(terms)) == words


def terms(place: Place, *arguments: str) -> Result:
    return place.run("model", "terms", MODEL, *arguments)


def test_one_operator_makes_terms_stricter_and_two_loosen_them(site: Site) -> None:
    """Old and new side by side, for both; `model show` and the second operator see the same words."""
    with site.served() as place:
        done = terms(place, "--output", "y:top=1,decimals=2", "--pad-answers", "4096", "--yes")
        assert done.exit_code == 0, done.output
        for words in ("all outputs, as they are", "y: the largest of each row", "4,096 bytes"):
            assert words in " ".join(done.stdout.split())
        now = place.document("model", "terms", MODEL)["now"]
        assert now["answers"] == {"outputs": [{"name": "y", "top_k": 1, "decimals": 2}], "pad_bytes": 4096}
        assert "the largest of each row" in " ".join(place.run("model", "show", MODEL).stdout.split())
        same = terms(place, "--output", "y:decimals=2,top=1", "--yes")
        assert (same.exit_code, "same_terms" in same.stderr) == (3, True)
        order = place.file("order.json")
        for looser in (("--output", "y:all"), ("--output", "y:top=2,decimals=2"), ("--pad-answers", "0")):
            refused = terms(place, *looser, "--yes")
            assert (refused.exit_code, "needs_second" in refused.stderr) == (3, True), refused.output
        one = terms(place, "--output", "y:top=1,decimals=1", "--save", order)
        assert (one.exit_code, "needs_one" in one.stderr) == (3, True)
        assert terms(place, "--output", "y:all", "--pad-answers", "0", "--save", order).exit_code == 0
        cosigned = place.run("cosign", order, "--operator", place.file("bob.json"), "--yes")
        assert cosigned.exit_code == 0, cosigned.output
        assert "all outputs, as they are" in " ".join(cosigned.stdout.split())
        assert place.document("model", "terms", MODEL)["now"]["answers"] is None
        listed = " ".join(place.run("audit", "list", "--kind", "model_terms_set").stdout.split())
        assert listed.count("and more leaves in answers") == 1


def test_rules_that_the_model_cannot_keep_are_told(site: Site) -> None:
    """By the custodian, which knows what outputs there are."""
    with site.served() as place:
        refused = terms(place, "--output", "z:hide", "--yes")
        assert (refused.exit_code, "no_such_output" in refused.stderr) == (3, True)
        refused = terms(place, "--pad-answers", "1000", "--yes")
        assert refused.exit_code == 3
        assert "power of two" in refused.stderr


def test_a_model_is_lent_on_them_from_the_start(lent: Place) -> None:
    """`model add` says what leaves; it needs no second operator: nothing leaves yet."""
    sealed = lent.file("picky.aigov")
    assert lent.run("model", "seal", lent.file("xray.onnx"), "--name", "picky", "-o", sealed).exit_code == 0
    added = lent.run("model", "add", sealed, "--borrower", "st-mary", "--pad-answers", "1024")
    assert added.exit_code == 0, added.output
    assert "1,024 bytes" in added.stdout
    (found,) = [each for each in lent.document("model", "list")["models"] if each["model"] == "picky"]
    assert found["policy"]["answers"] == {"pad_bytes": 1024}
