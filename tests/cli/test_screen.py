"""What is printed does nothing to a terminal, for people and for programs."""

import json

import msgspec
import pytest

from aigovtool.cli.screen import Screen


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
