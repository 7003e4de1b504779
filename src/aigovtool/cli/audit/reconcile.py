"""`aigovtool audit reconcile`: the ledger, the enclaves' reports and the consumers' receipts, lease by lease.

Nothing is believed: each receipt is verified by its own evidence, under the appraisal policy of a consumer file or the
one in force at the custodian, and the copy of the log under the custodian's root key. The log is read once: its entries
are compared while they are verified (`ledger.reconcile`), and nothing is told unless all of it verifies. A receipt that
does not verify is a finding like any other, so that one forged file cannot keep an audit from its end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.audit.root import opened, root_of, root_option
from aigovtool.cli.credentials import connected, read_consumer
from aigovtool.cli.scope import path as named
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import ANYTHING, FILE, Verb, operator_option
from aigovtool.cli.words import count, short, when
from aigovtool.errors import ConfigurationError, InputError, ReceiptError, VerificationError

if TYPE_CHECKING:
    from aigovtool.attestation.policy import AppraisalPolicy
    from aigovtool.crypto.sign import VerifyKey
    from aigovtool.ledger.entry import Charged
    from aigovtool.ledger.receipt import Receipt
    from aigovtool.ledger.reconcile import Reconciler, Reconciliation

_VERIFICATION: Final = 5
#: What an entry that is compared looks like in its only encoding; whatever else looks like it does no harm.
_COMPARED: Final = (
    b'"kind":"lease_',
    b'"kind":"model_added"',
    b'"kind":"attested"',
    b'"kind":"forked"',
    b'"kind":"restored"',
    b'"kind":"charged"',
)
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


class ChargedRow(Struct, frozen=True, kw_only=True):
    """What operators charged one budget row after a restore. A use is charged to several rows: they do not add up."""

    budget: str
    window: str
    dimension: str
    from_ms: int
    units: int


class Reconciled(Struct, frozen=True, kw_only=True):
    """The outcome. `skipped` is whatever in the given directories is no receipt.

    `restores` of the ledger are in the log, after which operators charged `charged_for_lost` for leases that it no
    longer knows; receipts of such leases contradict it.
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
    charged_for_lost: list[ChargedRow]
    contradicted: bool


@dataclass(slots=True)
class _Taken:
    """Receipts as they were read and verified, and whether each is of a simulated TEE."""

    receipts: "dict[Receipt, bool]" = field(default_factory=dict)
    bad: list[Found] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Log:
    """What is learnt of the log while it is verified."""

    books: "Reconciler"
    restores: int = 0
    charged: list[ChargedRow] = field(default_factory=list)

    def take(self, raw: bytes) -> None:
        """Take the next entry, which is verified only after this."""
        from aigovtool.codec import decode  # noqa: PLC0415
        from aigovtool.ledger.entry import Charged, Entry, Restored  # noqa: PLC0415

        if not any(mark in raw for mark in _COMPARED):
            return
        try:
            entry = decode(raw, Entry)
        except InputError:
            return  # the verifier refuses it next, and names it
        match entry.body:
            case Restored():
                self.restores += 1
            case Charged() as charged:
                self.charged.append(_charged(charged))
            case _:
                self.books.take(entry)


