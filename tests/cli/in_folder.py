"""Verbs run in this process, on files of one folder: words that begin with `@` are names in it."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from aigovtool.cli.app import app


def run(folder: Path, *arguments: str) -> Result:
    """Run a verb."""
    words = [str(folder / word[1:]) if word.startswith("@") else word for word in arguments]
    return CliRunner().invoke(app, words, env={"NO_COLOR": "1"}, prog_name="aigovtool")


def done(folder: Path, *arguments: str) -> Any:
    """Run a verb that comes to its end, and return its document."""
    result = run(folder, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run a verb that is refused, and return its exit code and the reason."""
    result = run(folder, *arguments, "--json")
    return result.exit_code, json.loads(result.stdout)["error"]["reason"]
