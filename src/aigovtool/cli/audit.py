"""`aigovtool audit`: read the audit log, take a copy, and verify a copy without trusting anybody."""

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.audit_list import list_entries
from aigovtool.cli.credentials import connected, read_party, require_free
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb, VerbGroup, operator_option
from aigovtool.cli.words import count, when
from aigovtool.errors import ConfigurationError, SignatureInvalidError

if TYPE_CHECKING:
    from aigovtool.crypto.sign import VerifyKey
    from aigovtool.ledger.audit import AuditReport
    from aigovtool.ledger.budget import BudgetRow

_ROOT_BYTES: Final = 32


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


@click.group(cls=VerbGroup, example="aigovtool audit verify log.jsonl --operator operator.json")
def audit() -> None:
    """The audit log: everything that was granted, used, stopped and decided."""


audit.add_command(list_entries)


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
@click.option("--root", metavar="KEY", help="The custodian's root key: 32 bytes in base64 or hexadecimal.")
@operator_option
@click.pass_obj
def verify(screen: Screen, file: Path, root: str | None, operator_file: Path | None) -> None:
    """Verify a copy of the log offline: signatures, hashes, order, and every balance.

    The root key is trusted because you say so: give it with --root, or take the one in a party file that you got
    from the custodian on a safe path (--operator, which takes any party file here).
    """
    from aigovtool.operator.audit_file import verify_audit_file  # noqa: PLC0415

    try:
        report = verify_audit_file(file, _root(root, operator_file))
    except SignatureInvalidError as error:
        fix = "compare the root key with the custodian's, as `aigovtool custodian show` prints it"
        raise SignatureInvalidError(
            f"{file} is not by this custodian: {error.message}", reason=error.reason, fix=fix
        ) from None
    done = _verified(file, report)

    def render() -> None:
        screen.line(
            f"{file} verifies: {count(done.entries)} entries, nothing changed, missing or inserted", style="green"
        )
        screen.facts(
            [
                ("custodian", done.custodian),
                ("from", when(done.first_ms)),
                ("to", when(done.last_ms)),
                ("leases", f"{count(done.leases)}, of which {count(done.unclosed_leases)} are not closed"),
                ("stopped", ", ".join(done.stops) or "nothing"),
            ]
        )
        rows = [_balance_row(balance) for balance in done.balances]
        columns = ("budget", "window", "from", "counts", ">limit", ">spent", ">held")
        screen.line("Balances, recomputed from the entries alone; no limit was exceeded at any grant:")
        screen.table(columns, rows, "no budget was ever set")

    screen.show(done, render)


def _root(text: str | None, party_file: Path | None) -> "VerifyKey":
    from aigovtool.crypto.sign import VerifyKey  # noqa: PLC0415

    if text is None and party_file is None:
        raise ConfigurationError(
            "no root key was given",
            reason="no_root",
            fix="give --root KEY as `aigovtool custodian show` prints it, or --operator with a party file",
        )
    if text is None:
        return VerifyKey(read_party(party_file or Path()).custodian.root)
    try:
        raw = bytes.fromhex(text) if len(text) == 2 * _ROOT_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != _ROOT_BYTES:
        raise ConfigurationError(
            "--root is not 32 bytes in base64 or hexadecimal",
            reason="bad_root",
            fix="give the root key as `aigovtool custodian show` prints it",
        )
    return VerifyKey(raw)


def _verified(file: Path, report: "AuditReport") -> Verified:
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
