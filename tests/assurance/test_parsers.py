import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest
from assurance.campaigns.parsers import PARSERS
from assurance.code_digest import ROOT, files_under
from assurance.figures import Figures
from assurance.parsers.campaign import campaign_of
from assurance.parsers.parser import MOST_BYTES, Kind, Parser, Parts, digest, inputs_of, judged, play, replayed

from aigovtool.errors import MalformedError

NAMES = [parser.name for parser in PARSERS]
#: Plays a seed of each parser in a process of its own, and says what it was made of and what came of it.
PLAY_ALL = """
from assurance.campaigns.parsers import PARSERS
from assurance.parsers.parser import digest, inputs_of, play
assert False, "asserts are off"
for parser in PARSERS:
    found = play(parser, 3)
    print(parser.name, digest(tuple(digest(made.parts).encode() for made in inputs_of(parser, 3))))
    print(parser.name, sorted(found.counts.items()), found.told())
"""


@pytest.fixture(params=PARSERS, ids=NAMES)
def parser(request: pytest.FixtureRequest) -> Parser:
    found: Parser = request.param
    return found


# --- Every parser --------------------------------------------------------------------------------


def test_genuine_inputs_are_accepted_as_they_are(parser: Parser) -> None:
    """Edits begin with something that the product takes, and of which the oracle says nothing."""
    for kind in parser.kinds:
        assert kind.genuine, kind.name
        for parts in kind.genuine:
            assert kind.wrong(parts, kind.read(parts)) is None, kind.name


def test_two_seeds_find_nothing(parser: Parser) -> None:
    """Each kind of input is made, some are refused, and none is received wrongly."""
    campaign = campaign_of(parser)
    figures = Figures(spans=[])
    for one in campaign.run([0, 1], float("inf")):
        figures = figures.plus(one)
    assert figures.violations == []
    assert 60 < figures.count("inputs") == figures.count("refused") + figures.count("accepted")
    assert figures.count("refused") > 10
    assert max(figures.sample("slowest_s")) < 1
    assert f"{figures.count('inputs')} inputs (" in campaign.figure(figures)


def test_every_kind_of_input_is_played(parser: Parser) -> None:
    """None of them is too rare to come up."""
    seen = {made.kind.name for seed in range(12) for made in inputs_of(parser, seed)}
    assert seen == {kind.name for kind in parser.kinds}


def test_a_seed_makes_the_same_inputs_and_verdicts_everywhere() -> None:
    """In another process, with other hashes of texts, and without asserts: what is found can be looked at again."""
    expected = []
    for parser in PARSERS:
        found = play(parser, 3)
        expected.append(f"{parser.name} {digest(tuple(digest(made.parts).encode() for made in inputs_of(parser, 3)))}")
        expected.append(f"{parser.name} {sorted(found.counts.items())} {found.told()}")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-O", "-c", PLAY_ALL]
    played = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert played.stdout.splitlines() == expected


def test_a_parser_covers_what_it_is_made_of(parser: Parser) -> None:
    """A change of any module that its oracle or its edits come from voids its figures, and no other parser's does."""
    covered = {path.relative_to(ROOT).as_posix() for path in files_under(campaign_of(parser).covers)}
    own = f"assurance/parsers/{parser.name.replace('-', '_')}.py"
    assert set(imported(own)) | {own} <= covered
    others = {f"assurance/parsers/{name.replace('-', '_')}.py" for name in NAMES if name != parser.name}
    assert not others & covered


