"""`aigovtool completion`: have a shell complete verbs and options."""

from typing import Final

import click
from click.shell_completion import get_completion_class
from msgspec import Struct

from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import Verb, wrong_usage

_PROGRAM: Final = "aigovtool"
_VARIABLE: Final = "_AIGOVTOOL_COMPLETE"
_WHERE: Final = {
    "bash": 'eval "$(aigovtool completion bash)"     # in ~/.bashrc',
    "zsh": 'eval "$(aigovtool completion zsh)"      # in ~/.zshrc',
    "fish": "aigovtool completion fish | source        # in ~/.config/fish/config.fish",
}


class Completion(Struct, frozen=True, kw_only=True):
    """A script for a shell, and where it goes."""

    shell: str
    script: str
    line: str


@click.command(cls=Verb, example="aigovtool completion bash")
@click.argument("shell", type=click.Choice(sorted(_WHERE)))
@click.pass_obj
def completion(screen: Screen, shell: str) -> None:
    """Print what has SHELL complete verbs, options and file names.

    In ~/.bashrc or ~/.zshrc: eval "$(aigovtool completion bash)", or zsh. In ~/.config/fish/config.fish: aigovtool
    completion fish | source.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise wrong_usage(f"{shell} is not completed by this version of click")
    root = click.get_current_context().find_root().command
    # `source` asks the shell for its version, and warns on standard error where that is too old.
    script = kind(root, {}, _PROGRAM, _VARIABLE).source()
    found = Completion(shell=shell, script=script, line=_WHERE[shell])
    screen.show(found, lambda: click.echo(script))
