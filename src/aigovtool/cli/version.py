"""`aigovtool version`."""

import platform

import click
from msgspec import Struct

from aigovtool import __version__
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import Verb


class Version(Struct, frozen=True, kw_only=True):
    """What runs here."""

    aigovtool: str
    python: str


@click.command(cls=Verb, example="aigovtool version --json")
@click.pass_obj
def version(screen: Screen) -> None:
    """Show the version of this program."""
    found = Version(aigovtool=__version__, python=platform.python_version())
    screen.show(found, lambda: screen.line(f"aigovtool {found.aigovtool} (Python {found.python})"))