@click.command(cls=Verb, example="aigovtool audit reconcile log.jsonl --receipts receipts --credential radiology.json")
@click.argument("file", type=FILE)
@click.option(
    "--receipts",
    "sources",
    type=ANYTHING,
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

    All is verified. Without --credential the appraisal policy is the one in force, which the custodian is asked for
    (--operator). Receipts that were not handed in, and leases that nobody closed or that were not refunded, are gaps:
    listed, and no contradiction unless --strict. Exit code 5: two of the three contradict each other, or a receipt
    does not verify.
    """
    from aigovtool.ledger.reconcile import Reconciler  # noqa: PLC0415

    screen: Screen = context.obj
    trusted, policy = _trust(credential, root, operator_file)
    taken = _receipts(sources, trusted, policy, allow_simulated=allow_simulated)
    log = _Log(Reconciler(taken.receipts))
    report = opened(file, trusted, keep=log.take)
    done = _reconciled(file, report.entries, log, taken)
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


def _charged(charged: "Charged") -> ChargedRow:
    row = charged.row
    return ChargedRow(
        budget=named(row.scope),
        window=row.window.value,
        dimension=row.dimension.value,
        from_ms=row.bucket_ms,
        units=charged.units,
    )


def _receipts(
    sources: Sequence[Path], root: "VerifyKey", policy: "AppraisalPolicy", *, allow_simulated: bool
) -> _Taken:
    """Read and verify receipts; in a directory, what is no receipt is skipped and named."""
    from aigovtool.consumer.receipts import read_saved_receipt, verify_saved_receipt  # noqa: PLC0415
    from aigovtool.consumer.wiring import verifiers_for  # noqa: PLC0415

    verifiers = verifiers_for(policy, allow_simulated=allow_simulated)
    taken = _Taken()
    for path, alone in _files(sources, taken.skipped):
        try:
            saved = read_saved_receipt(path)
        except ReceiptError as error:
            if alone:
                raise ReceiptError(
                    error.message, reason=error.reason, fix="give a file that `aigovtool infer --save-receipt` wrote"
                ) from None
            taken.skipped.append(_text(path))
            continue
        try:
            verdict = verify_saved_receipt(
                saved, root=root, policy=policy, verifiers=verifiers, allow_simulated=allow_simulated
            )
        except (VerificationError, InputError) as error:
            what = f"{_text(path)}: {error.message}"
            taken.bad.append(Found(kind=_INVALID, contradiction=True, lease="", what=what))
            continue
        taken.receipts[verdict.receipt] = verdict.result.tee.value == "simulated"
    return taken


def _files(sources: Sequence[Path], skipped: list[str]) -> Iterator[tuple[Path, bool]]:
    """Yield files, and whether each was named itself; what else is in a directory is added to `skipped`."""
    for source in sources:
        below = _listed(source)
        if below is None:
            yield source, True
            continue
        for path, is_file in below:
            if is_file:
                yield path, False
            else:
                skipped.append(_text(path))


def _listed(source: Path) -> list[tuple[Path, bool]] | None:
    """Return what is in a directory, and whether it is a file; None for what is no directory.

    Raises:
        ConfigurationError: `unreadable_receipt` if there is nothing, or it may not be looked at.
    """
    try:
        if source.is_dir():
            return [(path, path.is_file()) for path in sorted(source.iterdir())]
        there = source.exists()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {source}: {error.strerror}",
            reason="unreadable_receipt",
            fix="check the path, and that you may read the directory and what is in it",
        ) from None
    if not there:
        raise ConfigurationError(f"there is no {source}", reason="unreadable_receipt", fix="check the path")
    return None


def _text(path: Path) -> str:
    """Return a path as text: a name need not be Unicode, and no name may keep an audit from its end."""
    return str(path).encode(errors="backslashreplace").decode()


def _reconciled(file: Path, entries: int, log: _Log, taken: _Taken) -> Reconciled:
    from aigovtool.ledger.reconcile import GAPS  # noqa: PLC0415

    result = log.books.result()
    findings = [
        Found(kind=one.kind.value, contradiction=one.kind not in GAPS, lease=one.lease_id, what=one.what)
        for one in result.findings
    ]
    return Reconciled(
        file=_text(file),
        entries=entries,
        leases=result.leases,
        receipts=result.receipts,
        simulated_receipts=sum(taken.receipts.values()),
        totals=_totals(result),
        findings=[*taken.bad, *findings],
        skipped=taken.skipped,
        restores=log.restores,
        charged_for_lost=log.charged,
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
        what = "files or directories are no receipts and were skipped"
        screen.line(f"{count(len(done.skipped))} {what}, the first: {done.skipped[0]}")
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
        _render_lost(screen, done.charged_for_lost)
    gaps = sum(not one.contradiction for one in done.findings)
    bad = len(done.findings) - gaps
    if bad:
        screen.line(f"{count(bad)} contradictions: what is not true of one book is named above.", style="bold red")
    elif gaps:
        text = (
            f"No contradiction; {count(gaps)} gaps: receipts that are not here, or leases that nobody closed or that "
            "were not refunded."
        )
        screen.line(text + (" --strict refuses them." if strict else ""), style="bold")
    else:
        screen.line("Ledger, enclaves and receipts say the same, lease by lease.", style="green")


def _render_lost(screen: Screen, charged: list[ChargedRow]) -> None:
    screen.line("The log names a restore from a backup, so it does not know the leases that were lost.")
    if not charged:
        screen.line("Operators charged nothing for them.")
        return
    screen.line("Operators charged for them, the same use to every budget that it counts for:")
    columns = ("charged budget", "window", "from", "counts", ">units")
    rows = [(one.budget, one.window, when(one.from_ms), one.dimension, count(one.units)) for one in charged]
    screen.table(columns, rows, "")
