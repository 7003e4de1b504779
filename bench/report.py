"""Writes docs/benchmarks.json from what was measured, and docs/benchmarks.md and its charts from the JSON alone."""

from typing import Final

import msgspec
from assurance.machine import Machine

from aigovtool.codec import Message, decode, encode
from bench.custodian import ENCLAVES, RENEWAL_S, Renewals
from bench.data_plane_page import points_part, targets_part
from bench.earlier import MOST, Earlier, earlier_part
from bench.hold import Hold
from bench.ledgers import VIEWS, Copy, Ledger
from bench.loading import Loading
from bench.loading_page import hold_part, loading_part
from bench.plots import FOLDER, plots, plots_part
from bench.profile import Profile, profile_part
from bench.sealing import Sealing
from bench.served import ROOT, Point
from bench.sessions import Sessions
from bench.sessions_page import sessions_part
from bench.tables import table
from bench.targets import Found, Target, reached
from bench.yardstick import Yardstick

JSON_PATH: Final = ROOT / "docs" / "benchmarks.json"
PAGE_PATH: Final = ROOT / "docs" / "benchmarks.md"


_INTRODUCTION: Final = """\
# Benchmarks

Made by `make bench` from what was measured; no figure was written by hand. The machine is small and shared: compare
figures of one run with each other, and processor time rather than seconds or requests per second.
"""
_RENEWALS: Final = """\
## Renewals

The custodian in a process of its own, {enclaves} enclaves over HTTPS from another process on the same machine, as fast
as answers come. A *heartbeat* reports and wants nothing. A *trade* closes a lease and draws the next one: debit, audit
entries, signature, fsync. Custodians whose logs are short and long run side by side and take turns. Processor time is
the custodian's and, on PostgreSQL, that of the server's process that works for it. An enclave with the default ttl
renews every {seconds} s; *enclaves per core* is what that comes to. *Leases in use* are granted and not closed, by
enclaves of one borrower; those of the {enclaves} enclaves themselves come on top.

Long histories are laid down in bulk, not traded: entries, hashes and balances are those of a real ledger
(`bench/history.py`), and a copy of such a log passes `aigovtool audit verify`.

"""
_RENEWALS_COLUMNS: Final = (
    "store",
    "renewal",
    "leases in use",
    "log entries",
    "CPU ms: custodian",
    "server",
    "enclaves per core",
    "per s",
    "p50 ms",
    "p99 ms",
)
_GROWTH: Final = (
    "Growth with the log, processor time of a renewal on the longest against the shortest, which took turns, with the "
    "fewest and with the most leases in use: "
)
_LEDGERS: Final = """\
## Ledgers

*Start* is from starting the process to its first answer, by the clock and in processor time; a process that does
nothing but start takes most of it. Proofs are at random places, by one client; of bytes and hashes the largest.
*Laid down* is how fast the history was written. Then, what operators look at: processor time of one answer.

"""
_LEDGER_COLUMNS: Final = (
    "store",
    "log entries",
    "MiB",
    "laid down per CPU s",
    "start s",
    "CPU s",
    "inclusion: CPU ms",
    "p50 ms",
    "bytes",
    "hashes",
    "consistency: CPU ms",
    "p50 ms",
    "bytes",
    "hashes",
)
_COPIES: Final = """\
## Copies of the log

`aigovtool audit export` and `aigovtool audit verify` of whole logs, each in a process of its own: processor time and
largest memory. A verifier keeps in memory what is open, and 24 to 48 bytes for each lease that is over.

"""
_COPY_COLUMNS: Final = (
    "log entries",
    "MiB",
    "export: CPU s",
    "MiB",
    "custodian: CPU s",
    "verify: CPU s",
    "MiB",
    "entries verified per CPU s",
)
_END: Final = """\
What this does not show: several custodians share the ledger's one writer, so they add availability, not renewals per
second; a network between the parties; a disk that is slower to sync than this one; a history over years of calendar
windows (all leases of a laid-down history are granted at one time, under one limit, for one consumer).
"""


class Benchmarks(Message):
    """One run of all benchmarks."""

    commit: str
    changed: bool
    date: str
    machine: Machine
    renewals: list[Renewals]
    ledgers: list[Ledger]
    points: tuple[Point, ...] = ()
    targets: tuple[Target, ...] = ()
    loadings: tuple[Loading, ...] = ()
    sealing: Sealing | None = None
    hold: Hold | None = None
    sessions: tuple[Sessions, ...] = ()
    profiles: tuple[Profile, ...] = ()
    yardstick: Yardstick | None = None
    #: What was published before, the newest first.
    earlier: tuple[Earlier, ...] = ()

    def with_targets(self) -> "Benchmarks":
        """Return it with what it says of the targets."""
        found = Found(
            points=self.points,
            renewals=self.renewals,
            loadings=self.loadings,
            sealing=self.sealing,
            hold=self.hold,
            sessions=self.sessions,
        )
        return msgspec.structs.replace(self, targets=tuple(reached(found)))

    def after(self, before: "Benchmarks") -> "Benchmarks":
        """Return it with what the run that was published before it reached, and those before that."""
        last = Earlier.of(before.commit, before.date, before.targets, before.yardstick)
        return msgspec.structs.replace(self, earlier=(last, *before.earlier)[:MOST])


