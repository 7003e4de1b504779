"""`aigovtool model terms`: to whom a model is lent, and how its leases are cut; shown, and changed.

Old and new terms stand side by side, each with what it means for the budget that the model has now. What is not named
stays: a new dial brings its own ttl along, a new ttl the silence after which an enclave wipes itself, and everything
else of the policy is kept. Terms that leave enclaves alone for long need two operators, and so do those that let more
leave in answers, once there are two: then the order is saved, and `cosign` shows the second operator the same table.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from aigovtool.cli import orders
from aigovtool.cli.confirm import confirm, yes_option
from aigovtool.cli.credentials import connected
from aigovtool.cli.model.answers import AnswerWishes, answer_options, changed
from aigovtool.cli.model.bounds import BoundWishes, bound_options, bounded
from aigovtool.cli.model.dial import (
    BudgetMeant,
    Meaning,
    budget_meant,
    compute_meant,
    compute_option,
    dial_option,
    meaning,
    terms_facts,
    ttl_option,
)
from aigovtool.cli.scope import find_model
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import Verb, operator_option
from aigovtool.errors import ConflictError

if TYPE_CHECKING:
    from aigovtool.ledger.policy import ServingPolicy
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.commands import SetModelTerms
    from aigovtool.protocol.views import ModelView

KEPT = (
    "New terms reach enclaves as fast as a stop does, within the ttl of the old ones at most."
    " Leases that are out keep their units, and work under way what it has reserved;"
    " an enclave that is to ask for each request (bound) boots anew."
)


class Terms(Struct, frozen=True, kw_only=True):
    """A model's terms now, and those that were or would be ordered; `then` and what follows are null if only shown."""

    model: str
    budget: BudgetMeant
    now: Meaning
    then: Meaning | None = None
    entry: int | None = None
    epoch: int | None = None
    order: orders.SavedOrder | None = None


@click.command(cls=Verb, example="aigovtool model terms xray --dial strict --ttl 10")
@click.argument("name")
@dial_option(None)
@ttl_option
@compute_option
@bound_options
@answer_options
@click.option("--borrower", "borrowers", multiple=True, help="Who may serve it from now on: all of them; repeat.")
@orders.save_if_two_option
@yes_option
@operator_option
@click.pass_obj
def terms(
    screen: Screen,
    *,
    name: str,
    dial: str | None,
    ttl_s: int | None,
    compute_ms: int | None,
    bounds: BoundWishes,
    answers: AnswerWishes,
    borrowers: tuple[str, ...],
    save: Path | None,
    yes: bool,
    operator_file: Path | None,
) -> None:
    """Show a model's terms and what they mean for its budget; with options, change them after asking.

    Old and new terms are shown side by side. What no option names stays. The island dial lets enclaves go on for hours
    without the custodian, so it needs two operators: --save the order, and have another one `aigovtool cosign` it.
    Letting more leave in answers needs two as well, once there are two operators.
    """
    from msgspec.structs import replace  # noqa: PLC0415

    changes = bool(dial or ttl_s or borrowers or compute_ms or bounds.any or answers.any)
    with connected(operator_file) as client:
        found = find_model(client.models().models, name)
        if not changes:
            _show_present(screen, client, found)
            return
        policy = bounded(_limited(_changed(_lent(found).policy, dial, ttl_s), compute_ms), bounds)
        act = _act(found, replace(policy, answers=changed(policy.answers, answers)), borrowers)
        orders.require_way(act.policy, save, more_leaves=_more_leaves(client, found, act))
        compared = compare(client, act)
        if not screen.json:
            show_terms(screen, compared)
        if save is not None:
            done = _with(compared, order=orders.saved(client, act, save))
        else:
            if not yes:
                confirm(screen, "model terms", [KEPT])
            result = client.command(act)
            done = _with(compared, entry=result.entry, epoch=result.epoch)
    screen.show(done, lambda: _say_done(screen, done, asked=not yes))


def compare(client: "OperatorClient", act: "SetModelTerms") -> Terms:
    """Return a model's present terms beside those of an order, for the budget that it has now.

    Raises:
        NotFoundError: `no_model`.
        ConflictError: `already_withdrawn`; `terms_changed` when its terms were changed since the order was made;
            `not_next_version` when others could still come before it.
    """
    found = _lent(find_model(client.models().models, act.model))
    if act.policy.version <= found.policy.version:
        raise ConflictError(
            f"the terms of {act.model} were changed since: version {found.policy.version} is in force",
            reason="terms_changed",
            fix=f"look at them with `aigovtool model terms {act.model}`, and order anew",
        )
    orders.require_next(act.policy.version, found.policy.version)
    rows = client.budgets().budgets
    budget, compute = budget_meant(rows, act.model, found.policy), compute_meant(rows, act.model, found.policy)
    return Terms(
        model=act.model,
        budget=budget,
        now=meaning(found.policy, found.borrowers, budget, compute),
        then=meaning(act.policy, act.borrowers, budget, compute),
    )


