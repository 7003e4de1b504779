"""One life of a custodian, drawn from a seed, in which an auditor looks at its log again and again.

Its acts come one after another, or many at once, of which each may find the ledger changed wherever it waits for it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aigovtool.errors import AIGovToolError
from assurance.any_order import hosts, orders
from assurance.any_order.auditor import accuse, audit, show_notes
from assurance.any_order.office import Defect, Office

Act = Callable[[Office], Awaitable[None]]
_ACTS: Final[dict[Act, int]] = {**orders.ACTS, **hosts.ACTS}
#: Acts that need a model that is lent, and an enclave that was admitted.
_NEEDS_ENCLAVE: Final = {hosts.attest_again, hosts.fetch_key, hosts.renew, hosts.wipe}
#: Acts of whoever has the custodian's machine: they come between those that are at once.
_OF_THE_HOST: Final = {
    hosts.wait,
    hosts.set_clock,
    hosts.accept,
    hosts.restart,
    hosts.back_up,
    hosts.restore,
    hosts.enrol_in_directory,
    hosts.rotate_log_key,
}
#: How many acts there are between two looks at the log, and how many of them at once.
_BETWEEN: Final = 10
_AT_ONCE: Final = (8, 16)


async def _begin(office: Office) -> None:
    """Have what most acts need: two borrowers, consumers, models with budgets, enclaves."""
    while len(office.bench.enrolment) < 2 or len(office.owners) < 3:
        await orders.add_party(office)
    while not office.models:
        await orders.lend(office)
    await orders.provide(office)
    await hosts.begin(office)
    while not office.enclaves:  # to whom it is lent may have expired, or been forgotten, meanwhile
        for act in (orders.add_party, orders.set_terms, orders.provide, hosts.begin):
            await act(office)


def _next(office: Office, *, host: bool | None = None) -> Act:
    """Return an act; only one of the host's, or none, where that is said."""
    if (
        host is not True
        and not [one for one in office.enclaves if one.instance not in office.ended]
        and office.chance.random() < 0.3
    ):
        return hosts.begin
    acts = [act for act in _ACTS if office.enclaves or act not in _NEEDS_ENCLAVE]
    acts = acts if host is None else [act for act in acts if (act in _OF_THE_HOST) is host]
    return office.chance.choices(acts, weights=[_ACTS[act] for act in acts])[0]


async def _look(office: Office) -> None:
    # While a ledger has a gap, others remember what is not in it, and only the custodian knows of whom that is true.
    known = await show_notes(office)
    report = await audit(office, seen=known)
    office.counts["audits"] += 1
    office.counts["entries"] = max(office.counts["entries"], report.entries)
    office.counts["notes that hold"] += len(known)


async def _act(office: Office) -> None:
    office.turn()
    await _next(office, host=False)(office)


async def _live_at_once(office: Office, steps: int) -> None:
    await _begin(office)
    for _ in range(steps // _BETWEEN):
        if office.chance.random() < 0.5:
            office.turn()
            await _next(office, host=True)(office)
        number = office.chance.randint(*_AT_ONCE)
        # All come to their ends, as a custodian that is to be closed has to be left alone.
        for found in await asyncio.gather(*(_act(office) for _ in range(number)), return_exceptions=True):
            if found is not None:
                raise found
        await _look(office)


async def _live(office: Office, steps: int) -> None:
    await _begin(office)
    for number in range(steps):
        office.turn()
        await _next(office)(office)
        if number % _BETWEEN == _BETWEEN - 1:
            await _look(office)
    await _look(office)
    await accuse(office)


def live(
    seed: int, directory: Path, steps: int, ledger: str | None = None, *, at_once: bool = False
) -> tuple[Counter[str], list[str], str | None]:
    """Return what was counted, what was done, and what is wrong, if anything.

    `at_once`: a look at the log, for each ten of the steps, follows on 8 to 16 acts that were begun together.
    """
    office = Office(directory, random.Random(seed), ledger)
    wrong = None
    try:
        asyncio.run(_live_at_once(office, steps) if at_once else _live(office, steps))
    except (Defect, AIGovToolError) as found:
        wrong = f"step {len(office.told)}: {type(found).__name__} {found}"
    finally:
        office.close()
    return office.counts, office.told, wrong
