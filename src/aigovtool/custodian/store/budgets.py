"""Budget limits and rows. A row of a new window is made from its limit when it is first needed."""

from typing import Any

from sqlalchemy import Row, insert, select, update

from aigovtool.codec import encode
from aigovtool.custodian.store.bodies import decoded
from aigovtool.custodian.store.schema import budget_limits, budget_rows
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import ModelId
from aigovtool.ledger.budget import BudgetLimit, BudgetRow, RowKey, Scope, Window, bucket_of, row_for


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


def set_limit(transaction: Transaction, limit: BudgetLimit, now_ms: int) -> BudgetRow:
    """Set a limit and apply it to the row of the current window."""
    place = {"model": limit.scope.model, "scope": _scope_key(limit.scope)}
    transaction.upsert(budget_limits, {"key": _limit_key(limit)}, {**place, "body": encode(limit)})
    row = _current(transaction, limit, now_ms)
    transaction.execute(
        update(budget_rows).where(budget_rows.c.key == _row_key(row.key)).values(unit_limit=limit.limit)
    )
    return BudgetRow(key=row.key, limit=limit.limit, posted=row.posted, pending=row.pending)


def rows_on(transaction: Transaction, scopes: tuple[Scope, ...], now_ms: int) -> list[BudgetRow]:
    """Return the rows of the current windows at `scopes`, making those that a limit calls for."""
    statement = select(budget_limits.c.body).where(budget_limits.c.scope.in_([_scope_key(scope) for scope in scopes]))
    found = [
        decoded(body, BudgetLimit) for body in transaction.execute(statement.order_by(budget_limits.c.key)).scalars()
    ]
    current = {_row_key(key): limit for limit in found for key in [_key_now(limit, now_ms)]}
    stored = {row.key: _row(row) for row in _stored(transaction, list(current))}
    return [stored.get(key) or _begin(transaction, limit, now_ms) for key, limit in current.items()]


def rows_of(transaction: Transaction, keys: list[RowKey]) -> list[BudgetRow]:
    """Return the rows with these keys."""
    return [_row(found) for found in _stored(transaction, [_row_key(key) for key in keys])]


def _stored(transaction: Transaction, keys: list[str]) -> list[Row[*tuple[Any, ...]]]:
    return list(transaction.execute(select(budget_rows).where(budget_rows.c.key.in_(keys)))) if keys else []


def current_rows(transaction: Transaction, now_ms: int) -> list[BudgetRow]:
    """Return the row of the current window of every limit."""
    return [_current(transaction, limit, now_ms) for limit in limits(transaction)]


def write(transaction: Transaction, rows: tuple[BudgetRow, ...]) -> None:
    """Write rows that a transition changed."""
    for row in rows:
        transaction.execute(
            update(budget_rows)
            .where(budget_rows.c.key == _row_key(row.key))
            .values(posted=row.posted, pending=row.pending)
        )


def _current(transaction: Transaction, limit: BudgetLimit, now_ms: int) -> BudgetRow:
    found = _stored(transaction, [_row_key(_key_now(limit, now_ms))])
    return _row(found[0]) if found else _begin(transaction, limit, now_ms)


def _key_now(limit: BudgetLimit, now_ms: int) -> RowKey:
    return RowKey(
        scope=limit.scope,
        dimension=limit.dimension,
        window=limit.window,
        bucket_ms=bucket_of(limit.window, now_ms),
    )


def _begin(transaction: Transaction, limit: BudgetLimit, now_ms: int) -> BudgetRow:
    """Make the row of a window that has just begun."""
    row = row_for(limit, now_ms)
    transaction.execute(
        insert(budget_rows).values(
            key=_row_key(row.key), model=limit.scope.model, unit_limit=row.limit, posted=0, pending=0
        )
    )
    return row


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
