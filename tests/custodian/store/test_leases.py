"""What is read for a grant does not grow with all that ever were granted something."""

from sqlalchemy import insert, text
from tests.custodian.store.conftest import LONG_S

from aigovtool.custodian.store import leases
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.schema import usage_units
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import BorrowerId, ModelId
from aigovtool.ledger.units import Dimension, UnitVector

MODEL, BORROWER = ModelId("sorter"), BorrowerId("hospital")


def used_once(consumer: int, held: int) -> dict[str, object]:
    spent = {"granted": 9, "charged": 9, "used": 9, "held": held}
    return {
        "model": MODEL,
        "borrower": BORROWER,
        "consumer": f"c{consumer}",
        "dimension": Dimension.INFERENCES,
        **spent,
    }


def test_what_a_borrower_holds_is_summed_over_those_who_hold_it(database: Database) -> None:
    """Of thousands of consumers that once used the model, an index finds the two that still hold something."""

    def look(transaction: Transaction) -> str:
        rows = [used_once(consumer, held=7 * (consumer < 2)) for consumer in range(3_000)]
        transaction.connection.execute(insert(usage_units), rows)
        assert leases.held_by_borrower(transaction, BORROWER, MODEL) == UnitVector(inferences=14)
        transaction.execute(text("ANALYZE usage_units"))
        kind = "EXPLAIN QUERY PLAN" if transaction.connection.dialect.name == "sqlite" else "EXPLAIN"
        asked = str(leases._HELD_BY_BORROWER.compile(dialect=transaction.connection.dialect))
        values = {"of_model": MODEL, "holder": BORROWER}
        return str(transaction.connection.exec_driver_sql(f"{kind} {asked}", _given(asked, values)).all())

    assert "usage_held" in database.submit(look).result(LONG_S)


def _given(asked: str, values: dict[str, str]) -> dict[str, str] | tuple[str, ...]:
    """Return the values as the statement has them: by name, or by the order of its marks."""
    return values if "%(" in asked else tuple(values.values())
