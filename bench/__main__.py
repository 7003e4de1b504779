"""`python -m bench`: measure, and publish the figures.

`--entries N,N,...` are lengths of the audit log and `--leases N,N,...` numbers of leases not closed; every combination
is measured. A ledger of ten million entries takes 10 GB of disk and five minutes to lay down.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial

from assurance.machine import this_machine
from tests.postgres_server import PostgresServer

from aigovtool.codec import Message
from bench.custodian import Renewals, renewals_of
from bench.data_plane import COURSES, Course, run
from bench.deployment import Deployment, deployed
from bench.hold import Hold, hold
from bench.kept import Kept
from bench.ledgers import Ledger, look_at
from bench.loading import KINDS, Loading
from bench.loading import measure as measure_loading
from bench.predecessor import installed as predecessor_installed
from bench.predecessor import predecessor
from bench.profile import MODELS, Profile, profile
from bench.report import Benchmarks, page, published, write
from bench.sealing import Sealing
from bench.sealing import measure as measure_sealing
from bench.served import ROOT, Point
from bench.sessions import QUOTES_S, Sessions
from bench.sessions import measure as measure_sessions
from bench.yardstick import Yardstick, this_yardstick

PARTS = ("custodian", "data-plane", "loading", "sessions")


class OfStore(Message):
    """All that was measured of custodians on one kind of store."""

    renewals: list[Renewals]
    ledgers: list[Ledger]


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--entries", default="0,20000", help="entries in the audit log (0: what setting up writes)")
    parser.add_argument("--leases", default="10,1000", help="leases in use: granted and not closed")
    parser.add_argument("--renewals", type=int, default=2_000, help="renewals per measurement")
    parser.add_argument("--copy-up-to", type=int, default=1_000_000, help="longest log that is exported and verified")
    parser.add_argument("--stores", default="sqlite,postgresql", help="which stores")
    parser.add_argument("--parts", default=",".join(PARTS), help="a part alone is printed only")
    parser.add_argument("--models", default=",".join(one.model for one in COURSES), help="models of the data plane")
    parser.add_argument("--hold", type=float, metavar="MINUTES", help="also an enclave at its limit for so long")
    parser.add_argument("--peers", action="store_true", help="the other servers too (make bench-peers)")
    parser.add_argument("--keep", action="store_true", help="go on with what a run measured that was broken off")
    parser.add_argument("--dry", action="store_true", help="print the page, publish nothing")
    chosen = parser.parse_args()
    parts = chosen.parts.split(",")
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = bool(_git("status", "--porcelain", "--", "src", "bench", "requirements"))
    if chosen.keep and changed:
        parser.error("--keep is for what is committed")
    before = published()  # now, and not after an hour, if it cannot be read
    kept = Kept.of(commit) if chosen.keep else Kept(None)
    yardstick = kept.one("yardstick", Yardstick, this_yardstick)
    renewals, ledgers = _custodian(chosen, kept) if "custodian" in parts else ([], [])
    points = tuple(_data_plane(chosen, kept)) if "data-plane" in parts else ()
    found = Benchmarks(
        commit=commit,
        changed=changed,
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=this_machine(),
        renewals=renewals,
        ledgers=ledgers,
        points=points,
        loadings=tuple(_loadings(kept)) if "loading" in parts else (),
        sealing=kept.one("sealing", Sealing, measure_sealing) if "loading" in parts else None,
        sessions=tuple(_sessions(kept)) if "sessions" in parts else (),
        profiles=tuple(_profiles(chosen, kept)) if "data-plane" in parts else (),
        hold=_hold(chosen.hold, kept) if chosen.hold else None,
        yardstick=yardstick,
    ).with_targets()
    # The page is of one run: figures of another commit or machine do not stand under this one's name.
    if not chosen.dry and set(PARTS) <= set(parts):
        write(found.after(before))
        kept.forget()
    sys.stdout.write(page(found))


def _custodian(chosen: argparse.Namespace, kept: Kept) -> tuple[list[Renewals], list[Ledger]]:
    chosen_for = f"{chosen.entries}-{chosen.leases}-{chosen.renewals}-{chosen.copy_up_to}"
    found = [
        kept.one(f"custodian-{store}-{chosen_for}", OfStore, partial(_of_store, chosen, store))
        for store in chosen.stores.split(",")
    ]
    return [one for store in found for one in store.renewals], [one for store in found for one in store.ledgers]


def _of_store(chosen: argparse.Namespace, store: str) -> OfStore:
    found = OfStore(renewals=[], ledgers=[])
    with _deployments(store, _numbers(chosen.entries)) as made:
        for in_use in _numbers(chosen.leases):
            _run(made, in_use, chosen, found)
    return found


def _data_plane(chosen: argparse.Namespace, kept: Kept) -> Iterator[Point]:
    whom = "peers" if chosen.peers else "ours"
    for course in COURSES:
        if course.model in chosen.models.split(","):
            yield from kept.part(f"{course.model}-{whom}", Point, partial(_course, course, peers=chosen.peers))
    if chosen.peers and predecessor_installed():
        yield from kept.part("predecessor", Point, _predecessor)


def _course(course: Course, *, peers: bool) -> Iterator[Point]:
    _say(f"{course.model}: everybody in turns")
    for point in run(course, peers=peers, pieces=True):
        _say(f"  {point.server}, {point.connections}: {point.per_s:,.1f}/s, {point.cpu_us:,.0f} us")
        yield point


def _predecessor() -> list[Point]:
    with predecessor() as counter:
        return [counter.measure(connections, 4) for connections in (1, 8, 32)]


def _profiles(chosen: argparse.Namespace, kept: Kept) -> Iterator[Profile]:
    for model, connections in MODELS.items():
        if model in chosen.models.split(","):
            _say(f"{model}: what the enclave does")
            yield kept.one(f"profile-{model}", Profile, partial(profile, model, connections))


def _loadings(kept: Kept) -> Iterator[Loading]:
    for kind in KINDS:
        _say(f"{kind.model}: loading")
        found = kept.one(f"loading-{kind.model}", Loading, partial(measure_loading, kind))
        _say(f"  {found.ratio():.2f} of the time alone; {found.above():.2f} of its size more memory")
        yield found


def _sessions(kept: Kept) -> Iterator[Sessions]:
    for quote_s in QUOTES_S:
        _say(f"new sessions, where a quote takes {quote_s:g} s")
        found = kept.one(f"sessions-{quote_s:g}", Sessions, partial(measure_sessions, quote_s))
        _say(f"  {found.per_minute:,.0f} a minute")
        yield found


def _hold(minutes: float, kept: Kept) -> Hold:
    _say(f"an enclave at its limit for {minutes:g} minutes")
    return kept.one(f"hold-{minutes:g}", Hold, partial(hold, minutes))


def _run(made: dict[int, Deployment], in_use: int, chosen: argparse.Namespace, found: OfStore) -> None:
    """Measure all deployments with `in_use` leases; the ledgers themselves once, after the first of these."""
    first = all(one.in_use == 0 for one in made.values())
    for entries, one in made.items():
        _say(f"{one.store}: a log of {entries:,} entries, {in_use:,} leases in use")
        one.grow(entries=entries, in_use=in_use)
        one.start()
    _say(f"{in_use:,} leases in use: renewals")
    found.renewals.extend(renewals_of(list(made.values()), chosen.renewals))
    if first:
        for entries, one in made.items():
            _say(f"{one.store}: the ledger of {one.entries:,} entries")
            found.ledgers.append(look_at(one, copied=one.store == "sqlite" and entries <= chosen.copy_up_to))
    for one in made.values():
        one.stop()


@contextmanager
def _deployments(store: str, lengths: list[int]) -> Iterator[dict[int, Deployment]]:
    with ExitStack() as stack:
        server = None if store == "sqlite" else stack.enter_context(PostgresServer())
        yield {
            entries: stack.enter_context(deployed(store, None if server is None else server.database()))
            for entries in lengths
        }


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _say(what: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {what}\n")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
