import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import Result

from aigovtool.cli.app import VERBS, app
from aigovtool.cli.failure import EXIT_CODES
from aigovtool.cli.verb import Verb

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("cryptography", "httpx", "numpy", "onnxruntime", "rich", "sqlalchemy", "starlette", "uvicorn")


def verbs(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group, **group.context_settings)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    ("path", "command"), list(verbs(app)), ids=lambda part: "-".join(part) if isinstance(part, tuple) else ""
)
def test_every_verb_has_json_help_and_an_example_of_itself(
    run: Callable[..., Result], path: tuple[str, ...], command: click.Command
) -> None:
    """The example begins with the verb, and all of it is options and arguments that exist."""
    assert isinstance(command, Verb)
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert command.example.startswith(" ".join(["aigovtool", *path]))
    assert all(f"  {line}\n" in result.stdout for line in command.example.splitlines())
    assert command.help
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in command.example.split() if word.startswith("--")} <= options


def groups(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Group]]:
    yield path, group
    context = click.Context(group, **group.context_settings)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from groups(command, (*path, name))


@pytest.mark.parametrize(
    ("path", "group"), list(groups(app)), ids=lambda part: "-".join(part) or "root" if isinstance(part, tuple) else ""
)
def test_no_summary_of_a_verb_is_cut(run: Callable[..., Result], path: tuple[str, ...], group: click.Group) -> None:
    """A sentence that ends in dots says the half of it, and often not the half that matters."""
    listed = " ".join(run(*path, "--help").stdout.partition("Commands:")[2].split())
    assert "..." not in listed
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        assert f"{name} {command.get_short_help_str(limit=10_000)}" in listed


def test_help_of_the_root_lists_verbs_and_every_exit_code(run: Callable[..., Result]) -> None:
    """Programs decide by the exit code, so it is documented where people look first."""
    result = run("--help")
    assert result.exit_code == 0
    lines = {line.split()[0] for line in result.stdout.splitlines() if line.strip()}
    assert set(VERBS) <= lines
    assert {str(code) for code in EXIT_CODES} <= lines


def test_the_reference_in_the_docs_is_what_help_says() -> None:
    """docs/cli.md is generated; run scripts/cli_reference.py after a change."""
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "scripts" / "cli_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == module.render()


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["budget", "grant", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """In a fresh interpreter: no cryptography, HTTP, arrays or database for a line of help."""
    program = (
        "import sys\n"
        "sys.argv = ['aigovtool', *sys.argv[1:]]\n"
        "from aigovtool.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('LOADED', *{name.partition('.')[0] for name in sys.modules})\n"
    )
    found = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=True, text=True)
    loaded = set(found.stdout.rpartition("LOADED")[2].split())
    heavy = loaded & set(HEAVY)
    assert heavy <= ({"rich"} if arguments == ["version"] else set())


def test_no_verb_takes_a_secret_as_an_argument() -> None:
    """Arguments and variables are seen by everybody on the host: keys and credentials are files."""
    for path, command in verbs(app):
        for parameter in command.params:
            if {"key", "credential", "borrower_file", "operator_file", "key_path"} & {parameter.name}:
                assert isinstance(parameter.type, click.Path), path
            assert not isinstance(parameter, click.Option) or not parameter.hide_input, path
