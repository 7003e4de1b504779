"""Runs campaigns: hands out seeds, collects figures as they come, and keeps them.

Worker processes are started afresh (`spawn`), import the campaign by its name, and play small batches of seeds, so that
what was counted is kept although the run is interrupted.
"""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial

from aigovtool.cli.demo.child import live_no_longer_than
from assurance.campaign import Campaign
from assurance.catalogue import campaign_named
from assurance.code_digest import code_digest, commit_of
from assurance.failed_seeds import failed_seeds, keep_failed
from assurance.figures import NOTHING, Figures, next_seeds
from assurance.machine import this_machine
from assurance.state import Record, keep, load_state

_KEEP_EVERY_S = 5.0
#: Runs in a row that may add nothing.
_IN_VAIN = 2


def play(campaign: Campaign, seeds: list[int], deadline: float) -> Figures:
    """Play seeds in this process and return what was counted, with the time it took."""
    total, since = NOTHING, time.monotonic()
    for figures in campaign.run(seeds, deadline):
        total = total.plus(figures)
    elapsed = Figures(spans=[], seconds=time.monotonic() - since)
    return total.plus(elapsed)


def _work(name: str, seeds: list[int], deadline: float) -> Figures:
    return play(campaign_named(name), seeds, deadline)


def batches_of(seeds: list[int], most: int, workers: int) -> Iterator[list[int]]:
    """Cut seeds into batches of at most so many, and so that each worker has some."""
    size = max(1, min(most, -(-len(seeds) // workers)))
    for start in range(0, len(seeds), size):
        yield seeds[start : start + size]


class _Keeper:
    """Collects figures and writes them every few seconds, so that an interruption loses little."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._digest = code_digest(campaign.covers)
        self._fresh = NOTHING
        self._kept_s = time.monotonic()

    def known(self) -> Figures:
        """Return what was kept of this code."""
        return load_state().figures(self._campaign.name, self._digest)

    def add(self, figures: Figures) -> None:
        """Take the figures of a batch."""
        self._fresh = self._fresh.plus(figures)
        if time.monotonic() - self._kept_s > _KEEP_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write what came in since the last time.

        Raises:
            SystemExit: what was played is not the code that lies there now.
        """
        fresh, self._fresh, self._kept_s = self._fresh, NOTHING, time.monotonic()
        campaign = self._campaign
        if not fresh.spans:
            return
        if code_digest(campaign.covers) != self._digest:
            raise SystemExit("the code under test has changed during the run: what was running is not counted")
        commit = commit_of(campaign.covers)
        keep(Record(campaign=campaign.name, digest=self._digest, commit=commit, machine=this_machine(), figures=fresh))
        if campaign.steady and fresh.violations:
            keep_failed(campaign.name, [found.seed for found in fresh.violations])


def run_campaign(campaign: Campaign, seeds: int, deadline: float, *, workers: int) -> Figures:
    """Play up to `seeds` new seeds until `deadline`, keep the figures, and return all that are known of this code.

    Without `workers` all are played in this process, as those of a campaign that is `alone` always are.

    Raises:
        SystemExit: a worker has died, or a seed could not be played to its end. What others counted is kept.
    """
    keeper = _Keeper(campaign)
    here = campaign.alone or workers < 1
    batches = batches_of(next_seeds(keeper.known().spans, seeds), campaign.batch, 1 if here else workers)
    try:
        if here:
            for batch in batches:
                if time.monotonic() >= deadline:
                    break
                keeper.add(play(campaign, batch, deadline))
        else:
            for figures in in_workers(workers, batches, partial(_work, campaign.name), deadline):
                keeper.add(figures)
    finally:
        keeper.write()
    return keeper.known()


def until_enough(campaign: Campaign, known: Figures, run: Callable[[int], Figures], deadline: float) -> Figures:
    """Run until the target is met, or `deadline`, or until runs add nothing; return all that is known then.

    One seed may count for more than one, and not all for the same. What a seed is worth is known once some were played,
    and a last few are played where that was too much. The first of some campaigns are short and count for nothing.
    """
    figures, in_vain = known, 0
    while not campaign.enough(figures) and time.monotonic() < deadline:
        before = figures
        figures = run(_missing(campaign, figures))
        counted = campaign.target.counted
        in_vain = in_vain + 1 if figures.count(counted) <= before.count(counted) else 0
        if in_vain and (in_vain > _IN_VAIN or figures.seeds() <= before.seeds() or figures.violations):
            break
    return figures


def _missing(campaign: Campaign, figures: Figures) -> int:
    """Return how many more seeds it takes, as far as is known: where the first count for less, not all of them."""
    counted, target = figures.count(campaign.target.counted), campaign.target.at_least
    if not counted:
        return min(max(1, campaign.quick), target)
    return min(target - counted, -(-(target - counted) * figures.seeds() // counted))


def in_workers(
    workers: int, batches: Iterator[list[int]], work: Callable[[list[int], float], Figures], deadline: float
) -> Iterator[Figures]:
    """Play batches in processes of their own and yield the figures of each as it ends.

    Raises:
        SystemExit: a process has died, or a seed could not be played to its end. It says which seeds are concerned.
    """
    spawn = multiprocessing.get_context("spawn")
    # A process of the pool waits for work for ever when this one is killed, unless the kernel ends it.
    with ProcessPoolExecutor(workers, spawn, initializer=live_no_longer_than, initargs=(os.getpid(),)) as pool:
        running: dict[Future[Figures], list[int]] = {}
        for batch in batches:
            if time.monotonic() >= deadline:
                break
            running[pool.submit(work, batch, deadline)] = batch
            if len(running) > workers:
                yield from _ended(running, FIRST_COMPLETED)
        yield from _ended(running, ALL_COMPLETED)


def _ended(running: dict[Future[Figures], list[int]], when: str) -> Iterator[Figures]:
    """Take out what has ended: first what was counted is given on, then the first failure is told."""
    ended = sorted(wait(running, return_when=when).done, key=lambda future: running[future])
    done = {future: running.pop(future) for future in ended}
    failed = [future for future in done if future.exception() is not None]
    yield from (future.result() for future in done if future not in failed)
    if failed:
        error = failed[0].exception()
        concerned = ", ".join(f"{done[future][0]} to {done[future][-1]}" for future in failed)
        told = "".join(traceback.format_exception(error))
        raise SystemExit(f"{told}NOT PLAYED TO THEIR END, and not counted: seeds {concerned}: {error!r}")


def replay_failed(campaign: Campaign) -> Figures:
    """Play the seeds that once failed; they are not counted."""
    return play(campaign, failed_seeds(campaign.name), float("inf")) if campaign.steady else NOTHING
