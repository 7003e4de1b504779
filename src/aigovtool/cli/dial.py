"""The dial of a model on the command line: its options, and what a setting means in words and numbers.

The three consequences are shown wherever the dial is set: `model add`, `model terms`, and `cosign` of an order for
either. They depend on the budget, so it is said for which budget they are: the tightest that the model has as a whole,
or an example where it has none with a limit.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import click
from msgspec import Struct

from aigovtool.cli.words import count, span
from aigovtool.ledger.policy import Dial

if TYPE_CHECKING:
    from aigovtool.ledger.policy import ServingPolicy
    from aigovtool.protocol.views import BudgetView

F = TypeVar("F", bound=Callable[..., None])
DIALS: Final = tuple(dial.value for dial in Dial)

ttl_option = click.option(
    "--ttl", "ttl_s", type=click.IntRange(1, 86_400), help="Seconds that a lease lives.  [default: the dial's]"
)


def dial_option(default: str | None) -> Callable[[F], F]:
    """Return the option that sets the dial; without a default it says nothing when it is not given."""
    words = "How much an enclave may do without asking; island needs two operators."
    return click.option(
        "--dial", type=click.Choice(DIALS), default=default, show_default=default is not None, help=words
    )


class BudgetMeant(Struct, frozen=True, kw_only=True):
    """The budget that consequences are computed for; an `example` where a model has none with a limit."""

    example: bool
    window: str
    room: int
    limit: int

    def words(self) -> str:
        """Return it for people."""
        if self.example:
            return f"with a budget of {count(self.limit)} units, as an example"
        return (
            f"with {count(self.room)} units left of the {self.window.replace('_', ' ')} budget of {count(self.limit)}"
        )


class Meaning(Struct, frozen=True, kw_only=True):
    """Terms and their three consequences for a budget."""

    version: int
    dial: str
    ttl_ms: int
    wipe_after_ms: int
    borrowers: list[str]
    units_lost_on_crash_max: int
    outage_survived_ms: int
    stop_bound_ms: int


#: What the dial means depends on the budget; where there is none, this one stands as an example.
EXAMPLE: Final = BudgetMeant(example=True, window="lifetime", room=1_000, limit=1_000)


def budget_meant(rows: "Sequence[BudgetView]", model: str, policy: "ServingPolicy") -> BudgetMeant:
    """Return the budget of a whole model that has least left in what it counts, or the example."""
    found = [
        BudgetMeant(example=False, window=row.key.window.value, room=row.room, limit=row.limit)
        for row in rows
        if (row.key.scope.model, row.key.scope.borrower, row.key.dimension) == (model, None, policy.dimension)
        and row.limit is not None
        and row.room is not None
    ]
    return min(found, key=lambda budget: budget.room, default=EXAMPLE)


def meaning(policy: "ServingPolicy", borrowers: "Sequence[str]", budget: BudgetMeant) -> Meaning:
    """Return what terms mean for a budget."""
    from aigovtool.ledger.policy import consequences  # noqa: PLC0415 - beside the types

    found = consequences(policy, policy.dimension, budget.room, budget.limit)
    return Meaning(
        version=policy.version,
        dial=policy.dial.value,
        ttl_ms=policy.ttl_ms,
        wipe_after_ms=policy.wipe_after_ms,
        borrowers=list(borrowers),
        units_lost_on_crash_max=found.units_lost_on_crash_max,
        outage_survived_ms=found.outage_survived_ms,
        stop_bound_ms=found.stop_bound_ms,
    )


def consequence_facts(terms: Meaning) -> list[tuple[str, str]]:
    """Return the dial and its consequences, in words and numbers; the budget that they are for is said beside them."""
    return [
        ("dial", terms.dial),
        ("custodian may be away for", span(terms.outage_survived_ms)),
        ("a crash of an enclave loses", f"at most {count(terms.units_lost_on_crash_max)} units"),
        ("a hostile host can withhold a stop for", span(terms.stop_bound_ms)),
    ]


def terms_facts(terms: Meaning) -> list[tuple[str, str]]:
    """Return all terms, with the consequences."""
    return [
        ("version", str(terms.version)),
        ("lent to", ", ".join(terms.borrowers) or "nobody"),
        ("a lease lives", span(terms.ttl_ms)),
        ("wipes itself without contact after", span(terms.wipe_after_ms)),
        *consequence_facts(terms),
    ]
