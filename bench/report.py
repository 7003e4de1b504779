"""Writes docs/benchmarks.json from what was measured, and docs/benchmarks.md from the JSON and nothing else."""

from pathlib import Path
from typing import Final

from assurance.machine import Machine

from aigovtool.codec import Message, decode, encode
from bench.custodian import ENCLAVES, RENEWAL_S, Renewals

ROOT: Final = Path(__file__).resolve().parent.parent
JSON_PATH: Final = ROOT / "docs" / "benchmarks.json"
PAGE_PATH: Final = ROOT / "docs" / "benchmarks.md"


_INTRODUCTION: Final = """\
# Benchmarks

Made by `make bench` from what was measured; no figure was written by hand. The machine is small and shared: compare
figures of one run with each other, and processor time rather than requests per second.
"""
_RENEWALS: Final = """\
## Renewals

The custodian in a process of its own, {enclaves} enclaves over HTTPS from another process on the same machine, as fast
as answers come. A *heartbeat* reports and wants nothing. A *trade* closes a lease and draws the next one: debit, audit
entries, signature, fsync. Processor time is the custodian's alone (on PostgreSQL without that of the server). An
enclave with the default ttl renews every {seconds} s; *enclaves per core* is what that comes to.

| store | renewal | closed leases | log entries | per s | CPU ms each | enclaves per core | p50 ms | p99 ms | MiB |
|---|---|---|---|---|---|---|---|---|---|
"""
_GROWTH: Final = "Growth with history, CPU per renewal at the longest against the shortest history measured: "
_END: Final = """\
What this does not show: several custodians share the ledger's one writer, so they add availability, not renewals per
second; a network between the parties; a disk that is slower to sync than this one.
"""


class Benchmarks(Message):
    """One run of all benchmarks."""

    commit: str
    changed: bool
    date: str
    machine: Machine
    renewals: list[Renewals]


def write(found: Benchmarks) -> None:
    """Publish a run."""
    JSON_PATH.write_bytes(encode(found) + b"\n")
    PAGE_PATH.write_text(page(found), encoding="utf-8")


def published() -> Benchmarks:
    """Return the run that is published."""
    return decode(JSON_PATH.read_bytes().strip(), Benchmarks, max_bytes=1 << 20)


def page(found: Benchmarks) -> str:
    """Return the page of a run."""
    made = f"Commit {found.commit}{' with changes' if found.changed else ''}, {found.date}; {found.machine.words()}."
    renewals = _RENEWALS.format(enclaves=ENCLAVES, seconds=RENEWAL_S)
    lines = "\n".join(_line(one) for one in found.renewals)
    growth = "; ".join(_growth(found.renewals))
    return f"{_INTRODUCTION}\n{made}\n\n{renewals}{lines}\n\n{_GROWTH}{growth}.\n\n{_END}"


def _line(one: Renewals) -> str:
    size = "" if one.ledger_mib is None else f"{one.ledger_mib:,}"
    kind = "trade" if one.trading else "heartbeat"
    return (
        f"| {one.store} | {kind} | {one.closed_leases:,} | {one.log_entries:,} | {one.per_s:,.0f} | {one.cpu_ms:.2f} "
        f"| {one.enclaves_per_core():,} | {one.p50_ms:.1f} | {one.p99_ms:.1f} | {size} |"
    )


def _growth(found: list[Renewals]) -> list[str]:
    said = []
    for store in dict.fromkeys(one.store for one in found):
        for trading in (False, True):
            mine = [one for one in found if (one.store, one.trading) == (store, trading)]
            ratio = mine[-1].cpu_ms / mine[0].cpu_ms
            said.append(f"{store} {'trade' if trading else 'heartbeat'} {ratio:.2f}")
    return said
