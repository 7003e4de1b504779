"""`aigovtool receipt prove`: that the lease which a receipt names was debited from budgets.

A receipt says what an enclave charged; the proof says that the ledger had debited the units before. With --proof a
saved proof is checked offline.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from aigovtool.cli.credentials import read_party, require_free
from aigovtool.cli.scope import path as named
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb, key_set_option
from aigovtool.cli.words import count, when

if TYPE_CHECKING:
    from aigovtool.operator.proofs import ProvenLease


class Debited(Struct, frozen=True, kw_only=True):
    """One budget row that a lease debited."""

    budget: str
    window: str
    dimension: str
    from_ms: int
    units: int


class Proven(Struct, frozen=True, kw_only=True):
    """A lease that is in the signed log; `file` is where the proof was saved, if it was."""

    lease: str
    instance: str
    model: str
    consumer: str
    debited: list[Debited]
    entry: int
    entries: int
    root: str
    generation: int
    checkpoint: str
    file: str | None


@click.command(cls=Verb, example="aigovtool receipt prove receipt.json --credential radiology.json -o proof.json")
@click.argument("file", type=FILE)
@click.option("--credential", type=FILE, required=True, help="The file of the consumer, or of an operator.")
@click.option("-o", "--out", type=FILE, help="File to save the proof to; must not exist.")
@click.option("--proof", "proof_path", type=FILE, help="Check this saved proof, offline, and ask nobody.")
@key_set_option
@click.pass_obj
def prove(
    screen: Screen,
    *,
    file: Path,
    credential: Path,
    out: Path | None,
    proof_path: Path | None,
    key_set_at_least: int,
) -> None:
    """Prove that the lease of a receipt, FILE, was debited in the custodian's signed log.

    The receipt itself is checked by `aigovtool receipt verify`. The saved proof holds a checkpoint of the log: whoever
    keeps it can show that the custodian once signed it.
    """
    from aigovtool.consumer.receipts import read_saved_receipt  # noqa: PLC0415
    from aigovtool.crypto.sign import VerifyKey  # noqa: PLC0415
    from aigovtool.operator.proofs import fetch_proof, open_saved, read_proof, write_proof  # noqa: PLC0415
    from aigovtool.protocol.party import known_key_set  # noqa: PLC0415

    if out is not None:
        require_free(out)
    receipt = read_saved_receipt(file).signed.receipt
    party = read_party(credential)
    if proof_path is None:
        known = max(key_set_at_least, known_key_set(party))
        found = fetch_proof(party, receipt, key_set_at_least=known)
    else:  # one that was saved before a key was revoked is as good as it was, unless the reader says otherwise
        root = VerifyKey(party.custodian.root)
        found = open_saved(read_proof(proof_path), root, receipt, key_set_at_least=key_set_at_least)
    if out is not None:
        write_proof(out, found.saved)
    done = _proven(found, out)
    screen.show(done, lambda: _render(screen, done))


def _proven(found: "ProvenLease", out: Path | None) -> Proven:
    granted = found.granted
    return Proven(
        lease=granted.lease_id,
        instance=granted.instance,
        model=granted.model,
        consumer=granted.consumer,
        debited=[
            Debited(
                budget=named(row.scope),
                window=row.window.value,
                dimension=row.dimension.value,
                from_ms=row.bucket_ms,
                units=granted.units.get(row.dimension),
            )
            for row in granted.rows
        ],
        entry=found.saved.proof.index,
        entries=found.checkpoint.size,
        root=found.checkpoint.root.hex(),
        generation=found.checkpoint.generation,
        checkpoint=found.saved.proof.checkpoint,
        file=None if out is None else str(out),
    )


def _render(screen: Screen, done: Proven) -> None:
    screen.line("The lease of this receipt was debited: it is in the log that the custodian signed", style="green")
    screen.facts(
        [
            ("lease", f"{done.lease}, of {done.model} for {done.consumer}"),
            ("enclave", done.instance),
            ("entry", f"{count(done.entry)} of {count(done.entries)} (generation {done.generation})"),
            ("root", done.root),
        ]
    )
    rows = [(one.budget, one.window, when(one.from_ms), one.dimension, count(one.units)) for one in done.debited]
    screen.table(("debited budget", "window", "from", "counts", ">units"), rows, "no budget")
    if done.file is not None:
        screen.line(f"saved; check offline: aigovtool receipt prove RECEIPT --credential FILE --proof {done.file}")
