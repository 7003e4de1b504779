"""`aigovtool audit`: read the audit log, take a copy, and verify a copy without trusting anybody."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from aigovtool.cli.audit import witnessed
from aigovtool.cli.audit.listing import list_entries
from aigovtool.cli.audit.reconcile import reconcile
from aigovtool.cli.audit.root import opened, root_of, root_option
from aigovtool.cli.audit.watch import checkpoint, compare
from aigovtool.cli.audit.witness import witness
from aigovtool.cli.credentials import connected, require_free
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb, VerbGroup, key_set_option, operator_option
from aigovtool.cli.words import count, when
from aigovtool.errors import VerificationError

if TYPE_CHECKING:
    from aigovtool.ledger.audit import AuditReport
    from aigovtool.ledger.budget import BudgetRow


class Exported(Struct, frozen=True, kw_only=True):
    """A copy of the log."""

    file: str
    entries: int
    root: str


class Balance(Struct, frozen=True, kw_only=True):
    """One budget row as recomputed from the log."""

    budget: str
    window: str
    dimension: str
    from_ms: int
    limit: int | None
    posted: int
    pending: int


class Machine(Struct, frozen=True, kw_only=True):
    """On what enclaves were admitted, and how often: a type of TEE and its chip, which is null where it does not tell.

    A chip is named as in the `chips` of an appraisal policy.
    """

    tee: str
    chip: str | None
    admissions: int


class Lost(Struct, frozen=True, kw_only=True):
    """A checkpoint that the reader holds, and that a restore from a backup lost, as the log itself says."""

    entries: int
    generation: int
    root: str


class Verified(Struct, frozen=True, kw_only=True):
    """A copy of the log that verifies."""

    file: str
    custodian: str
    entries: int
    root: str
    first_ms: int
    last_ms: int
    leases: int
    unclosed_leases: int
    balances: list[Balance]
    stops: list[str]
    checkpoints_held: int
    lost: list[Lost]
    cosigned: list[witnessed.CosignedBy]
    witnesses_required: int
    machines: list[Machine]


@click.group(cls=VerbGroup, example="aigovtool audit verify log.jsonl --operator operator.json")
def audit() -> None:
    """The audit log: everything that was granted, used, stopped and decided."""


for _verb in (list_entries, checkpoint, compare, reconcile, witness):
    audit.add_command(_verb)


@audit.command(cls=Verb, example="aigovtool audit export -o log.jsonl")
@click.option("-o", "--out", type=FILE, required=True, help="File to write; must not exist.")
@operator_option
@click.pass_obj
def export(screen: Screen, out: Path, operator_file: Path | None) -> None:
    """Write the whole log, with its newest signed checkpoint, as JSON lines."""
    from aigovtool.operator.audit_file import write_audit_file  # noqa: PLC0415

    require_free(out)
    with connected(operator_file) as client:
        head, checkpoint = client.verified_head()
        written = write_audit_file(out, head, client.log_entries(end=checkpoint.size))
    done = Exported(file=str(out), entries=written, root=checkpoint.root.hex())
    screen.show(
        done, lambda: screen.line(f"{count(written)} entries are in {out}; check: aigovtool audit verify {out}")
    )


@audit.command(cls=Verb, example="aigovtool audit verify log.jsonl --root 3q2+7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
@click.argument("file", type=FILE)
@root_option
@click.option("--seen", type=FILE, multiple=True, help="An older checkpoint that you hold; repeat for more.")
@click.option(
    "--witness",
    "keys",
    metavar="KEY",
    multiple=True,
    help="The verifier key of a witness that you believe; repeat for more.",
)
@click.option(
    "--witnesses-required",
    type=click.IntRange(0),
    metavar="NUMBER",
    help="How many of them must have co-signed the log; all of them if not given.",
)
@key_set_option
@operator_option
@click.pass_context
def verify(
    context: click.Context,
    *,
    file: Path,
    root: str | None,
    seen: tuple[Path, ...],
    keys: tuple[str, ...],
    witnesses_required: int | None,
    key_set_at_least: int,
    operator_file: Path | None,
) -> None:
    """Verify a copy of the log offline: signatures, hashes, order, and every balance.

    The root key is trusted because you say so: give it with --root, or take the one in a party file that you got
    from the custodian on a safe path (--operator, which takes any party file here). With --seen the log must also
    begin with what your older checkpoints stand for. If the log says that a restore from a backup lost some of it, all
    is shown, and the exit code is 5: only its operators can tell you whether that is so. Go on with a newer checkpoint.

    With --witness it must also be the log that these witnesses co-signed, as far as they did, which not even a thief of
    the custodian's log key can make another log to be. Their keys are trusted because you say so.
    """
    from aigovtool.ledger.witnessing import require_witnesses  # noqa: PLC0415
    from aigovtool.operator.witness import read_note  # noqa: PLC0415

    screen: Screen = context.obj
    believed, required = witnessed.counted(keys, witnesses_required)
    trusted = root_of(root, operator_file)
    notes = [read_note(one) for one in seen]
    report = opened(
        file,
        trusted,
        seen=notes,
        names=[str(one) for one in seen],
        witnesses=believed,
        key_set_at_least=key_set_at_least,
    )
    require_witnesses(report.vouching, required)
    done = _verified(file, report, held=len(seen), required=required)
    screen.show(done, lambda: _say(screen, done))
    if done.lost:
        context.exit(VerificationError.exit_code)


def _say(screen: Screen, done: Verified) -> None:
    """Say what a copy shows; where nobody else remembers its log, that is the word of its own checkpoint only."""
    compared = done.checkpoints_held > 0 or any(one.believed for one in done.cosigned)
    whole = f"{done.file} verifies: {count(done.entries)} entries, nothing changed, missing or inserted"
    if compared and not done.lost:
        screen.line(whole, style="green")
    else:
        screen.line(f"{whole}, as its own checkpoint says", style=None if done.lost else "green")
    if not compared:
        screen.line("Whether it is the newest copy, only --seen or --witness tells.")
    screen.facts(
        [
            ("custodian", done.custodian),
            ("from", when(done.first_ms)),
            ("to", when(done.last_ms)),
            ("leases", f"{count(done.leases)}, of which {count(done.unclosed_leases)} are not closed"),
            ("stopped", ", ".join(done.stops) or "nothing"),
        ]
    )
    _say_held(screen, done)
    witnessed.say(screen, done.cosigned, entries=done.entries, required=done.witnesses_required)
    rows = [_balance_row(balance) for balance in done.balances]
    columns = ("budget", "window", "from", "counts", ">limit", ">spent", ">held")
    screen.line("Balances, recomputed from the entries alone; no limit was exceeded at any grant:")
    screen.table(columns, rows, "no budget was ever set")
    screen.line("On what enclaves were admitted:")
    machines = [(one.tee, one.chip or "not told", count(one.admissions)) for one in done.machines]
    screen.table(("tee", "chip", ">admissions"), machines, "no enclave was ever admitted")


def _say_held(screen: Screen, done: Verified) -> None:
    """Say what became of the checkpoints that the reader holds."""
    kept = done.checkpoints_held - len(done.lost)
    if kept > 0:
        screen.line(f"It begins with all that {kept} of your checkpoints stand for.", style="green")
    for one in done.lost:
        screen.line(
            f"LOST: of {count(one.entries)} entries of generation {one.generation} that you hold a checkpoint of, some "
            "are not in it. The log says that a restore from a backup lost them, and that two operators put the rest "
            "back into service. Ask them: whoever has the log's key can write that too.",
            style="bold red",
        )
    if done.lost:
        screen.line(
            "See `aigovtool audit list --kind restored --kind charged` for who settled it, and what was charged."
        )


def _verified(file: Path, report: "AuditReport", *, held: int, required: int) -> Verified:
    return Verified(
        file=str(file),
        custodian=report.checkpoint.custodian,
        entries=report.entries,
        root=report.checkpoint.root.hex(),
        first_ms=report.first_ms,
        last_ms=report.last_ms,
        leases=report.leases,
        unclosed_leases=report.unclosed_leases,
        balances=[_balance(row) for row in report.rows],
        stops=[f"{target.value} {value}".strip() for target, value in report.stops],
        checkpoints_held=held,
        lost=[Lost(entries=one.size, generation=one.generation, root=one.root.hex()) for one in report.lost],
        cosigned=witnessed.rows(report.vouching),
        witnesses_required=required,
        machines=[Machine(tee=tee, chip=chip, admissions=number) for (tee, chip), number in report.machines],
    )


def _balance(row: "BudgetRow") -> Balance:
    scope = row.key.scope
    return Balance(
        budget=" / ".join(part for part in (scope.model, scope.borrower, scope.consumer) if part is not None),
        window=row.key.window.value,
        dimension=row.key.dimension.value,
        from_ms=row.key.bucket_ms,
        limit=row.limit,
        posted=row.posted,
        pending=row.pending,
    )


def _balance_row(balance: Balance) -> tuple[str, ...]:
    return (
        balance.budget,
        balance.window,
        when(balance.from_ms),
        balance.dimension,
        count(balance.limit),
        count(balance.posted),
        count(balance.pending),
    )
