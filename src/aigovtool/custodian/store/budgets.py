"""Budget limits and rows. A row of a new bucket is made from its limit when it is first needed."""

from typing import Any, Final

import msgspec
from sqlalchemy import Row, bindparam, func, insert, select, update

from aigovtool.codec import encode
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.schema import budget_limits, budget_rows
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import ModelId
from aigovtool.ledger.budget import (
    ROLLING,
    BudgetLimit,
    BudgetRow,
    RowKey,
    Scope,
    Window,
    key_now,
    oldest_bucket_of,
    row_for,
)

_LIMITS_AT: Final = (
    select(budget_limits.c.body)
    .where(budget_limits.c.scope.in_(bindparam("scopes", expanding=True)))
    .order_by(budget_limits.c.key)
)
_ROWS: Final = select(budget_rows).where(budget_rows.c.key.in_(bindparam("keys", expanding=True)))
_WRITE: Final = (
    update(budget_rows)
    .where(budget_rows.c.key == bindparam("row"))
    .values(posted=bindparam("new_posted"), pending=bindparam("new_pending"))
)
_EARLIER: Final = select(
    func.coalesce(func.sum(budget_rows.c.posted), 0), func.coalesce(func.sum(budget_rows.c.pending), 0)
).where(
    budget_rows.c.limit_key == bindparam("limit"),
    budget_rows.c.bucket_ms >= bindparam("oldest"),
    budget_rows.c.bucket_ms < bindparam("current"),
)


def limits(transaction: Transaction, model: ModelId | None = None) -> list[BudgetLimit]:
    """Return the limits in force, of one model or of all."""
    statement = select(budget_limits.c.body).order_by(budget_limits.c.key)
    if model is not None:
        statement = statement.where(budget_limits.c.model == model)
    return [decoded(body, BudgetLimit) for body in transaction.execute(statement).scalars()]


def limit_at(transaction: Transaction, like: BudgetLimit) -> BudgetLimit | None:
    """Return the limit at the same scope, dimension and window as `like`."""
    statement = select(budget_limits.c.body).where(budget_limits.c.key == _limit_key(like))
    body = transaction.execute(statement).scalar_one_or_none()
    return None if body is None else decoded(body, BudgetLimit)


def set_limit(transaction: Transaction, limit: BudgetLimit, now_ms: int) -> None:
    """Set a limit and apply it to the row of the current bucket."""
    place = {"model": limit.scope.model, "scope": _scope_key(limit.scope)}
    transaction.upsert(budget_limits, {"key": _limit_key(limit)}, {**place, "body": encode(limit)})
    (row,) = _current(transaction, [limit], now_ms)
    changed = update(budget_rows).where(budget_rows.c.key == _row_key(row.key)).values(unit_limit=limit.limit)
    transaction.execute(changed)


def rows_on(transaction: Transaction, scopes: tuple[Scope, ...], now_ms: int) -> list[BudgetRow]:
    """Return the rows to debit now at `scopes`, making those that a limit calls for."""
    bodies = transaction.execute(_LIMITS_AT, {"scopes": [_scope_key(scope) for scope in scopes]}).scalars()
    found = [decoded(body, BudgetLimit) for body in bodies]
    return _current(transaction, found, now_ms)


def rows_of(transaction: Transaction, keys: list[RowKey]) -> list[BudgetRow]:
    """Return the rows with these keys, as they are kept: a lease is settled in the bucket that it debited."""
    return list(_stored(transaction, [_row_key(key) for key in keys]).values())


def row_at(transaction: Transaction, key: RowKey, now_ms: int) -> BudgetRow | None:
    """Return a row of any bucket that has begun, making it if a limit calls for it and nothing was debited there."""
    found = rows_of(transaction, [key])
    if found:
        return found[0]
    like = BudgetLimit(scope=key.scope, dimension=key.dimension, window=key.window, limit=0)
    limit = limit_at(transaction, like)
    if limit is None or key.bucket_ms > now_ms or key_now(limit, key.bucket_ms) != key:
        return None
    return _begin(transaction, limit, key.bucket_ms)


def current_rows(transaction: Transaction, now_ms: int) -> list[BudgetRow]:
    """Return the row of the current bucket of every limit."""
    return _current(transaction, limits(transaction), now_ms)


def write(transaction: Transaction, rows: tuple[BudgetRow, ...]) -> None:
    """Write rows that a transition changed."""
    for row in rows:
        changed = {"row": _row_key(row.key), "new_posted": row.posted, "new_pending": row.pending}
        transaction.execute(_WRITE, changed)


def _current(transaction: Transaction, found: list[BudgetLimit], now_ms: int) -> list[BudgetRow]:
    wanted = {_row_key(key_now(limit, now_ms)): limit for limit in found}
    stored = _stored(transaction, list(wanted))
    rows = []
    for key, limit in wanted.items():
        row = stored.get(key) or _begin(transaction, limit, now_ms)
        if limit.window in ROLLING:
            row = row.with_earlier(*_earlier(transaction, limit, row.key, now_ms))
        rows.append(msgspec.structs.replace(row, not_after_ms=limit.not_after_ms))
    return rows


def _stored(transaction: Transaction, keys: list[str]) -> dict[str, BudgetRow]:
    if not keys:
        return {}
    return {row.key: _row(row) for row in transaction.execute(_ROWS, {"keys": keys})}


def _begin(transaction: Transaction, limit: BudgetLimit, now_ms: int) -> BudgetRow:
    """Make the row of a bucket that has just begun."""
    row = row_for(limit, now_ms)
    transaction.execute(
        insert(budget_rows).values(
            key=_row_key(row.key),
            model=limit.scope.model,
            limit_key=_limit_key(limit),
            bucket_ms=row.key.bucket_ms,
            unit_limit=row.limit,
            posted=0,
            pending=0,
        )
    )
    return row


def _earlier(transaction: Transaction, limit: BudgetLimit, key: RowKey, now_ms: int) -> tuple[int, int]:
    """Return what is spent and what is held in the earlier buckets that a rolling window touches."""
    buckets = {"oldest": oldest_bucket_of(limit.window, now_ms), "current": key.bucket_ms}
    spent, held = transaction.execute(_EARLIER, {"limit": _limit_key(limit), **buckets}).one()
    return int(spent), int(held)


def _row(found: Row[*tuple[Any, ...]]) -> BudgetRow:
    key = decoded(str(found.key).encode(), RowKey)
    return BudgetRow(key=key, limit=found.unit_limit, posted=found.posted, pending=found.pending)


def _row_key(key: RowKey) -> str:
    return encode(key).decode()


def _limit_key(limit: BudgetLimit) -> str:
    window: Window = limit.window
    return f"{_scope_key(limit.scope)} {limit.dimension} {window}"


def _scope_key(scope: Scope) -> str:
    return encode(scope).decode()