def write(found: Benchmarks) -> None:
    """Publish a run."""
    JSON_PATH.write_bytes(encode(found) + b"\n")
    PAGE_PATH.write_text(page(found), encoding="utf-8")
    folder = PAGE_PATH.parent / FOLDER
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for name, chart in plots(found.points).items():
        (folder / name).write_text(chart, encoding="utf-8")


def charts_published() -> dict[str, str]:
    """Return the charts that are published, by the names of their files."""
    return {path.name: path.read_text(encoding="utf-8") for path in (PAGE_PATH.parent / FOLDER).glob("*.svg")}


def published() -> Benchmarks:
    """Return the run that is published."""
    return decode(JSON_PATH.read_bytes().strip(), Benchmarks, max_bytes=1 << 20)


def page(found: Benchmarks) -> str:
    """Return the page of a run."""
    made = f"Commit {found.commit}{' with changes' if found.changed else ''}, {found.date}; {found.machine.words()}."
    parts = [
        _INTRODUCTION,
        made + "\n",
        *([f"{_first_upper(found.yardstick.words())}.\n"] if found.yardstick is not None else []),
        *([targets_part(found.targets)] if found.points or found.loadings else []),
        *([earlier_part(found.targets, found.earlier)] if found.earlier else []),
        *([points_part(found.points), plots_part(found.points)] if found.points else []),
        *([profile_part(found.profiles)] if found.profiles else []),
        *([loading_part(found.loadings, found.sealing)] if found.loadings else []),
        *([hold_part(found.hold)] if found.hold is not None else []),
        *([sessions_part(found.sessions)] if found.sessions else []),
        _RENEWALS.format(enclaves=ENCLAVES, seconds=RENEWAL_S) + table(_RENEWALS_COLUMNS, map(_line, found.renewals)),
        f"{_GROWTH}{'; '.join(_growth(found.renewals))}.\n",
        _LEDGERS + table(_LEDGER_COLUMNS, map(_ledger, found.ledgers)),
        table(("store", "log entries", *(f"`{view}` CPU ms" for view in VIEWS)), map(_views, found.ledgers)),
        _COPIES + table(_COPY_COLUMNS, (_copy(one, one.copy) for one in found.ledgers if one.copy is not None)),
        _END,
    ]
    return "\n".join(parts)


def _first_upper(words: str) -> str:
    return words[0].upper() + words[1:]


def _line(one: Renewals) -> tuple[str, ...]:
    return (
        one.store,
        "trade" if one.trading else "heartbeat",
        f"{one.leases_in_use:,}",
        f"{one.log_entries:,}",
        f"{one.cpu_ms:.2f}",
        "" if one.store_cpu_ms is None else f"{one.store_cpu_ms:.2f}",
        f"{one.enclaves_per_core():,}",
        f"{one.per_s:,.0f}",
        f"{one.p50_ms:.1f}",
        f"{one.p99_ms:.1f}",
    )


def _ledger(one: Ledger) -> tuple[str, ...]:
    proofs = [
        cell
        for made in (one.inclusion, one.consistency)
        for cell in (f"{made.cpu_ms:.2f}", f"{made.p50_ms:.1f}", f"{made.bytes:,}", f"{made.hashes}")
    ]
    laid = "" if one.laid_per_cpu_s is None else f"{one.laid_per_cpu_s:,.0f}"
    head = (
        one.store,
        f"{one.log_entries:,}",
        f"{one.size_mib:,}",
        laid,
        f"{one.start_s:.1f}",
        f"{one.start_cpu_s:.1f}",
    )
    return (*head, *proofs)


def _views(one: Ledger) -> tuple[str, ...]:
    return (one.store, f"{one.log_entries:,}", *(f"{cpu_ms:.2f}" for cpu_ms in one.views_cpu_ms))


def _copy(one: Ledger, copy: Copy) -> tuple[str, ...]:
    return (
        f"{one.log_entries:,}",
        f"{copy.size_mib:,}",
        f"{copy.export_cpu_s:.1f}",
        f"{copy.export_mib:,}",
        f"{copy.served_cpu_s:.1f}",
        f"{copy.verify_cpu_s:.1f}",
        f"{copy.verify_mib:,}",
        f"{one.log_entries / copy.verify_cpu_s:,.0f}",
    )


def _growth(found: list[Renewals]) -> list[str]:
    said = []
    for store in dict.fromkeys(one.store for one in found):
        for trading in (False, True):
            mine = [one for one in found if (one.store, one.trading) == (store, trading)]
            ratios = " and ".join(
                f"{_ratio(mine, in_use):.2f}" for in_use in sorted({one.leases_in_use for one in mine})
            )
            said.append(f"{store} {'trade' if trading else 'heartbeat'} {ratios}")
    return said


def _ratio(found: list[Renewals], in_use: int) -> float:
    ordered = sorted((one for one in found if one.leases_in_use == in_use), key=lambda one: one.log_entries)
    return ordered[-1].total_ms() / ordered[0].total_ms()
