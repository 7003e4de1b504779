"""`python -m assurance`: run campaigns, list them, or play one seed again.

Without options each campaign is run until its target is met. Exit code 1 says that a promise was broken.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from textwrap import indent

from assurance import published, report
from assurance.campaign import Campaign
from assurance.catalogue import CAMPAIGNS, campaign_named
from assurance.code_digest import code_digest
from assurance.figures import Figures
from assurance.runner import replay_failed, run_campaign, until_enough
from assurance.state import load_state

#: The short form of all campaigns takes ten minutes in all, with the seeds that are played to their end after that.
QUICK_S = 520.0
#: What one campaign may take of it, and what stays for each that comes after it.
_QUICK_MOST_S, _QUICK_LEAST_S = 40.0, 13.0
_AT_LEAST_S = 1.0
#: Not worth the start of worker processes.
_TOO_SHORT_S = 20.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m assurance", description=__doc__)
    parser.add_argument("--list", action="store_true", help="show the campaigns and what was counted so far")
    parser.add_argument(
        "--quick", action="store_true", help="play as many seeds of each as fit into ten minutes in all"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="run this campaign (may be repeated)")
    parser.add_argument("--seeds", type=int, metavar="N", help="play N new seeds of each")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop each after S seconds")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that play at once (default: one per core); campaigns that start real processes have one",
    )
    parser.add_argument("--replay", nargs=2, metavar=("CAMPAIGN", "SEED"), help="play one seed and print what happens")
    parser.add_argument("--restate", action="store_true", help="count nothing; say of each figure which code it is of")
    parser.add_argument("--no-docs", action="store_true", help="do not write docs/assurance.md and docs/assurance.json")
    return parser.parse_args()


def _show() -> None:
    state = load_state()
    for campaign in CAMPAIGNS:
        figures = state.figures(campaign.name, code_digest(campaign.covers))
        status = campaign.status(figures) if figures.seeds() else "not run"
        print(f"{campaign.name:<12} {status:<8} {campaign.figure(figures) if figures.seeds() else '-'}")
        print(f"{'':<12} {'':<8} {campaign.claim} Target: {campaign.target.words()}.")


def quick_share_s(left_s: float, campaigns: int) -> float:
    """Return how long the next of so many campaigns may play, with so much time left for them all."""
    return max(0.0, min(_QUICK_MOST_S, max(left_s / campaigns, left_s - _QUICK_LEAST_S * (campaigns - 1))))


def run_one(campaign: Campaign, options: argparse.Namespace, most_s: float) -> bool:
    """Run one campaign for so long at most; return whether its promise is kept."""
    since = time.monotonic()
    print(f"{campaign.name}: {campaign.claim}", flush=True)
    if options.quick and options.seeds is None and not campaign.quick:
        print("  left out of the short form: one round takes longer than that; `make test` plays its tests", flush=True)
        return not campaign.broken(load_state().figures(campaign.name, code_digest(campaign.covers)))
    old = replay_failed(campaign)
    deadline = since + min(most_s, options.seconds or float("inf"))
    if options.quick and most_s > 0:  # old seeds may have taken it all: each campaign plays something
        deadline = max(deadline, time.monotonic() + _AT_LEAST_S)
    figures = _played(campaign, options, deadline)
    elapsed = time.monotonic() - since
    told = f"nothing was played: {elapsed:.0f} s were not enough"
    if figures.seeds():
        told = f"{campaign.status(figures)} after {elapsed:.0f} s: {campaign.figure(figures)}"
    print(f"  {told}", flush=True)
    for words in complaints(campaign, old, figures):
        print(indent(words, "  "), flush=True)
    return not old.violations and not campaign.broken(figures)


def complaints(campaign: Campaign, old: Figures, new: Figures) -> Iterator[str]:
    """Yield every promise that is broken, by seeds that failed before and by new ones; then why, and how to see it."""
    for what in (*campaign.broken(old), *campaign.broken(new)):
        yield f"BROKEN: {what}"
    for found in (*old.violations, *new.violations):
        if found.why:
            yield found.why
        yield f"see it again: python -m assurance --replay {campaign.name} {found.seed}"


def _played(campaign: Campaign, options: argparse.Namespace, deadline: float) -> Figures:
    seeds = campaign.quick if options.quick and options.seeds is None else options.seeds
    if seeds is not None:
        short = options.quick and deadline - time.monotonic() < _TOO_SHORT_S
        return run_campaign(campaign, seeds, deadline, workers=0 if short else options.workers)
    known = load_state().figures(campaign.name, code_digest(campaign.covers))
    return until_enough(
        campaign, known, lambda some: run_campaign(campaign, some, deadline, workers=options.workers), deadline
    )


def _publish() -> None:
    report.write(report.publish(CAMPAIGNS, load_state(), published.read()))


def main() -> int:
    """Run what was asked for."""
    options = _arguments()
    if options.list:
        _show()
        return 0
    if options.replay:
        print(campaign_named(options.replay[0]).replay(int(options.replay[1])))
        return 0
    if options.restate:
        _publish()
        return 0
    chosen = CAMPAIGNS if options.only is None else tuple(campaign_named(name) for name in options.only)
    kept, since = [], time.monotonic()
    for number, campaign in enumerate(chosen):
        left_s = since + QUICK_S - time.monotonic()
        most_s = quick_share_s(left_s, len(chosen) - number) if options.quick else float("inf")
        kept.append(run_one(campaign, options, most_s))
    if not options.no_docs:
        _publish()
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
