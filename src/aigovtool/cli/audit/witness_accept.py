"""`aigovtool audit witness accept`: the keeper accepts that a log was restored from a backup.

The log's entries are for operators, so a witness sees only that what it co-signed is no prefix any more, and how much
of it still is. An export shows more: the entry by which two operators settled it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from aigovtool.cli.audit.root import opened
from aigovtool.cli.audit.watch import linked, party_option
from aigovtool.cli.confirm import confirm, yes_option
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import DIRECTORY, FILE, Verb
from aigovtool.cli.words import count, when
from aigovtool.errors import ConflictError, LogError

if TYPE_CHECKING:
    from aigovtool.crypto.sign import VerifyKey
    from aigovtool.operator.cosigner import Settlement
    from aigovtool.operator.witness import LogWitness

_RESTORED = b'"kind":"restored"'


class Accepted(Struct, frozen=True, kw_only=True):
    """A new generation that the witness stands by. `kept_entries` of what it `signed_entries` are known to be left.

    `signed_generation` is null, and `signed_entries` zero, when an earlier restore had left nothing that it co-signed.
    `settled` are the entries of an export that say who settled it; null when no export was given.
    """

    generation: int
    entries: int
    signed_entries: int
    signed_generation: int | None
    kept_entries: int
    lost: bool
    settled: list[str] | None


@click.command(cls=Verb, example="aigovtool audit witness accept witness --party radiology.json --generation 1")
@click.argument("directory", type=DIRECTORY)
@party_option
@click.option("--generation", type=click.IntRange(1), required=True, help="The generation to accept.")
@click.option("--log", "export", type=FILE, help="An export of the log: it must name the restore itself.")
@yes_option
@click.pass_obj
def accept(
    screen: Screen, *, directory: Path, party_file: Path | None, generation: int, export: Path | None, yes: bool
) -> None:
    """Let a witness go on with a log that was restored from a backup, in its new generation.

    It says what of the co-signed entries is lost, and asks. Without --log that a restore was settled is the custodian's
    word alone; an operator can give you an export, which this verifies. The lost checkpoint stays in the
    witness's directory, and goes on being evidence.
    """
    from aigovtool.operator.cosigner import Cosigner, said  # noqa: PLC0415
    from aigovtool.operator.witness_home import WitnessHome  # noqa: PLC0415

    with linked(party_file) as link, WitnessHome(directory, holding=link.custodian) as home:
        cosigner = Cosigner(home, link)
        found = cosigner.settlement()
        if found.now.checkpoint.generation != generation:
            raise ConflictError(
                f"the log is in generation {found.now.checkpoint.generation}, not {generation}",
                reason="other_generation",
                fix="look again, and accept the generation that is there",
            )
        settled = None if export is None else _settled(export, link.root, link, found, cosigner.newest_note())
        at = "" if found.signed is None else f" (co-signed {when(found.signed_time_s * 1000)})"
        notes = [said(found.signed, found.kept) + at]
        notes += ["that operators settled this is the custodian's word alone"] if settled is None else settled
        if not yes:
            confirm(screen, f"accept generation {generation}", notes)
        cosigner.accept(found)
    kept = 0 if found.kept is None else found.kept.size
    done = Accepted(
        generation=generation,
        entries=found.now.checkpoint.size,
        signed_entries=0 if found.signed is None else found.signed.size,
        signed_generation=None if found.signed is None else found.signed.generation,
        kept_entries=kept,
        lost=found.lost,
        settled=settled,
    )

    def render() -> None:
        for note in notes if yes else []:
            screen.line(note, style="bold" if found.lost else None)
        screen.line(
            f"accepted: generation {generation}, {count(done.entries)} entries; go on with "
            f"`aigovtool audit witness sign {directory}`",
            style="green",
        )

    screen.show(done, render)


def _settled(export: Path, root: "VerifyKey", link: "LogWitness", found: "Settlement", note: str) -> list[str]:
    """Return what an export says of restores, if it is of this log and explains what was lost.

    Raises:
        LogError: it does not verify, or does not contain and does not explain what was co-signed; `other_log`.
    """
    from aigovtool.cli.audit.entries import describe  # noqa: PLC0415
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.ledger.entry import Entry, Restored  # noqa: PLC0415

    kept: list[bytes] = []
    report = opened(export, root, seen=[note], keep=lambda raw: kept.append(raw) if _RESTORED in raw else None)
    if report.checkpoint.generation != found.now.checkpoint.generation or not link.extends(
        report.checkpoint, found.now.checkpoint
    ):
        raise LogError(
            f"{export} is not a copy of the log as it is now: another generation, or other entries", reason="other_log"
        )
    entries = [decode(raw, Entry) for raw in kept]
    lines = [(entry, describe(entry.body)) for entry in entries if isinstance(entry.body, Restored)]
    return [f"entry {entry.index}, {when(entry.at_ms)}: {line.who} {line.what}" for entry, line in lines]
