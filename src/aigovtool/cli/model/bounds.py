"""What one run of a model may take, and what it is given, on the command line: options of two verbs, and words.

What no option names stays as it was ordered before.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from aigovtool.cli.words import span
from aigovtool.ledger.policy import MAX_REQUEST_MS

if TYPE_CHECKING:
    from aigovtool.ledger.policy import ServingPolicy

Verb = Callable[..., None]


class BoundWishes(NamedTuple):
    """What the options say; None where they say nothing."""

    max_run_ms: int | None
    finite: bool | None

    @property
    def any(self) -> bool:
        """Whether an option was given."""
        return self != (None, None)


def bound_options(function: Verb) -> Verb:
    """Add the options that bound runs and inputs; the verb gets them as `bounds`."""

    @click.option(
        "--max-run-ms",
        type=click.IntRange(0, MAX_REQUEST_MS),
        help="End a run that the engine has worked on for so long; 0: at the request's deadline, 60 s.",
    )
    @click.option("--finite/--any-number", default=None, help="Refuse inputs with NaN or an infinity, or take them.")
    @wraps(function)
    def verb(
        *arguments: Any,  # noqa: ANN401 -- whatever the verb takes
        max_run_ms: int | None,
        finite: bool | None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        function(*arguments, bounds=BoundWishes(max_run_ms, finite), **options)

    return verb


def bounded(policy: "ServingPolicy", wishes: BoundWishes) -> "ServingPolicy":
    """Return a policy as the wishes have it."""
    from msgspec.structs import replace  # noqa: PLC0415

    from aigovtool.ledger.inputs import InputTerms  # noqa: PLC0415

    if wishes.max_run_ms is not None:
        policy = replace(policy, max_run_ms=wishes.max_run_ms or None)
    if wishes.finite is not None:
        policy = replace(policy, inputs=InputTerms(finite=True) if wishes.finite else None)
    return policy


def bound_facts(max_run_ms: int | None, *, finite: bool) -> list[tuple[str, str]]:
    """Return in words how long the engine works on a run, metered or not, and what inputs may hold."""
    longest = "until its request's deadline" if max_run_ms is None else f"at most {span(max_run_ms)}"
    return [
        ("a run may take", longest),
        ("inputs", "numbers only: NaN and infinities are refused" if finite else "any number, also NaN and infinities"),
    ]
