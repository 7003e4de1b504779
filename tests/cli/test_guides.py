"""Commands in README and guides: every verb and every option exists."""

import re
import shlex
from pathlib import Path

import click
import pytest

from aigovtool.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ("README.md", "docs/deploy.md")
#: What stands in fenced blocks, in `code`, and in the units.
_COMMAND_RE = re.compile(r"(?:^|`|=|\s)(?:[\w./]*/)?(aigovtool(?: [^`\n#&|]*)?)", re.MULTILINE)
#: A block, or a piece of code in a line.
_CODE_RE = re.compile(r"^```(?:sh|ini)\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)


def commands(name: str) -> list[list[str]]:
    text = (ROOT / name).read_text(encoding="utf-8")
    code = "\n".join(block or piece for block, piece in _CODE_RE.findall(text)).replace("\\\n", " ")
    found = [shlex.split(match) for match in _COMMAND_RE.findall(code)]
    return [words[1:] for words in found if len(words) > 1 and re.fullmatch(r"[a-z]+|--help", words[1])]


def complaint(words: list[str]) -> str | None:
    """Return what is wrong with a command, as far as it can be told without running it."""
    command: click.Command = app
    context = click.Context(app)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"there is no {words[0]}"
        command, words = found, words[1:]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help", "--version"}
    return next(
        (f"{command.name} has no {word}" for word in words if word.startswith("-") and word not in options), None
    )


@pytest.mark.parametrize("name", GUIDES)
def test_every_command_in_a_guide_exists(name: str) -> None:
    """A reader pastes it; a verb or an option that was renamed is found here."""
    found = commands(name)
    assert found
    assert {" ".join(words): told for words in found if (told := complaint(words))} == {}


def test_a_command_that_does_not_exist_is_noticed() -> None:
    """Verbs, verbs of verbs, and options."""
    for words in (["lend", "x"], ["model", "lend"], ["model", "add", "x", "--who", "y"]):
        assert complaint(words)
    assert complaint(["model", "add", "x.aigov", "--borrower", "st-mary"]) is None
