"""Where a budget stands, on the command line: names and options checked against what the custodian has."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import click

from aigovtool.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from aigovtool.ledger.budget import Scope
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.views import ModelView

F = TypeVar("F", bound=Callable[..., None])
WINDOWS: Final = ("lifetime", "hour", "day", "month", "rolling_hour", "rolling_day", "rolling_month")


def scope_options(function: F) -> F:
    """Add the options that say which budget is meant."""
    for option in (
        click.option("--force", is_flag=True, help="Also for a dimension that the model does not count."),
        dimension_option,
        click.option(
            "--window",
            type=_windows(),
            default="lifetime",
            show_default=True,
            help="Per which span of time: a UTC calendar hour, day or month, or any span of its length.",
        ),
        click.option("--consumer", help="Only for this consumer."),
        click.option("--borrower", help="Only for this borrower."),
        click.option("--model", required=True, help="For which model."),
    ):
        function = option(function)
    return function


def dimension_option(function: F) -> F:
    """Add the option that says which dimension is meant."""
    return click.option(
        "--dimension", type=_dimensions(), default="inferences", show_default=True, help="What is counted."
    )(function)


def _windows() -> "click.Choice[str]":
    return click.Choice(WINDOWS)


def _dimensions() -> "click.Choice[str]":
    return click.Choice(["inferences", "input_tokens", "output_tokens", "cached_tokens", "compute_ms"])


def path(scope: "Scope") -> str:
    """Return a scope as people read it: `model / borrower / consumer`."""
    return " / ".join(part for part in (scope.model, scope.borrower, scope.consumer) if part is not None)


def parse_scope(client: "OperatorClient", model: str, borrower: str | None, consumer: str | None) -> "Scope":
    """Return a scope; the borrower of a consumer is looked up when it is not given.

    Raises:
        InvalidValueError: `bad_name`.
        NotFoundError: `no_party`.
    """
    from aigovtool.ids import BorrowerId, ConsumerId, ModelId, parse_name  # noqa: PLC0415
    from aigovtool.ledger.budget import Scope  # noqa: PLC0415

    owner = None if borrower is None else BorrowerId(parse_name(borrower, "borrower"))
    if consumer is None:
        return Scope(model=ModelId(parse_name(model, "model")), borrower=owner)
    user = ConsumerId(parse_name(consumer, "consumer"))
    if owner is None:
        parties = client.parties().parties
        owner = next((p.borrower for p in parties if p.role.value == "consumer" and p.name == user), None)
        if owner is None:
            raise NotFoundError(f"there is no consumer {user}", reason="no_party", fix="see `aigovtool consumer list`")
    return Scope(model=ModelId(parse_name(model, "model")), borrower=owner, consumer=user)


def require_counted(client: "OperatorClient", model: str, dimension: str, *, force: bool) -> None:
    """Refuse a budget in a dimension that the model does not count: it would limit nothing.

    Raises:
        NotFoundError: `no_model`.
        ConflictError: `not_counted`, unless `force`.
    """
    counts = [counted.value for counted in find_model(client.models().models, model).policy.counts]
    if dimension not in counts and not force:
        raise ConflictError(
            f"{model} counts {' and '.join(counts)}, not {dimension}: this budget would limit nothing",
            reason="not_counted",
            fix=f"use --dimension {counts[0]}, or --force to set it all the same",
        )


def find_model(models: "list[ModelView]", name: str) -> "ModelView":
    """Return the model called `name`; raises `NotFoundError` (`no_model`)."""
    for found in models:
        if found.model == name:
            return found
    raise NotFoundError(f"there is no model {name[:80]!r}", reason="no_model", fix="see `aigovtool model list`")
