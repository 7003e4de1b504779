"""What every verb has: `--json`, an example in its help, and a `Screen` to write to.

```python
@click.command(cls=Verb, example="aigovtool budget show --model xray")
@operator_option
@click.pass_obj
def show(screen: Screen, operator_file: Path | None) -> None: ...
```
"""

import math
import os
from errno import EACCES, ELOOP, ENOENT, ENOTDIR
from pathlib import Path
from typing import Any, Final

import click

from aigovtool.cli.screen import Screen
from aigovtool.errors import ConfigurationError

#: No first sentence is longer.
_WHOLE: Final = 1000
_JSON: Final = "json_wanted"
_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

#: What whoever opens a path says of it: there is nothing, or it leads nowhere.
_FOUND_OUT_LATER: Final = frozenset({ENOENT, ENOTDIR, ELOOP})


class _Path(click.Path):
    """A name that something can have; what is there is looked at by whoever opens it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Refuse what no file can be called: an empty name, one too long, one in a directory that is not ours to see.

        Raises:
            ConfigurationError: `bad_path`.
        """
        fix = f"name another path for {'this' if param is None else param.get_error_hint(ctx)}"
        try:
            why = None if os.fspath(value) else "the name is empty"
            os.lstat(value)
        except OSError as error:
            why = why or (None if error.errno in _FOUND_OUT_LATER else error.strerror)
            fix = f"be the user to whom it belongs, or {fix}" if error.errno == EACCES else fix
        if why is not None:
            raise ConfigurationError(f"{str(value)[:100]!r} cannot be used: {why}", reason="bad_path", fix=fix)
        return super().convert(value, param, ctx)


class Seconds(click.FloatRange):
    """A number of seconds within bounds, which what is no number is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Refuse what compares with nothing (`nan`), and so is beyond no bound."""
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return float(seconds)


FILE: Final = _Path(path_type=Path, dir_okay=False)
DIRECTORY: Final = _Path(path_type=Path, file_okay=False)
#: A file or a directory; what is neither is refused by whoever opens it.
ANYTHING: Final = _Path(path_type=Path)
FILE_OR_DASH: Final = _Path(allow_dash=True, dir_okay=False)

operator_option = click.option(
    "--operator",
    "operator_file",
    type=FILE,
    envvar="AIGOVTOOL_OPERATOR",
    show_envvar=True,
    help="Your operator file.",
)

key_set_option = click.option(
    "--key-set",
    "key_set_at_least",
    type=click.IntRange(0),
    default=0,
    metavar="VERSION",
    help="Refuse an older key set of the custodian: one of its keys may have been revoked since.",
)


def wrong_usage(message: str) -> click.UsageError:
    """Return the error for options that do not go together, with the verb whose help says more."""
    return click.UsageError(message, click.get_current_context(silent=True))


def write_verbs(group: click.Group, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the verbs of a group with their first sentences, each whole: click would cut what does not fit a line."""
    found = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    rows = [(name, verb.get_short_help_str(limit=_WHOLE)) for name, verb in found if verb is not None]
    with formatter.section("Commands"):
        formatter.write_dl(rows)


class Verb(click.Command):
    """A command with `--json` and an example; its function gets a `Screen` by `click.pass_obj`."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:  # noqa: ANN401 - click's own arguments
        kwargs["context_settings"] = _SETTINGS
        super().__init__(*args, **kwargs)
        self.example: Final = example
        option = click.Option(["--json", _JSON], is_flag=True, help="Print one JSON document, for programs.")
        self.params.append(option)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the function with its screen."""
        from aigovtool.cli.logs import keep_quiet  # noqa: PLC0415 - not needed for help

        keep_quiet()
        wanted = bool(ctx.params.pop(_JSON))
        if not isinstance(ctx.obj, Screen) or ctx.obj.json != wanted:
            ctx.obj = Screen(json=wanted)
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example after the options."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class VerbGroup(click.Group):
    """A noun whose verbs are in one module."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:  # noqa: ANN401 - click's own arguments
        kwargs["context_settings"] = _SETTINGS
        super().__init__(*args, **kwargs)
        self.example: Final = example

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs."""
        write_verbs(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example after the verbs."""
        del ctx
        with formatter.section("Example"):
            formatter.write(f"{'':>{formatter.current_indent}}{self.example}\n")


class DefaultVerbGroup(VerbGroup):
    """A noun that may stand alone: `aigovtool enclaves` is `aigovtool enclaves list`."""

    def __init__(self, *args: Any, default: str, **kwargs: Any) -> None:  # noqa: ANN401 - click's own arguments
        super().__init__(*args, **kwargs)
        self.default: Final = default

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs, and which of them it is without one: its options are not listed here."""
        super().format_commands(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(
                f"Without a command it is `{self.default}`; see `{ctx.command_path} {self.default} --help`."
            )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verb that was left out, but not where a shell asks what there is."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)
