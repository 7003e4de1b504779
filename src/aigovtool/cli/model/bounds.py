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
    batch: bool | None

    @property
    def any(self) -> bool:
        """Whether an option was given."""
        return self != (None, None, None)


def bound_options(function: Verb) -> Verb:
    """Add the options that bound runs and inputs; the verb gets them as `bounds`."""

    @click.option(
        "--max-run-ms",
        type=click.IntRange(0, MAX_REQUEST_MS),
        help="End a run that the engine has worked on for so long; 0: at the request's deadline, 60 s.",
    )
    @click.option("--finite/--any-number", default=None, help="Refuse inputs with NaN or an infinity, or take them.")
    @click.option(
        "--batch/--one-by-one",
        default=None,
        help="Compute requests that come together as the rows of one, or each on its own.",
    )
    @wraps(function)
    def verb(
        *arguments: Any,  # noqa: ANN401 -- whatever the verb takes
        max_run_ms: int | None,
        finite: bool | None,
        batch: bool | None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        function(*arguments, bounds=BoundWishes(max_run_ms, finite, batch), **options)

    return verb


def bounded(policy: "ServingPolicy", wishes: BoundWishes) -> "ServingPolicy":
    """Return a policy as the wishes have it."""
    from msgspec.structs import replace  # noqa: PLC0415

    from aigovtool.ledger.inputs import InputTerms  # noqa: PLC0415

    if wishes.max_run_ms is not None:
        policy = replace(policy, max_run_ms=wishes.max_run_ms or None)
    finite = policy.finite if wishes.finite is None else wishes.finite
    batch = policy.batch if wishes.batch is None else wishes.batch
    return replace(policy, inputs=InputTerms(finite=finite, batch=batch) if finite or batch else None)


def bound_facts(max_run_ms: int | None, *, finite: bool, batch: bool) -> list[tuple[str, str]]:
    """Return in words how long the engine works on a run, metered or not, what inputs may hold, and what is one run."""
    longest = "until its request's deadline" if max_run_ms is None else f"at most {span(max_run_ms)}"
    return [
        ("a run may take", longest),
        ("inputs", "numbers only: NaN and infinities are refused" if finite else "any number, also NaN and infinities"),
        ("requests that come together", "are computed as the rows of one" if batch else "are computed one by one"),
    ]
