"""Numbers of units on the command line: bounded, and refused in words that say what is wanted.

A negative number looks like an option to a parser of command lines; `UnitsVerb` says what it is instead.
"""

import re
from typing import Final

import click

from aigovtool.cli.verb import Verb

MAX_UNITS: Final = 10**12
UNLIMITED: Final = "unlimited"
_DIGITS_MAX: Final = 13
_NEGATIVE_RE: Final = re.compile(r"-\.?[0-9][0-9._]*")


class UnitsVerb(Verb):
    """A verb with units among its arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse negative numbers before they are taken for options."""
        for argument in args:
            if argument == "--":
                break
            if _NEGATIVE_RE.fullmatch(argument):
                raise click.BadParameter(f"{argument} is no number of units: units are never negative", ctx)
        return super().parse_args(ctx, args)


class _Units(click.ParamType[int]):
    name = "UNITS"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        units = parse_units(str(value))
        if not units:
            self.fail(f"{str(value)[:40]!r} is no number of units: give 1 to {MAX_UNITS}", param, ctx)
        return units


def parse_units(text: str) -> int | None:
    """Return a number of units from 0 to `MAX_UNITS`; None if it is anything else."""
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX or int(text) > MAX_UNITS:
        return None
    return int(text)


UNITS: Final = _Units()
