"""Commands in README and guides: every verb and every option exists."""

import re
import shlex
from importlib.metadata import requires
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

from aigovtool.cli.app import app
from aigovtool.cli.verb import DefaultVerbGroup

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
    while isinstance(command, click.Group):
        if isinstance(command, DefaultVerbGroup) and (not words or words[0].startswith("-")):
            words = [command.default, *words]
        if not words or words[0].startswith("-"):
            break
        found = command.get_command(context, words[0])
        if found is None:
            return f"there is no {words[0]}"
        command, words = found, words[1:]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help", "--version"}
    return next(
        (f"{command.name} has no {word}" for word in words if word.startswith("-") and word not in options), None
    )


@pytest.mark.parametrize("name", [*GUIDES, "docs/connect.md", "docs/sdk.md", "SECURITY.md"])
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


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_installs_nothing_that_no_hash_names(name: str) -> None:
    """What runs where the keys are is what was tested: packages by hash, and then this one alone, fetching nothing."""
    code = "\n".join(block for block, _ in _CODE_RE.findall((ROOT / name).read_text(encoding="utf-8")))
    found = [line for line in code.splitlines() if "pip install" in line]
    assert len(found) >= 2
    by_hash = "--require-hashes --only-binary :all: -r "
    alone = "--no-deps --no-build-isolation "
    assert [line for line in found if by_hash not in line and alone not in line] == []


def locked(name: str) -> dict[str, str]:
    """Return the hashes in a lock, by package and version; where each is installed is another matter."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return {line.split()[0]: " ".join(line.split("--hash")[1:]) for line in text.splitlines()}


def test_what_the_guides_install_is_what_was_tested() -> None:
    """Every package of the product has the same version and the same hashes as in the lock of the tests."""
    product, tested = locked("product.txt"), locked("dev.txt")
    assert product
    assert {name for name, line in product.items() if tested.get(name) != line} == set()
    assert locked("enclave.txt").keys() <= product.keys()
    needed = [Requirement(text).name for text in requires("aigovtool") or () if "tpm2-pytss" not in text]
    names = {name.partition("==")[0].partition("[")[0] for name in product}
    assert {name for name in needed if name.partition("[")[0] not in names} == {"aigovtool"}
    assert "flit-core" in names
