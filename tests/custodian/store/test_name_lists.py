"""A statement with a list of names finds what has one of them, however many there are."""

import pytest
from sqlalchemy import select
from tests.custodian.store.conftest import LONG_S, put

from aigovtool.custodian.store import name_lists
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.schema import facts
from aigovtool.custodian.store.transaction import Transaction

KEPT = ("alone", "both", "neither")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param((), set(), id="none"),
        pytest.param(("both",), {"both"}, id="one"),
        pytest.param(("both", "absent", "alone"), {"both", "alone"}, id="some"),
        pytest.param(("both", "both"), {"both"}, id="twice"),
        pytest.param(("' OR 1 --", "%", "b*"), set(), id="no-pattern"),
    ],
)
def test_what_has_one_of_the_names_is_found(database: Database, asked: tuple[str, ...], found: set[str]) -> None:
    """On each store; no name is more than a name."""
    for name in KEPT:
        put(database, name).result(LONG_S)

    def names(transaction: Transaction) -> set[str]:
        condition = name_lists.is_one_of(facts.c.name, "name", len(asked))
        kept = select(facts.c.name).where(facts.c.name.in_(KEPT), condition)
        return set(transaction.execute(kept, name_lists.names("name", asked)).scalars())

    assert database.submit(names).result(LONG_S) == found
