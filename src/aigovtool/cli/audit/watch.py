"""`aigovtool audit checkpoint` and `aigovtool audit compare`: watch a custodian's log over time.

Anybody can: no credential is sent, only the custodian's address and root key are taken from a party file. Whoever keeps
checkpoints can tell later that the log was rewritten or forgotten.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.credentials import read_party, require_free
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb, key_set_option
from aigovtool.cli.words import count
from aigovtool.errors import ConfigurationError, LogError

if TYPE_CHECKING:
    from aigovtool.ledger.checkpoint import Checkpoint
    from aigovtool.operator.witness import LogWitness

party_option = click.option(
    "--party",
    "party_file",
    type=FILE,
    envvar="AIGOVTOOL_OPERATOR",
    show_envvar=True,
    help="Any party's file, for the custodian's address and root key.",
)
_ROOT_CHARS: Final = 16
_OF_THIS_LOG: Final = "give what `aigovtool audit checkpoint` wrote, with the party file of the same custodian"


class Noted(Struct, frozen=True, kw_only=True):
    """The present checkpoint; `file` is null when it was not saved."""

    custodian: str
    entries: int
    root: str
    generation: int
    note: str
    file: str | None


class Compared(Struct, frozen=True, kw_only=True):
    """A log that extends the log of an older checkpoint. `file` is where the present one was saved, if it was."""

    custodian: str
    entries_then: int
    generation_then: int
    entries: int
    root: str
    generation: int
    note: str
    file: str | None


@click.command(cls=Verb, example="aigovtool audit checkpoint --party radiology.json -o checkpoint.txt")
@click.option("-o", "--out", type=FILE, help="File to save it to; must not exist.")
@party_option
@key_set_option
@click.pass_obj
def checkpoint(screen: Screen, *, out: Path | None, party_file: Path | None, key_set_at_least: int) -> None:
    """Show the custodian's present signed checkpoint, and save it.

    It stands for every entry of the log at this moment. Keep it: `audit compare` and `audit verify --seen` tell later
    whether the log still begins with these entries. It is a signed note (C2SP tlog-checkpoint), and no secret.
    """
    from aigovtool.operator.witness import write_note  # noqa: PLC0415

    if out is not None:
        require_free(out)
    with linked(party_file, key_set_at_least) as witness:
        seen = witness.head()
    if out is not None:
        write_note(out, seen.note)
    found = seen.checkpoint
    noted = Noted(
        custodian=found.custodian,
        entries=found.size,
        root=found.root.hex(),
        generation=found.generation,
        note=seen.note,
        file=None if out is None else str(out),
    )

    def render() -> None:
        screen.line(f"the log has {_named(found)}")
        if out is not None:
            screen.line(f"saved; compare later: aigovtool audit compare {out}")

    screen.show(noted, render)


@click.command(cls=Verb, example="aigovtool audit compare checkpoint.txt --party radiology.json")
@click.argument("file", type=FILE)
@click.option("-o", "--out", type=FILE, help="File to save the present checkpoint to; must not exist.")
@party_option
@key_set_option
@click.pass_obj
def compare(screen: Screen, *, file: Path, out: Path | None, party_file: Path | None, key_set_at_least: int) -> None:
    """Have the custodian prove that its log still begins with what a kept checkpoint stands for.

    FILE is shown to the custodian: if its ledger was restored from a backup and has forgotten entries that FILE stands
    for, it stops granting. Exit code 5 says that the log was rewritten, rolled back, or lost with a backup.
    """
    from aigovtool.operator.witness import read_note, write_note  # noqa: PLC0415

    if out is not None:
        require_free(out)
    note = read_note(file)
    with linked(party_file, key_set_at_least) as witness:
        try:
            held, now = witness.compare(note)
        except LogError as error:
            raise LogError(f"{file}: {error.message}", reason=error.reason, fix=error.fix or _OF_THIS_LOG) from None
    if out is not None:
        write_note(out, now.note)
    present = now.checkpoint
    done = Compared(
        custodian=present.custodian,
        entries_then=held.size,
        generation_then=held.generation,
        entries=present.size,
        root=present.root.hex(),
        generation=present.generation,
        note=now.note,
        file=None if out is None else str(out),
    )

    def render() -> None:
        screen.line(f"the log extends {file}: nothing of it was changed or forgotten", style="green")
        screen.facts([("then", _named(held)), ("now", _named(present))])

    screen.show(done, render)


def _named(found: "Checkpoint") -> str:
    return f"{count(found.size)} entries, generation {found.generation}, root {found.root.hex()[:_ROOT_CHARS]}..."


def linked(party_file: Path | None, key_set_at_least: int = 0) -> "LogWitness":
    """Return a connection to the custodian of a party file, as nobody, that believes no older key set than is known.

    Raises:
        ConfigurationError: `no_party_file`, and whatever is wrong with the file.
    """
    from aigovtool.operator.witness import LogWitness  # noqa: PLC0415
    from aigovtool.protocol.party import known_key_set  # noqa: PLC0415

    if party_file is None:
        raise ConfigurationError(
            "no party file was named",
            reason="no_party_file",
            fix="give --party FILE, of any party of this custodian, or set AIGOVTOOL_OPERATOR",
        )
    party = read_party(party_file)
    link = LogWitness(party.custodian)
    link.believe_no_older_key_set(max(key_set_at_least, known_key_set(party)))
    return link