def show_terms(screen: Screen, compared: Terms) -> None:
    """Print terms; old and new side by side if there are new ones."""
    now = terms_facts(compared.now)
    screen.line(f"{compared.model}, {compared.budget.words()}:", style="bold")
    if compared.then is None:
        screen.facts(now)
        return
    then = terms_facts(compared.then)
    rows = [(what, old, new if new != old else "the same") for (what, old), (_, new) in zip(now, then, strict=True)]
    screen.table(("terms", "now", "then"), rows, "")
    gone = [name for name in compared.now.borrowers if name not in compared.then.borrowers]
    if gone:
        screen.line(
            f"Enclaves of {', '.join(gone)} get no lease and no key of {compared.model} any more.", style="bold"
        )


def _show_present(screen: Screen, client: "OperatorClient", found: "ModelView") -> None:
    rows = client.budgets().budgets
    budget, compute = budget_meant(rows, found.model, found.policy), compute_meant(rows, found.model, found.policy)
    present = Terms(model=found.model, budget=budget, now=meaning(found.policy, found.borrowers, budget, compute))
    screen.show(present, lambda: show_terms(screen, present))


def _lent(found: "ModelView") -> "ModelView":
    if found.withdrawn:
        raise ConflictError(
            f"{found.model} was withdrawn: it is lent to nobody, on no terms",
            reason="already_withdrawn",
            fix="see `aigovtool model list`",
        )
    return found


def _more_leaves(client: "OperatorClient", found: "ModelView", act: "SetModelTerms") -> bool:
    """Return whether an order lets more leave in answers where that takes two operators."""
    from aigovtool.protocol.cosigning import lets_more_leave  # noqa: PLC0415

    return lets_more_leave(found.policy, act.policy) and client.parties().operators() > 1


def _act(found: "ModelView", policy: "ServingPolicy", borrowers: Sequence[str]) -> "SetModelTerms":
    from aigovtool.ids import BorrowerId, parse_name  # noqa: PLC0415
    from aigovtool.protocol.commands import SetModelTerms  # noqa: PLC0415

    named = [BorrowerId(parse_name(name, "borrower")) for name in dict.fromkeys(borrowers)] or found.borrowers
    if (_setting(policy), set(named)) == (_setting(found.policy), set(found.borrowers)):
        raise ConflictError(
            f"{found.model} is lent on these terms already",
            reason="same_terms",
            fix=f"see `aigovtool model terms {found.model}`",
        )
    return SetModelTerms(model=found.model, policy=policy, borrowers=named)


def _setting(policy: "ServingPolicy") -> tuple[object, ...]:
    return policy.dial, policy.ttl_ms, policy.request_max, policy.answers, policy.max_run_ms, policy.inputs


def _limited(policy: "ServingPolicy", compute_ms: int | None) -> "ServingPolicy":
    """Return a policy with another limit for the compute of one request.

    Raises:
        ConflictError: the model does not meter compute (`not_counted`).
    """
    from msgspec.structs import replace  # noqa: PLC0415

    if compute_ms is None:
        return policy
    if not policy.request_max.compute_ms:
        raise ConflictError(
            "this model does not meter compute, and what a model meters never changes",
            reason="not_counted",
            fix="lend it under another name, with `aigovtool model add --compute-ms`",
        )
    return replace(policy, request_max=replace(policy.request_max, compute_ms=compute_ms))


def _changed(policy: "ServingPolicy", dial: str | None, ttl_s: int | None) -> "ServingPolicy":
    """Return the next version of a policy; raises `InvalidValueError` (`bad_ttl`)."""
    from msgspec.structs import replace  # noqa: PLC0415

    from aigovtool.ledger.policy import Dial, default_policy  # noqa: PLC0415

    version = policy.version + 1
    if dial is None and ttl_s is None:
        return replace(policy, version=version)
    wanted = policy.dial if dial is None else Dial(dial)
    # A dial that is set anew brings its own ttl along; one that stays keeps what was chosen for it.
    ttl_ms = ttl_s * 1_000 if ttl_s is not None else None if wanted is not policy.dial else policy.ttl_ms
    fresh = default_policy(wanted, ttl_ms=ttl_ms)
    return replace(policy, version=version, dial=wanted, ttl_ms=fresh.ttl_ms, wipe_after_ms=fresh.wipe_after_ms)


def _with(
    compared: Terms, *, entry: int | None = None, epoch: int | None = None, order: orders.SavedOrder | None = None
) -> Terms:
    return Terms(
        model=compared.model,
        budget=compared.budget,
        now=compared.now,
        then=compared.then,
        entry=entry,
        epoch=epoch,
        order=order,
    )


def _say_done(screen: Screen, done: Terms, *, asked: bool) -> None:
    if done.order is not None:
        screen.line()
        orders.say_saved(screen, done.order)
        return
    screen.line(
        f"{done.model} is lent on these terms now (epoch {done.epoch}, audit log entry {done.entry})", style="green"
    )
    if not asked:
        screen.line(KEPT)
