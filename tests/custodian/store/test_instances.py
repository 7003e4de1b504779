"""Which instance a key stands for."""

import msgspec
from sqlalchemy import text
from tests.custodian.conftest import Bench, Enclave
from tests.custodian.store.conftest import LONG_S

from aigovtool.custodian.store import instances
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ids import key_id_of


async def test_of_two_instances_with_one_key_the_newest_counts(admitted: Enclave, lent: Bench) -> None:
    """Earlier programs admitted them; that is found, and no error."""
    first = await admitted.record()
    second = msgspec.structs.replace(first, instance="0" * 64, attested_at_ms=first.attested_at_ms + 1)

    def both(transaction: Transaction) -> None:
        copied = "key_id, borrower, state, last_contact_ms"
        statement = text(
            f"INSERT INTO instances (instance, attested_at_ms, body, {copied}) "
            f"SELECT :instance, :at_ms, :body, {copied} FROM instances"
        )
        body = msgspec.json.encode(second)
        transaction.execute(statement.bindparams(instance=second.instance, at_ms=second.attested_at_ms, body=body))
        assert instances.by_key(transaction, key_id_of(first.identity_key)) == second

    lent.custodian.database.submit(both).result(LONG_S)
