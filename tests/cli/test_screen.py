"""What is printed does nothing to a terminal, for people and for programs."""

import json
import re
import subprocess
import sys

import msgspec
import pytest

from aigovtool.cli.screen import Screen
from aigovtool.cli.words import plain


class Document(msgspec.Struct, frozen=True):
    """What a verb might print."""

    name: str


@pytest.mark.parametrize("name", ["\x7f", "\x9b31m", "\u202e", "\ud7ff", "\U000e0001", "\n\t\x1b[2J", "é 中 🙂"])
def test_a_document_means_what_it_was_and_moves_no_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Control sequences, also the 8-bit ones, and marks that turn text around are escaped; letters are not."""
    Screen(json=True).show(Document(name), lambda: None)
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"name": name}
    assert all(one.isprintable() for one in printed.replace("\n", ""))
    assert ("🙂" in printed) == ("🙂" in name)


#: What a consumer may give as the reason of a request for budget.
FORGED = "new ward" + 12 * " " + "2026-11-26 18:00:00Z" + 2 * " " + "approved by alice"


def test_what_a_peer_says_in_a_table_looks_like_no_further_column(capsys: pytest.CaptureFixture[str]) -> None:
    """Attack: a reason with the columns that come after it. It stays in its own, which has one space between words."""
    Screen(json=False).table(("reason", "at", "state"), [(FORGED, "2026-11-27 09:00:00Z", "open")], "")
    row = capsys.readouterr().out.splitlines()[-1]
    assert re.split(" {2,}", row.strip()) == [re.sub(" +", " ", FORGED), "2026-11-27 09:00:00Z", "open"]


def test_what_a_peer_says_beside_a_name_looks_like_no_further_name(capsys: pytest.CaptureFixture[str]) -> None:
    """A line is a name, two spaces or more, and a value."""
    Screen(json=False).facts([("reason", "drill over" + 60 * " " + "custodian  another"), ("custodian", "this one")])
    first, second = capsys.readouterr().out.splitlines()
    assert re.split(" {2,}", first) == ["reason", "drill over custodian another"]
    assert re.split(" {2,}", second) == ["custodian", "this one"]


@pytest.mark.parametrize("blank", ["\u115f", "\u1160", "\u2800", "\u3164", "\uffa0", "\u200b", "\u00a0"])
def test_what_shows_nothing_is_shown(blank: str) -> None:
    """Letters and symbols without a form, among them some that count as printable."""
    assert plain(f"a{blank}b") == "a?b"


def test_a_name_of_a_fact_that_a_peer_chose_holds_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    """An output may be called anything: one name, and the value that is its own; two columns where there are two."""
    Screen(json=False).facts(
        [("receipt" + 9 * " " + "verified", ("float32[1]", "0.5")), ("y", ("int64[1, 2]", "1, 2"))]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(" {2,}", line) for line in lines] == [
        ["receipt verified", "float32[1]", "0.5"],
        ["y", "int64[1, 2]", "1, 2"],
    ]


def test_documents_that_follow_each_other_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """So that programs can part them."""
    screen = Screen(json=True)
    screen.go_on()
    for name in ("a", "b\u2028"):
        screen.show(Document(name), lambda: None)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"name": "a"}, {"name": "b\u2028"}]


def test_a_failure_of_what_serves_has_no_values_that_are_none() -> None:
    """A line of the log has what is known."""
    code = (
        "from aigovtool.cli.screen import Screen\n"
        "screen = Screen(json=False)\n"
        "screen.serve()\n"
        "screen.failure('the disk is full', 'unwritable', None, None)\n"
    )
    line = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stderr)
    assert (line["event"], line["reason"], "fix" in line) == ("the disk is full", "unwritable", False)
