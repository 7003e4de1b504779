"""`aigovtool custodian backup`: a verified copy of a SQLite ledger, while it is served.

It goes to the machine of the operator who asks, because a backup beside the ledger is lost with it. What must be kept
besides is said each time: a ledger without the custodian's keys is of no use to anybody, its owner included.
"""

from pathlib import Path
from typing import Final

import click
from msgspec import Struct

from aigovtool.cli.credentials import connected, require_free
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb, operator_option
from aigovtool.cli.words import count, size

_KEYS: Final = (
    "Only the ledger is in it. A custodian needs these too; copy them once, and after each change, encrypted: "
    "custodian.json, keys/ (also after a certificate was renewed) and packages/ from the custodian's directory."
)
_ROOT: Final = "The root key is kept elsewhere, offline; nothing needs it to restore."
_MEMORY: Final = (
    "A backup forgets what is granted after it. Keep what finds that out, on another machine: "
    "`aigovtool audit checkpoint` and `aigovtool audit export`, every night."
)
NOT_IN_IT: Final = (_KEYS, _ROOT, _MEMORY)


class BackupMade(Struct, frozen=True, kw_only=True):
    """A backup that was verified, and what else must be kept."""

    file: str
    size_bytes: int
    entries: int
    root: str
    generation: int
    not_in_it: list[str]


@click.command(cls=Verb, example="aigovtool custodian backup ledger-monday.db")
@click.argument("destination", metavar="DEST", type=FILE)
@operator_option
@click.pass_obj
def backup(screen: Screen, destination: Path, operator_file: Path | None) -> None:
    """Copy the ledger of a running custodian on SQLite to a new file DEST on this machine, and verify it.

    The custodian serves on meanwhile, and what it commits until the copy ends is in it. DEST gets its name only when
    SQLite finds it whole and its audit log leads to the checkpoint that the custodian signed for it. How to restore one
    is in docs/deploy.md. A ledger on PostgreSQL is copied by PostgreSQL's own programs.
    """
    from aigovtool.operator.backup import make_backup  # noqa: PLC0415

    require_free(destination, "DEST")
    with connected(operator_file) as client, screen.progress("copying") as progress:
        made = make_backup(client, destination.absolute(), progress)
    done = BackupMade(
        file=str(destination),
        size_bytes=made.size_bytes,
        entries=made.entries,
        root=made.root,
        generation=made.generation,
        not_in_it=list(NOT_IN_IT),
    )

    def render() -> None:
        screen.line(f"the ledger is copied to {destination} ({size(done.size_bytes)}), and verified", style="green")
        screen.facts([("audit log", f"{count(done.entries)} entries"), ("root", done.root)])
        for line in NOT_IN_IT:
            screen.line(line)

    screen.show(done, render)
