"""`aigovtool audit reconcile`: the ledger, the enclaves' reports and the consumers' receipts, lease by lease.

Nothing is believed: the copy of the log is verified under the custodian's root key, and each receipt by its own
evidence, under the appraisal policy of a consumer file or the one in force at the custodian. Only then are the three
compared (`ledger.reconcile`). A receipt that does not verify is a finding like any other, so that one forged file
cannot keep an audit from its end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.audit_root import opened, root_of, root_option
from aigovtool.cli.credentials import connected, read_consumer
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb, operator_option
from aigovtool.cli.words import count, short
from aigovtool.errors import ConfigurationError, ReceiptError, VerificationError

if TYPE_CHECKING:
    from aigovtool.attestation.appraisal import AppraisalPolicy
    from aigovtool.crypto.sign import VerifyKey
    from aigovtool.ledger.entry import Entry
    from aigovtool.ledger.receipt import Receipt
    from aigovtool.ledger.reconcile import Reconciliation

_VERIFICATION: Final = 5
#: What an entry that is compared looks like in its only encoding; whatever else looks like it does no harm.
_COMPARED: Final = (b'"kind":"lease_', b'"kind":"attested"', b'"kind":"restored"', b'"kind":"charged"')
_INVALID: Final = "invalid_receipt"


class Total(Struct, frozen=True, kw_only=True):
    """What the three books say of one dimension."""

    dimension: str
    charged: int
    reported: int
    receipted: int


class Found(Struct, frozen=True, kw_only=True):
    """One difference. `contradiction` is false for what is only not known; `lease` is empty for a bad receipt."""

    kind: str
    contradiction: bool
    lease: str
    what: str


class Reconciled(Struct, frozen=True, kw_only=True):
    """The outcome. `skipped` are files in the given directories that are no receipts.

    `restores` of the ledger are in the log, after which operators charged `charged_for_lost` units for leases that it
    no longer knows; receipts of such leases contradict it.
    """

    file: str
    entries: int
    leases: int
    receipts: int
    simulated_receipts: int
    totals: list[Total]
    findings: list[Found]
    skipped: list[str]
    restores: int
    charged_for_lost: int
    contradicted: bool


@dataclass(slots=True)
class _Taken:
    """Receipts as they were read and verified."""

    receipts: "list[Receipt]" = field(default_factory=list)
    simulated: int = 0
    bad: list[Found] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@click.command(cls=Verb, example="aigovtool audit reconcile log.jsonl --receipts receipts --credential radiology.json")
@click.argument("file", type=FILE)
@click.option(
    "--receipts",
    "sources",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="A saved receipt, or a directory of them; repeat for more.",
)
@click.option("--credential", type=FILE, help="A consumer file: its root key and appraisal policy.")
@root_option
@click.option("--strict", is_flag=True, help="Gaps are contradictions too: every receipt must be there.")
@click.option("--allow-simulated", is_flag=True, help="DEVELOPMENT ONLY: also accept receipts of simulated TEEs.")
@operator_option
@click.pass_context
def reconcile(
    context: click.Context,
    *,
    file: Path,
    sources: tuple[Path, ...],
    credential: Path | None,
    root: str | None,
    operator_file: Path | None,
    strict: bool,
    allow_simulated: bool,
) -> None:
    """Compare a copy of the log, FILE, with saved receipts: what was charged, reported and receipted.

    All is verified first. Without --credential the appraisal policy is the one in force, which the custodian is asked
    for (--operator). Receipts that were not handed in, and leases that nobody closed, are gaps: listed, and no
    contradiction unless --strict. Exit code 5: two of the three contradict each other, or a receipt does not verify.
    """
    screen: Screen = context.obj
    trusted, policy = _trust(credential, root, operator_file)
    kept: list[bytes] = []
    report = opened(
        file, trusted, keep=lambda raw: kept.append(raw) if any(mark in raw for mark in _COMPARED) else None
    )
    taken = _receipts(sources, trusted, policy, allow_simulated=allow_simulated)
    done = _reconciled(file, report.entries, _entries(kept), taken)
    if done.simulated_receipts:
        screen.banner()
    screen.show(done, lambda: _render(screen, done, strict=strict))
    if done.contradicted or (strict and done.findings):
        context.exit(_VERIFICATION)


def _trust(
    credential: Path | None, root: str | None, operator_file: Path | None
) -> "tuple[VerifyKey, AppraisalPolicy]":
    from aigovtool.crypto.sign import VerifyKey  # noqa: PLC0415

    if credential is not None:
        consumer = read_consumer(credential)
        trusted = VerifyKey(consumer.custodian.root) if root is None else root_of(root, None)
        return trusted, consumer.policy
    with connected(operator_file) as client:
        return (client.root if root is None else root_of(root, None)), client.appraisal_policy()


def _entries(kept: Sequence[bytes]) -> "list[Entry]":
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.ledger.entry import Entry  # noqa: PLC0415

    return [decode(raw, Entry) for raw in kept]


def _receipts(
    sources: Sequence[Path], root: "VerifyKey", policy: "AppraisalPolicy", *, allow_simulated: bool
) -> _Taken:
    """Read and verify receipts; in a directory, what is no receipt is skipped and named."""
    from aigovtool.consumer.receipts import read_saved_receipt, verify_saved_receipt  # noqa: PLC0415
    from aigovtool.consumer.wiring import verifiers_for  # noqa: PLC0415

    verifiers = verifiers_for(policy, allow_simulated=allow_simulated)
    taken = _Taken()
    for path, named in _files(sources):
        try:
            saved = read_saved_receipt(path)
        except ReceiptError as error:
            if named:
                raise ReceiptError(
                    error.message, reason=error.reason, fix="give a file that `aigovtool infer --save-receipt` wrote"
                ) from None
            taken.skipped.append(str(path))
            continue
        try:
            verdict = verify_saved_receipt(
                saved, root=root, policy=policy, verifiers=verifiers, allow_simulated=allow_simulated
            )
        except VerificationError as error:
            taken.bad.append(Found(kind=_INVALID, contradiction=True, lease="", what=f"{path}: {error.message}"))
            continue
        taken.receipts.append(verdict.receipt)
        taken.simulated += verdict.warning is not None
    return taken


def _files(sources: Sequence[Path]) -> Iterable[tuple[Path, bool]]:
    """Yield files, and whether each was named itself."""
    for source in sources:
        if not source.exists():
            raise ConfigurationError(f"there is no {source}", reason="unreadable_receipt", fix="check the path")
        if source.is_dir():
            yield from ((path, False) for path in sorted(source.iterdir()) if path.is_file())
        else:
            yield source, True


def _reconciled(file: Path, entries: int, compared: "list[Entry]", taken: _Taken) -> Reconciled:
    from aigovtool.ledger import reconcile as books  # noqa: PLC0415
    from aigovtool.ledger.entry import Charged, Restored  # noqa: PLC0415

    result = books.reconcile(compared, taken.receipts)
    findings = [
        Found(kind=one.kind.value, contradiction=one.kind not in books.GAPS, lease=one.lease_id, what=one.what)
        for one in result.findings
    ]
    return Reconciled(
        file=str(file),
        entries=entries,
        leases=result.leases,
        receipts=result.receipts,
        simulated_receipts=taken.simulated,
        totals=_totals(result),
        findings=[*taken.bad, *findings],
        skipped=taken.skipped,
        restores=sum(isinstance(entry.body, Restored) for entry in compared),
        charged_for_lost=sum(entry.body.units for entry in compared if isinstance(entry.body, Charged)),
        contradicted=result.contradicted or bool(taken.bad),
    )


def _totals(result: "Reconciliation") -> list[Total]:
    from aigovtool.ledger.units import Dimension  # noqa: PLC0415

    books = (result.charged, result.reported, result.receipted)
    return [
        Total(
            dimension=dimension.value,
            charged=result.charged.get(dimension),
            reported=result.reported.get(dimension),
            receipted=result.receipted.get(dimension),
        )
        for dimension in Dimension
        if any(book.get(dimension) for book in books)
    ]


def _render(screen: Screen, done: Reconciled, *, strict: bool) -> None:
    screen.line(f"{done.file} verifies: {count(done.entries)} entries, {count(done.leases)} leases")
    screen.line(f"{count(done.receipts)} receipts verify")
    columns = ("counted", ">charged by the ledger", ">reported by enclaves", ">shown by receipts")
    rows = [(one.dimension, count(one.charged), count(one.reported), count(one.receipted)) for one in done.totals]
    screen.table(columns, rows, "nothing was leased")
    if done.skipped:
        screen.line(f"{count(len(done.skipped))} files are no receipts and were skipped, the first: {done.skipped[0]}")
    if done.findings:
        found = [
            (
                "CONTRADICTION" if one.contradiction else "gap",
                short(one.lease) or "-",
                one.kind.replace("_", " "),
                one.what,
            )
            for one in done.findings
        ]
        screen.table(("weight", "lease", "kind", "what"), found, "")
    if done.restores:
        screen.line(
            "The log names a restore from a backup, so it does not know the leases that were lost; operators charged "
            f"{count(done.charged_for_lost)} units for them."
        )
    gaps = sum(not one.contradiction for one in done.findings)
    bad = len(done.findings) - gaps
    if bad:
        screen.line(f"{count(bad)} contradictions: what is not true of one book is named above.", style="bold red")
    elif gaps:
        text = f"No contradiction; {count(gaps)} gaps: receipts that are not here, or leases that nobody closed."
        screen.line(text + (" --strict refuses them." if strict else ""), style="bold")
    else:
        screen.line("Ledger, enclaves and receipts say the same, lease by lease.", style="green")
