"""The tree of verbs. A verb's module is imported when the verb is used, or when help lists it.

To add a verb: one line in `VERBS`, one module; a room of its own when it has several.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, NoReturn

import click
from click.exceptions import NoSuchCommand

from aigovtool import __version__
from aigovtool.cli.failure import EXIT_CODES, end_output, tell
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import write_verbs
from aigovtool.crypto.memory import keep_private

#: Verb -> where its click command is; in the order of `aigovtool --help`.
VERBS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "custodian": "aigovtool.cli.custodian.verb:custodian",
        "operator": "aigovtool.cli.parties.operator:operator",
        "borrower": "aigovtool.cli.parties.party:borrower",
        "consumer": "aigovtool.cli.parties.party:consumer",
        "renew": "aigovtool.cli.parties.renew:renew",
        "model": "aigovtool.cli.model.verb:model",
        "budget": "aigovtool.cli.budget.verb:budget",
        "usage": "aigovtool.cli.usage:usage",
        "enclaves": "aigovtool.cli.enclaves.verb:enclaves",
        "appraisal": "aigovtool.cli.appraisal.verb:appraisal",
        "evidence": "aigovtool.cli.evidence.verb:evidence",
        "endorsements": "aigovtool.cli.endorsements.verb:endorsements",
        "reference-values": "aigovtool.cli.reference.verb:reference_values",
        "stop": "aigovtool.cli.stop.verb:stop",
        "resume": "aigovtool.cli.stop.verb:resume",
        "cosign": "aigovtool.cli.cosign:cosign",
        "audit": "aigovtool.cli.audit.verb:audit",
        "enclave": "aigovtool.cli.enclave:enclave",
        "infer": "aigovtool.cli.infer:infer",
        "connect": "aigovtool.cli.connect.verb:connect",
        "receipt": "aigovtool.cli.receipt.verb:receipt",
        "demo": "aigovtool.cli.demo.verb:demo",
        "doctor": "aigovtool.cli.doctor.verb:doctor",
        "completion": "aigovtool.cli.completion:completion",
        "version": "aigovtool.cli.version:version",
    }
)


class App(click.Group):
    """The root: finds verbs, and turns whatever goes wrong into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all verbs."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one verb."""
        del ctx
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name].partition(":")
        command = getattr(import_module(module), attribute)
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a verb; for one that there is not, name what is like it."""
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:
            raise NoSuchCommand(error.command_name, possibilities=VERBS, ctx=ctx) from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - click's signature
        **extra: Any,  # noqa: ANN401 - click's signature
    ) -> NoReturn:
        """Run, and end the process with the exit code of what happened; no traceback reaches anybody."""
        del standalone_mode
        arguments = list(sys.argv[1:] if args is None else args)
        screen = Screen(json="--json" in arguments)
        try:
            keep_private()  # many verbs read keys
            code = super().main(arguments, prog_name, complete_var, standalone_mode=False, obj=screen, **extra)
        except (Exception, KeyboardInterrupt) as exception:  # noqa: BLE001 - the outermost frame of the program
            code = tell(exception, screen)
        sys.exit((code if isinstance(code, int) else 0) or end_output(screen))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs."""
        write_verbs(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit codes after the verbs."""
        del ctx
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])
        with formatter.section("Example"):
            formatter.write(f"{'':>{formatter.current_indent}}aigovtool doctor\n")


def _say_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's
    if wanted:
        click.echo(f"aigovtool {__version__}")
        context.exit()


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_say_version, help="Show the version."
)
def app() -> None:
    """Lend an AI model without giving it away.

    The custodian lends models, borrowers run them in enclaves, consumers use them, and every use is counted. Every
    verb prints tables for people and, with --json, one JSON document for programs. Operators name their file with
    --operator or in AIGOVTOOL_OPERATOR.
    """
