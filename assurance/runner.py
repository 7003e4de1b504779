"""Runs campaigns: hands out seeds, collects figures as they come, and keeps them.

Worker processes are started afresh (`spawn`), import the campaign by its name, and play small batches of seeds, so that
what was counted is kept although the run is interrupted.
"""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from assurance.campaign import Campaign
from assurance.catalogue import campaign_named
from assurance.code_digest import code_digest, commit_of
from assurance.failed_seeds import failed_seeds, keep_failed
from assurance.figures import NOTHING, Figures, next_seeds
from assurance.machine import this_machine
from assurance.state import Record, keep, load_state

_KEEP_EVERY_S = 5.0


def play(campaign: Campaign, seeds: list[int], deadline: float) -> Figures:
    """Play seeds in this process and return what was counted, with the time it took."""
    total, since = NOTHING, time.monotonic()
    for figures in campaign.run(seeds, deadline):
        total = total.plus(figures)
    elapsed = Figures(spans=[], seconds=time.monotonic() - since)
    return total.plus(elapsed)


def _work(name: str, seeds: list[int], deadline: float) -> Figures:
    return play(campaign_named(name), seeds, deadline)


def _batches(campaign: Campaign, seeds: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(seeds), campaign.batch):
        yield seeds[start : start + campaign.batch]


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


def run_campaign(campaign: Campaign, seeds: int, deadline: float) -> Figures:
    """Play up to `seeds` new seeds until `deadline`, keep the figures, and return all that are known of this code."""
    keeper = _Keeper(campaign)
    batches = _batches(campaign, next_seeds(keeper.known().spans, seeds))
    try:
        if campaign.workers == 1:
            for batch in batches:
                if time.monotonic() >= deadline:
                    break
                keeper.add(play(campaign, batch, deadline))
        else:
            _run_in_workers(campaign, keeper, batches, deadline)
    finally:
        keeper.write()
    return keeper.known()


def _run_in_workers(campaign: Campaign, keeper: _Keeper, batches: Iterator[list[int]], deadline: float) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(campaign.workers, mp_context=context) as pool:
        running: set[Future[Figures]] = set()
        for batch in batches:
            if time.monotonic() >= deadline:
                break
            running.add(pool.submit(_work, campaign.name, batch, deadline))
            if len(running) > campaign.workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    keeper.add(future.result())
        for future in running:
            keeper.add(future.result())


def replay_failed(campaign: Campaign) -> Figures:
    """Play the seeds that once failed; they are not counted."""
    return play(campaign, failed_seeds(campaign.name), float("inf")) if campaign.steady else NOTHING
