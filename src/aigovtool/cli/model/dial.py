"""The dial of a model on the command line: its options, and what a setting means in words and numbers.

The three consequences are shown wherever the dial is set: `model add`, `model terms`, and `cosign` of an order for
either. They depend on the budget, so it is said for which budget they are: the tightest that the model has as a whole,
or an example where it has none with a limit.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import click
from msgspec import Struct

from aigovtool.cli.model.answers import answer_facts
from aigovtool.cli.model.bounds import bound_facts
from aigovtool.cli.words import count, span
from aigovtool.ledger.answers import AnswerTerms
from aigovtool.ledger.policy import MAX_REQUEST_MS, Dial

if TYPE_CHECKING:
    from aigovtool.ledger.policy import ServingPolicy
    from aigovtool.ledger.units import Dimension
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


def compute_option(function: F) -> F:
    """Add the option that limits, and meters, how long a request may compute."""
    return click.option(
        "--compute-ms",
        type=click.IntRange(1, MAX_REQUEST_MS),
        help="Meter compute as well, in milliseconds; the most that one request may take.",
    )(function)


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
    per_request: bool
    budgets_required: list[str]
    percent_per_enclave: int
    percent_per_borrower: int
    lease_units_max: int
    attestation_age_max_ms: int
    compute_ms_max: int | None = None
    compute_ms_lost_on_crash_max: int | None = None
    answers: AnswerTerms | None = None
    max_run_ms: int | None = None
    finite_inputs: bool = False
    batch: bool = False


#: What the dial means depends on the budget; where there is none, this one stands as an example.
EXAMPLE: Final = BudgetMeant(example=True, window="lifetime", room=1_000, limit=1_000)


def budget_meant(
    rows: "Sequence[BudgetView]", model: str, policy: "ServingPolicy", dimension: "Dimension | None" = None
) -> BudgetMeant:
    """Return the budget of a whole model that has least left of a dimension (the first it meters), or the example."""
    counted = dimension or policy.dimension
    found = [
        BudgetMeant(example=False, window=row.key.window.value, room=row.room, limit=row.limit)
        for row in rows
        if (row.key.scope.model, row.key.scope.borrower, row.key.dimension) == (model, None, counted)
        and row.limit is not None
        and row.room is not None
    ]
    return min(found, key=lambda budget: budget.room, default=EXAMPLE)


def compute_meant(rows: "Sequence[BudgetView]", model: str, policy: "ServingPolicy") -> BudgetMeant | None:
    """Return the budget of compute of a whole model that has least left, if it has one with a limit."""
    from aigovtool.ledger.units import Dimension  # noqa: PLC0415

    found = budget_meant(rows, model, policy, Dimension.COMPUTE_MS)
    return None if found.example else found


def meaning(
    policy: "ServingPolicy", borrowers: "Sequence[str]", budget: BudgetMeant, compute: BudgetMeant | None = None
) -> Meaning:
    """Return what terms mean for a budget; of compute, for one with enough for as many requests where none is given."""
    from aigovtool.ledger.policy import consequences  # noqa: PLC0415 - beside the types
    from aigovtool.ledger.units import Dimension  # noqa: PLC0415

    found = consequences(policy, policy.dimension, budget.room, budget.limit)
    compute_ms_max = policy.request_max.compute_ms
    room, limit = (budget.room * compute_ms_max, budget.limit * compute_ms_max)
    if compute is not None:
        room, limit = compute.room, compute.limit
    return Meaning(
        version=policy.version,
        dial=policy.dial.value,
        ttl_ms=policy.ttl_ms,
        wipe_after_ms=policy.wipe_after_ms,
        borrowers=list(borrowers),
        units_lost_on_crash_max=found.units_lost_on_crash_max,
        outage_survived_ms=found.outage_survived_ms,
        stop_bound_ms=found.stop_bound_ms,
        per_request=found.per_request,
        budgets_required=[level.value for level in policy.required],
        percent_per_enclave=policy.max_unclosed_percent_per_instance,
        percent_per_borrower=policy.max_unclosed_percent_per_borrower,
        lease_units_max=policy.max_lease_units,
        attestation_age_max_ms=policy.max_attestation_age_ms,
        compute_ms_max=compute_ms_max or None,
        compute_ms_lost_on_crash_max=None
        if not compute_ms_max
        else consequences(policy, Dimension.COMPUTE_MS, room, limit).units_lost_on_crash_max,
        answers=policy.answers,
        max_run_ms=policy.max_run_ms,
        finite_inputs=policy.finite,
        batch=policy.batch,
    )


def consequence_facts(terms: Meaning) -> list[tuple[str, str]]:
    """Return the dial and its consequences, in words and numbers; the budget that they are for is said beside them."""
    units = terms.units_lost_on_crash_max
    lost = f"at most {count(units)} unit" + ("s" if units != 1 else "")
    if terms.compute_ms_lost_on_crash_max is not None:
        lost += f" and {span(terms.compute_ms_lost_on_crash_max)} of compute"
    away, bound = span(terms.outage_survived_ms), span(terms.stop_bound_ms)
    if terms.per_request:
        lost += " for each request under way (more for a batch)"
        away, bound = "no time: each request is asked for", f"{bound}, for requests under way alone"
    else:  # each consumer of an enclave has leases of its own, and one that a larger batch needs is larger
        lost += " for each consumer that it serves (more for larger batches)"
    facts = [
        ("dial", terms.dial),
        ("custodian may be away for", away),
        ("a crash of an enclave loses", lost),
        ("a hostile host can withhold a stop for", bound),
    ]
    if terms.compute_ms_max is not None:
        facts.append(("a request is ended after computing for", span(terms.compute_ms_max)))
    return facts


def terms_facts(terms: Meaning) -> list[tuple[str, str]]:
    """Return all terms, with the consequences: whoever signs an order with another reads it here."""
    levels = ", ".join(level.replace("_", " / ") for level in terms.budgets_required)
    shares = f"{terms.percent_per_borrower} % to one borrower, {terms.percent_per_enclave} % to one enclave"
    return [
        ("version", str(terms.version)),
        ("lent to", ", ".join(terms.borrowers) or "nobody"),
        ("a lease lives", span(terms.ttl_ms)),
        ("wipes itself without contact after", span(terms.wipe_after_ms)),
        ("an attestation is good for", span(terms.attestation_age_max_ms)),
        ("refused without a budget of", levels or "its model, borrower or consumer"),
        ("of a budget at most", f"{shares}, {count(terms.lease_units_max)} units in one lease"),
        *consequence_facts(terms),
        *bound_facts(terms.max_run_ms, finite=terms.finite_inputs, batch=terms.batch),
        *answer_facts(terms.answers),
    ]
