"""`aigovtool audit witness`: what the keeper of a witness does. What operators do is in `witness_enrol`.

A witness is its directory: a key, and what it remembers of each log that it co-signs (`operator.witness_home`). It
needs no credential: of a party file only the custodian's address and root key are taken.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.audit.watch import linked, party_option
from aigovtool.cli.audit.witness_accept import accept
from aigovtool.cli.audit.witness_enrol import enrol, list_witnesses, retire
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import DIRECTORY, FILE, Verb, VerbGroup
from aigovtool.cli.words import count, short, when
from aigovtool.errors import (
    ConfigurationError,
    DeadlineError,
    FaultError,
    LedgerRollbackError,
    OverloadedError,
    SignatureInvalidError,
    StorageError,
    UnreachableError,
)

if TYPE_CHECKING:
    from aigovtool.operator.cosigner import Cosigner, Round
    from aigovtool.operator.witness_home import Memory, WitnessHome

#: What passes by itself, or by operators who settle a gap: a loop says so and goes on.
_PASSING: tuple[type[FaultError], ...] = (
    UnreachableError,
    OverloadedError,
    DeadlineError,
    StorageError,
    LedgerRollbackError,
)

#: The exit code of a program that a signal ended, less the signal's number, as shells have it.
_BY_SIGNAL: Final = 128


class Made(Struct, frozen=True, kw_only=True):
    """A new witness; `key` is its verifier key, which is public."""

    directory: str
    name: str
    key: str


class Signed(Struct, frozen=True, kw_only=True):
    """A co-signature that was handed in. `newest_*` is what the custodian shows of this witness now."""

    witness: str
    custodian: str
    entries: int
    root: str
    generation: int
    time_s: int
    newest_entries: int | None
    newest_time_s: int | None


class Log(Struct, frozen=True, kw_only=True):
    """What a witness remembers of a log. `cosigned` is false after it accepted a new generation, until it signs."""

    custodian: str
    entries: int
    root: str
    generation: int
    cosigned: bool
    last_time_s: int
    losses: int
    note: str


class Shown(Struct, frozen=True, kw_only=True):
    """A witness: its verifier key, and the logs that it co-signs. `file` is where a note was saved, if it was."""

    name: str
    key: str
    logs: list[Log]
    file: str | None


@click.group(cls=VerbGroup, example="aigovtool audit witness sign witness --party radiology.json --every 60")
def witness() -> None:
    """Witnesses co-sign the audit log, so that nobody, not even the custodian, can show two of them."""


for _verb in (accept, enrol, retire, list_witnesses):
    witness.add_command(_verb)


@witness.command(cls=Verb, example="aigovtool audit witness init witness --name witness.example.com/w1")
@click.argument("directory", type=DIRECTORY)
@click.option("--name", required=True, metavar="NAME", help="Its name, for example a host and path of yours.")
@click.pass_obj
def init(screen: Screen, directory: Path, name: str) -> None:
    """Make a witness: DIRECTORY with its key (mode 0600), and later its memory.

    It prints the verifier key: give it to the custodian's operators, who enrol the witness, and on a safe path to
    everybody who is to believe it. Keep the directory on one machine only, and never go back to an older copy of it: a
    witness without its memory could co-sign two histories.
    """
    from aigovtool.operator.witness_home import create_witness  # noqa: PLC0415

    key = create_witness(directory, name).text()

    def render() -> None:
        screen.line(f"{directory} is the witness {name}; its verifier key:", style="green")
        screen.line(key)
        screen.line(f"An operator enrols it: aigovtool audit witness enrol '{key}'")
        screen.line(f"Then: aigovtool audit witness sign {directory} --party FILE --first")

    screen.show(Made(directory=str(directory), name=name, key=key), render)


@witness.command(cls=Verb, example="aigovtool audit witness sign witness --party radiology.json --every 60")
@click.argument("directory", type=DIRECTORY)
@party_option
@click.option("--first", is_flag=True, help="This witness has never co-signed this log: believe it as it is now.")
@click.option(
    "--every", type=click.IntRange(1, 86_400), metavar="SECONDS", help="Go on, until ended; else one co-signature."
)
@click.pass_obj
def sign(screen: Screen, *, directory: Path, party_file: Path | None, first: bool, every: int | None) -> None:
    """Co-sign the custodian's present checkpoint, if its log extends all that this witness co-signed before.

    The last co-signed checkpoint is shown to the custodian first: a ledger that was restored from a backup stops
    granting. What is signed is written down durably before it is sent. With --every, what passes by itself is told
    on standard error, and the next round comes; SIGTERM ends it. Exit code 5: the log was rewritten, rolled back or
    restored, and nothing was co-signed.
    """
    from aigovtool.operator.cosigner import Cosigner  # noqa: PLC0415
    from aigovtool.operator.witness_home import WitnessHome  # noqa: PLC0415

    with (
        _ends_at_sigterm(done=every is not None),
        linked(party_file) as link,
        WitnessHome(directory, holding=link.custodian) as home,
    ):
        cosigner = Cosigner(home, link)
        if every is None:
            _say(screen, home, cosigner.sign(first=first))
            return
        screen.go_on()
        while True:
            first = not _one_of_many(screen, home, cosigner, first=first, every=every) and first
            time.sleep(every)


def _one_of_many(screen: Screen, home: "WitnessHome", cosigner: "Cosigner", *, first: bool, every: int) -> bool:
    """Co-sign once, and return whether it came to that."""
    try:
        done = cosigner.sign(first=first)
    except SignatureInvalidError as error:
        if error.reason != "key_set_rollback":  # of several custodians, one may have keys that were not copied yet
            raise
        screen.note(f"not co-signed: {error.message} (again in {every} s)")
        return False
    except _PASSING as error:
        screen.note(f"not co-signed: {error.message} (again in {every} s)")
        return False
    _say(screen, home, done)
    return True


def _say(screen: Screen, home: "WitnessHome", done: "Round") -> None:
    found = done.checkpoint
    signed = Signed(
        witness=home.witness.name,
        custodian=found.custodian,
        entries=found.size,
        root=found.root.hex(),
        generation=found.generation,
        time_s=done.time_s,
        newest_entries=done.view.size,
        newest_time_s=done.view.time_s,
    )
    screen.show(
        signed,
        lambda: screen.line(
            f"{when(done.time_s * 1000)}: co-signed {count(found.size)} entries, generation {found.generation}, "
            f"root {short(found.root.hex())}...; the custodian has it"
        ),
    )


@witness.command(cls=Verb, example="aigovtool audit witness show witness -o cosigned.txt")
@click.argument("directory", type=DIRECTORY)
@click.option("-o", "--out", type=FILE, help="File to save the newest co-signed checkpoint to; must not exist.")
@click.option("--party", "party_file", type=FILE, help="Any party's file: only the log of this custodian.")
@click.pass_obj
def show(screen: Screen, *, directory: Path, out: Path | None, party_file: Path | None) -> None:
    """Show a witness's verifier key and what it co-signed last, and save that for others.

    A saved checkpoint is no secret. Whoever has it can tell an older or another copy of the log from this one:
    `aigovtool audit verify EXPORT --witness KEY --seen FILE`.
    """
    from aigovtool.cli.credentials import read_party, require_free  # noqa: PLC0415
    from aigovtool.ids import key_id_of  # noqa: PLC0415
    from aigovtool.operator.witness import write_note  # noqa: PLC0415
    from aigovtool.operator.witness_home import WitnessHome  # noqa: PLC0415

    if out is not None:
        require_free(out)
    only = None if party_file is None else key_id_of(read_party(party_file).custodian.root)
    with WitnessHome(directory) as home:
        logs = [_log(home, memory) for memory in home.memories() if only in {None, memory.custodian}]
        key = home.witness
    if out is not None:
        if len(logs) != 1:
            raise ConfigurationError(
                f"this witness co-signs {count(len(logs))} logs; one can be saved",
                reason="which_log",
                fix="say which with --party FILE" if logs else "co-sign it first: aigovtool audit witness sign",
            )
        if not logs[0].cosigned:
            raise ConfigurationError(
                "the new generation was accepted, and nothing of it is co-signed yet",
                reason="not_cosigned",
                fix=f"co-sign it first: aigovtool audit witness sign {directory}",
            )
        write_note(out, logs[0].note)
    shown = Shown(name=key.name, key=key.text(), logs=logs, file=None if out is None else str(out))

    def render() -> None:
        screen.line(shown.key)
        columns = ("custodian", ">entries", ">generation", "root", "co-signed")
        rows = [
            (short(log.custodian), count(log.entries), log.generation, short(log.root), _state(log))
            for log in shown.logs
        ]
        screen.table(columns, rows, "it has co-signed nothing yet")
        if out is not None:
            screen.line(f"saved to {out}")

    screen.show(shown, render)


def _log(home: "WitnessHome", memory: "Memory") -> Log:
    from aigovtool.ledger.checkpoint import parse_checkpoint  # noqa: PLC0415
    from aigovtool.ledger.cosignature import witnessed  # noqa: PLC0415

    found = parse_checkpoint(memory.note)
    return Log(
        custodian=memory.custodian,
        entries=found.size,
        root=found.root.hex(),
        generation=found.generation,
        cosigned=bool(witnessed(memory.note, [home.witness])),
        last_time_s=memory.time_s,
        losses=len(memory.lost),
        note=memory.note,
    )


def _state(log: Log) -> str:
    state = when(log.last_time_s * 1000) if log.cosigned else "not yet: the new generation was accepted"
    losses = "loss" if log.losses == 1 else "losses"
    return f"{state}; {count(log.losses)} {losses} before" if log.losses else state


@contextmanager
def _ends_at_sigterm(*, done: bool) -> Iterator[None]:
    """Have SIGTERM end the program wherever it is: the memory is always whole.

    For a loop that is the way to be `done`; a single co-signature that was broken off is none.
    """

    def end(number: int, _frame: object) -> None:
        raise SystemExit(0 if done else _BY_SIGNAL + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
