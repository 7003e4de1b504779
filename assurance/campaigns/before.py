"""The predecessor's counter beside ours: what is lost when several ask at once."""

import time
from collections.abc import Iterator

from assurance.campaign import Campaign, Target
from assurance.figures import Figures, of_seed
from assurance.predecessor import Outcome, measure

_CLIENTS, _REQUESTS = (8, 20), 1_000


def _run(seeds: list[int], deadline: float) -> Iterator[Figures]:
    for seed in seeds:
        if time.monotonic() >= deadline:
            return
        counts = {"rounds": 1}
        for outcome in (measure(clients, _REQUESTS) for clients in _CLIENTS):
            counts |= _counts(outcome)
        yield of_seed(seed, counts=counts)


def _counts(outcome: Outcome) -> dict[str, int]:
    name = f"{outcome.clients} clients"
    return {
        f"{name}: requests": outcome.requests,
        f"{name}: lost": outcome.lost(),
        f"{name}: server errors": outcome.server_errors,
        f"{name}: torn": int(outcome.torn),
    }


def _figure(figures: Figures) -> str:
    def words(clients: int) -> str:
        asked, lost, errors, torn = (
            figures.count(f"{clients} clients: {what}") for what in ("requests", "lost", "server errors", "torn")
        )
        return (
            f"{clients} clients: {lost:,} of {asked:,} debits lost ({100 * lost / max(1, asked):.0f} %), {errors:,} "
            f"server errors, the file unreadable afterwards in {torn} of {figures.seeds()} rounds"
        )

    return "; ".join(words(clients) for clients in _CLIENTS)


CAMPAIGN = Campaign(
    name="before",
    claim="For comparison: the predecessor's counter, a JSON file without a lock, gave away what it did not record.",
    counts=f"debits that are not in the file after {' and '.join(map(str, _CLIENTS))} clients made {_REQUESTS:,} "
    "requests each over loopback. Its enclave ignored the answer, so that each is an inference for nothing. It is "
    "written anew from a description of its logic (`assurance/predecessor.py`); compare the campaign `parallel`.",
    target=Target(3, "rounds"),
    shows_not="the predecessor itself, whose code is not here: it ran behind a slower web framework, where fewer "
    "requests meet and a smaller share is lost; nor how often its users asked at once.",
    covers=("assurance/predecessor.py", "assurance/campaigns/before.py"),
    run=_run,
    replay=lambda _: "\n".join(str(measure(clients, _REQUESTS)) for clients in _CLIENTS),
    figure=_figure,
    quick=1,
    steady=False,
    alone=True,
)
