"""Budget limits and rows. A row of a new window is made from its limit when it is first needed."""

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from aigovtool.codec import decode, encode
from aigovtool.custodian.store.schema import budget_limits, budget_rows
from aigovtool.ids import ModelId
from aigovtool.ledger.budget import BudgetLimit, BudgetRow, RowKey, Scope, Window, bucket_of, row_for


def limits(connection: Connection, model: ModelId | None = None) -> list[BudgetLimit]:
    """Return the limits in force, of one model or of all."""
    statement = select(budget_limits.c.body).order_by(budget_limits.c.key)
    if model is not None:
        statement = statement.where(budget_limits.c.model == model)
    return [decode(body, BudgetLimit) for body in connection.execute(statement).scalars()]


def limit_at(connection: Connection, like: BudgetLimit) -> BudgetLimit | None:
    """Return the limit at the same scope, dimension and window as `like`."""
    statement = select(budget_limits.c.body).where(budget_limits.c.key == _limit_key(like))
    body = connection.execute(statement).scalar_one_or_none()
    return None if body is None else decode(body, BudgetLimit)


def set_limit(connection: Connection, limit: BudgetLimit, now_ms: int) -> BudgetRow:
    """Set a limit and apply it to the row of the current window."""
    values = {"key": _limit_key(limit), "model": limit.scope.model, "body": encode(limit)}
    statement = upsert(budget_limits).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"body": values["body"]}))
    row = _current(connection, limit, now_ms)
    connection.execute(update(budget_rows).where(budget_rows.c.key == _row_key(row.key)).values(unit_limit=limit.limit))
    return BudgetRow(key=row.key, limit=limit.limit, posted=row.posted, pending=row.pending)


def rows_on(connection: Connection, scopes: tuple[Scope, ...], now_ms: int) -> list[BudgetRow]:
    """Return the rows of the current windows at `scopes`, making those that a limit calls for."""
    return [
        _current(connection, limit, now_ms) for limit in limits(connection, scopes[0].model) if limit.scope in scopes
    ]


def rows_of(connection: Connection, keys: list[RowKey]) -> list[BudgetRow]:
    """Return the rows with these keys."""
    statement = select(budget_rows).where(budget_rows.c.key.in_([_row_key(key) for key in keys]))
    return [_row(found) for found in connection.execute(statement)]


def current_rows(connection: Connection, now_ms: int) -> list[BudgetRow]:
    """Return the row of the current window of every limit."""
    return [_current(connection, limit, now_ms) for limit in limits(connection)]


def write(connection: Connection, rows: tuple[BudgetRow, ...]) -> None:
    """Write rows that a transition changed."""
    for row in rows:
        connection.execute(
            update(budget_rows)
            .where(budget_rows.c.key == _row_key(row.key))
            .values(posted=row.posted, pending=row.pending)
        )


def _current(connection: Connection, limit: BudgetLimit, now_ms: int) -> BudgetRow:
    key = RowKey(
        scope=limit.scope,
        dimension=limit.dimension,
        window=limit.window,
        bucket_ms=bucket_of(limit.window, now_ms),
    )
    found = connection.execute(select(budget_rows).where(budget_rows.c.key == _row_key(key))).one_or_none()
    if found is not None:
        return _row(found)
    row = row_for(limit, now_ms)
    connection.execute(
        insert(budget_rows).values(
            key=_row_key(row.key), model=limit.scope.model, unit_limit=row.limit, posted=0, pending=0
        )
    )
    return row


def _row(found: Row[tuple[object, ...]]) -> BudgetRow:
    key = decode(str(found.key).encode(), RowKey)
    return BudgetRow(key=key, limit=found.unit_limit, posted=found.posted, pending=found.pending)


def _row_key(key: RowKey) -> str:
    return encode(key).decode()


def _limit_key(limit: BudgetLimit) -> str:
    window: Window = limit.window
    return f"{encode(limit.scope).decode()} {limit.dimension} {window}"