def imported(path: str, seen: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the modules beside a parser that its module imports, and what these import."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("assurance.parsers"):
            names = (
                [node.module] if node.module != "assurance.parsers" else [f"{node.module}.{n.name}" for n in node.names]
            )
            for name in (f"{name.replace('.', '/')}.py" for name in names):
                if name not in seen:
                    yield name
                    yield from imported(name, (*seen, name))


# --- The judge -----------------------------------------------------------------------------------


def flipped(_: Parts, chance: Random) -> Parts:
    return (bytes([chance.choice(b"0123456789\0 a\x80\xff")]),)


def read_digit(parts: Parts) -> int:
    if not parts[0].isdigit():
        raise MalformedError("no digit")
    return int(parts[0])


def other_digit(parts: Parts, value: object) -> str | None:
    return None if str(value).encode() == parts[0] else "another digit"


DIGITS = Kind(
    name="digits",
    genuine=((b"7",),),
    edit=flipped,
    read=read_digit,
    wrong=other_digit,
    refusals=(MalformedError,),
)


def parser_of(kind: Kind, covers: tuple[str, ...] = ("assurance/parsers/parser.py",)) -> Parser:
    return Parser(name="digits", claim="", counts="", shows_not="", covers=covers, make=lambda: (kind,))


def accept(parts: Parts) -> object:
    return parts[0].decode("latin-1")


def fail(parts: Parts) -> int:
    return {b"7": 7}[parts[0]] if parts[0] < b"0" else read_digit(parts)


def change(parts: Parts) -> int:
    return read_digit(parts) ^ (parts[0] == b"3")


def exhaust(parts: Parts) -> int:
    if parts[0] >= b"\x80":
        raise RecursionError
    return read_digit(parts)


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (accept, "another digit (digits, input "),
        (fail, "raised KeyError at test_parsers.py:"),
        (change, "another digit (digits, input "),
        (exhaust, "raised RecursionError at test_parsers.py:"),
    ],
    ids=["accepts-everything", "raises-what-is-not-ours", "changes-a-value", "exhausts-the-stack"],
)
def test_a_reader_with_a_fault_is_found_out(read: Callable[[Parts], object], problem: str) -> None:
    """The campaign's violation names the input by its digest, and its seed shows it again, whole."""
    parser = parser_of(replace(DIGITS, read=read))
    (figures,) = (one for one in campaign_of(parser).run([5], float("inf")))
    (found,) = figures.violations
    assert found.seed == 5
    assert found.what.startswith(problem)
    wrong = [made for made in inputs_of(parser, 5) if digest(made.parts) in found.what]
    assert wrong
    assert wrong[0].shown() in replayed(parser, 5)
    assert campaign_of(parser).broken(figures)


def test_a_reader_without_a_fault_is_left_alone() -> None:
    """A judge that cries wolf is switched off."""
    assert play(parser_of(DIGITS), 5).told() is None


def test_a_reader_that_takes_long_is_found_out() -> None:
    """The slowest input is what the bound is about; the time of the oracle is not the product's."""
    now_s = 0.0

    def ponder(parts: Parts, value: object) -> str | None:
        nonlocal now_s
        now_s += 100
        return other_digit(parts, value)

    def read(parts: Parts) -> int:
        nonlocal now_s
        now_s += 1.5 if parts == (b"\xff",) else 0.25
        return read_digit(parts)

    parser = parser_of(replace(DIGITS, read=read, wrong=ponder))
    assert play(parser, 0, lambda: now_s).slowest_s == 1.5
    quick = parser_of(replace(DIGITS, read=read, wrong=ponder, edit=lambda _, __: (b"8",)))
    assert play(quick, 0, lambda: now_s).slowest_s == 0.25
    measured = Figures(spans=[], samples={"slowest_s": [1.0], "grown_mib": [64.0], "peak_mib": [99.0]})
    assert len(campaign_of(parser).broken(measured)) == 2
    assert not campaign_of(parser).broken(Figures(spans=[], samples={"slowest_s": [0.99], "grown_mib": [63.9]}))


def test_a_refusal_by_another_error_than_expected_is_found_out() -> None:
    """Each reader names the errors that its callers are ready for."""
    parser = parser_of(replace(DIGITS, refusals=()))
    told = play(parser, 0).told()
    assert told is not None
    assert told.startswith("raised MalformedError")


def test_a_refusal_of_what_is_well_formed_is_found_out() -> None:
    """Where the oracle reads refused inputs as well, a reader cannot refuse everything."""

    def refuse(parts: Parts) -> int:
        if parts != (b"7",):
            raise MalformedError("no")
        return 7

    wrongly = replace(DIGITS, read=refuse, refused_wrongly=lambda parts, _: "refused" if parts[0].isdigit() else None)
    found = [play(parser_of(wrongly), seed).told() for seed in range(9)]
    assert any(told is not None and told.startswith("refused (") for told in found)


def test_an_oracle_that_fails_is_looked_into() -> None:
    """It must not end the campaign, nor pass."""

    def confused(_parts: Parts, _value: object) -> str | None:
        raise ValueError("what is this?")

    (made, *_) = inputs_of(parser_of(replace(DIGITS, edit=lambda _, __: (b"8",))), 0)
    verdict = judged(replace(made, kind=replace(DIGITS, wrong=confused)))
    assert verdict.problem is not None
    assert verdict.problem.startswith("not understood by the oracle, which raised ValueError")


def test_inputs_stay_small() -> None:
    """Whatever edits do, the memory that is measured is not the harness's."""
    huge = parser_of(replace(DIGITS, edit=lambda _, __: (bytes(3 << 20),)))
    assert {len(part) for made in inputs_of(huge, 0) for part in made.parts} == {MOST_BYTES}


def test_an_input_is_known_by_its_parts() -> None:
    """The same bytes, cut elsewhere, are another input."""
    assert digest((b"ab", b"c")) != digest((b"a", b"bc")) != digest((b"abc",))
