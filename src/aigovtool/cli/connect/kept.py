"""`aigovtool connect log` and `receipt`: what the gateway has seen, and what it was answered."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from aigovtool.cli.credentials import require_free
from aigovtool.cli.screen import SIMULATED, Screen
from aigovtool.cli.verb import DIRECTORY, FILE, Verb
from aigovtool.cli.words import short, when

if TYPE_CHECKING:
    from aigovtool.consumer.connect.evidence_log import Line

HOME = Path("aigovtool-connect")
home_option = click.option(
    "--home", type=DIRECTORY, default=HOME, show_default=True, help="The directory of the gateway."
)


class EvidenceLines(Struct, frozen=True, kw_only=True):
    """The evidence log, checked; `last` is the digest of its last line."""

    file: str
    last: str
    simulated: bool
    lines: "list[Line]"


class SavedCopy(Struct, frozen=True, kw_only=True):
    """A receipt that was written to a file of its own."""

    request_id: str
    file: str


@click.command(cls=Verb, example="aigovtool connect log --home aigovtool-connect")
@home_option
@click.pass_obj
def log(screen: Screen, *, home: Path) -> None:
    """Show what the gateway has seen of enclaves: each change of evidence, policy or models, and each refusal.

    Each line is bound to the one before it, so that one which was changed or left out is found. Keep the digest of the
    last line elsewhere, and you also see whether lines were cut off at the end.
    """
    from aigovtool.consumer.connect.app import LOG_NAME  # noqa: PLC0415
    from aigovtool.consumer.connect.evidence_log import NOTHING, read_log  # noqa: PLC0415

    file = home / LOG_NAME
    lines, last = [], NOTHING
    for line, last in read_log(file):  # noqa: B007 - the last one is wanted
        lines.append(line)
    found = EvidenceLines(
        file=str(file),
        last=last,
        simulated=any(line.seen is not None and line.seen.tee == "simulated" for line in lines),
        lines=lines,
    )
    if found.simulated:
        screen.banner(SIMULATED)
    screen.show(found, lambda: _render(screen, found))


def _render(screen: Screen, found: EvidenceLines) -> None:
    rows = [(when(line.at_ms), line.enclave or "-", line.event.value, details(line)) for line in found.lines]
    screen.table(("When", "Enclave", "What", "Details"), rows, empty="Nothing was seen yet.")
    if rows:
        screen.line(f"Each line follows the one before it. The last one is {found.last}")


def details(line: "Line") -> str:
    """Return what a line tells beside its time, its enclave and its event."""
    if line.seen is None:
        return ": ".join(part for part in (line.reason, line.why) if part)
    seen = line.seen
    models = ", ".join(f"{model} {short(digest.removeprefix('sha256:'))}" for model, digest in seen.models.items())
    warnings = "".join(f"; {text}" for text in seen.warnings)
    policy = short(seen.appraisal_policy.removeprefix("sha256:"))
    tee = f"{seen.tee}, sealed" if seen.sealed else seen.tee
    return f"{tee}, instance {short(seen.instance)}, policy {policy}, key set {seen.key_set}; {models}{warnings}"


@click.command(cls=Verb, example="aigovtool connect receipt 1f0c9a77 --save receipt.json")
@click.argument("request_id")
@home_option
@click.option("--save", type=FILE, required=True, help="Write the receipt here, for `aigovtool receipt verify`.")
@click.pass_obj
def receipt(screen: Screen, *, request_id: str, home: Path, save: Path) -> None:
    """Take the receipt of one answer out of those that the gateway has kept.

    The request id is in the answer's header field aigovtool-request-id, if the program did not choose it.
    """
    from aigovtool.codec import convert  # noqa: PLC0415
    from aigovtool.consumer.connect.app import RECEIPTS_NAME  # noqa: PLC0415
    from aigovtool.consumer.connect.kept_receipts import find_receipt  # noqa: PLC0415
    from aigovtool.consumer.receipts import write_saved_receipt  # noqa: PLC0415
    from aigovtool.ids import RequestKey  # noqa: PLC0415

    require_free(save, "--save")
    saved = find_receipt(home / RECEIPTS_NAME, convert(request_id, RequestKey))
    write_saved_receipt(save.absolute(), saved)
    copy = SavedCopy(request_id=saved.signed.receipt.request_key, file=str(save))
    screen.show(copy, lambda: screen.line(f"Saved in {copy.file}; check it with `aigovtool receipt verify`."))
