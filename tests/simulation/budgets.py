"""The budgets of a simulated history: rows of all levels, several on a path, of all kinds of windows."""

from functools import lru_cache

from tests.simulation.scene import ALSO, CONSUMERS, MODEL, NORTH, SOUTH, START_MS, Scene

from aigovtool.ids import BorrowerId, ConsumerId
from aigovtool.ledger.budget import BudgetLimit, Scope, Window, path
from aigovtool.ledger.units import Dimension

COUNTED = Dimension.INFERENCES
ANNA, BERT, CARL = (Scope(model=MODEL, borrower=b, consumer=c) for b, cs in CONSUMERS.items() for c in cs)


def limits_of(scene: Scene, also: tuple[Dimension, ...]) -> list[BudgetLimit]:
    """Return the limits with which a history begins, of inferences and of what else is metered."""
    scale = scene.rng.choice(scene.weather.scales)

    def limit(
        scope: Scope, units: int | None, window: Window = Window.LIFETIME, not_after_ms: int | None = None
    ) -> BudgetLimit:
        scaled = None if units is None else int(units * scale)
        return BudgetLimit(scope=scope, dimension=COUNTED, window=window, limit=scaled, not_after_ms=not_after_ms)

    limits = [
        limit(Scope(model=MODEL), 240),
        limit(Scope(model=MODEL, borrower=NORTH), 170),
        limit(ANNA, 130),
        limit(BERT, 70, Window.HOUR),
        limit(BERT, None),
        limit(CARL, 100, not_after_ms=_end(scene, 0.4)),
    ]
    if scene.weather.windows and scene.chance(0.6):
        limits += [
            limit(ANNA, 15, Window.ROLLING_HOUR),
            limit(Scope(model=MODEL, borrower=SOUTH), 18, Window.ROLLING_HOUR, _end(scene, 0.4)),
            limit(Scope(model=MODEL), 120, Window.ROLLING_DAY),
        ]
    return limits + [limit for dimension in also for limit in _also(scene, dimension)]


def _also(scene: Scene, dimension: Dimension) -> list[BudgetLimit]:
    """Return limits of what a request takes `per` units of: sometimes none that matters, sometimes the tighter ones."""
    per = ALSO[dimension]
    total = scene.rng.choice((None, 100 * per, 30 * per))
    limits = [
        BudgetLimit(scope=Scope(model=MODEL), dimension=dimension, window=Window.LIFETIME, limit=total),
        BudgetLimit(scope=ANNA, dimension=dimension, window=Window.HOUR, limit=40 * per),
    ]
    return limits[: scene.rng.choice((1, 2))]


def _end(scene: Scene, probability: float) -> int | None:
    if not scene.weather.windows or not scene.chance(probability):
        return None
    return START_MS + scene.rng.choice((60_000, 120_000, 200_000))


def on_path(limits: list[BudgetLimit], borrower: BorrowerId, consumer: ConsumerId) -> list[BudgetLimit]:
    """Return the limits that a lease of this consumer debits."""
    scopes = _scopes(borrower, consumer)
    return [limit for limit in limits if limit.scope in scopes]


@lru_cache
def _scopes(borrower: BorrowerId, consumer: ConsumerId) -> tuple[Scope, ...]:
    return path(MODEL, borrower, consumer)
