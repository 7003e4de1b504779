"""One life of a custodian, drawn from a seed, in which an auditor looks at its log again and again."""

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
#: How many acts there are between two looks at the log.
_BETWEEN: Final = 10


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


def _next(office: Office) -> Act:
    if not [one for one in office.enclaves if one.instance not in office.ended] and office.chance.random() < 0.3:
        return hosts.begin
    acts = [act for act in _ACTS if office.enclaves or act not in _NEEDS_ENCLAVE]
    return office.chance.choices(acts, weights=[_ACTS[act] for act in acts])[0]


async def _look(office: Office) -> None:
    # While a ledger has a gap, others remember what is not in it, and only the custodian knows of whom that is true.
    known = await show_notes(office)
    report = await audit(office, seen=known)
    office.counts["audits"] += 1
    office.counts["entries"] = max(office.counts["entries"], report.entries)
    office.counts["notes that hold"] += len(known)


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
    seed: int, directory: Path, steps: int, ledger: str | None = None
) -> tuple[Counter[str], list[str], str | None]:
    """Return what was counted, what was done, and what is wrong, if anything."""
    office = Office(directory, random.Random(seed), ledger)
    wrong = None
    try:
        asyncio.run(_live(office, steps))
    except (Defect, AIGovToolError) as found:
        wrong = f"step {len(office.told)}: {type(found).__name__} {found}"
    finally:
        office.close()
    return office.counts, office.told, wrong
