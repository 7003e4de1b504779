"""Asking before what cannot be undone, or lifts a safeguard. A program does not answer: it says `--yes`."""

import sys
from collections.abc import Sequence

import click

from aigovtool.cli.screen import Screen
from aigovtool.errors import InvalidValueError

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def confirm(screen: Screen, verb: str, notes: Sequence[str]) -> None:
    """Show `notes` and ask whether to go on.

    Raises:
        InvalidValueError: `not_confirmed`, when nobody is there to answer.
        click.Abort: the answer is no.
    """
    if screen.json or not sys.stdin.isatty():
        raise InvalidValueError(
            f"`{verb}` asks first, and nobody is there to answer", reason="not_confirmed", fix="add --yes"
        )
    for note in notes:
        screen.note(note)
    click.confirm(f"{verb}?", abort=True, err=True)
