"""Stops in force, and the stop state that they mean for one instance."""

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert as upsert

from aigovtool.custodian.store import facts
from aigovtool.custodian.store.records import Instance
from aigovtool.custodian.store.schema import stops
from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol.stop import ActiveStop, StopState, concerns


def put(connection: Connection, target: StopTarget, value: str, epoch: int, *, active: bool) -> None:
    """Set or lift a stop at an epoch."""
    values = {"epoch": epoch, "active": active}
    statement = upsert(stops).values(target=target.value, value=value, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["target", "value"], set_=values))


def is_active(connection: Connection, target: StopTarget, value: str) -> bool:
    """Return whether this very stop is in force."""
    condition = (stops.c.target == target.value) & (stops.c.value == value)
    return connection.execute(select(stops.c.active).where(condition)).scalar_one_or_none() is True


def active(connection: Connection) -> list[ActiveStop]:
    """Return the stops in force."""
    statement = select(stops).where(stops.c.active).order_by(stops.c.target, stops.c.value)
    return [
        ActiveStop(target=StopTarget(found.target), value=found.value, epoch=found.epoch)
        for found in connection.execute(statement)
    ]


def state_for(connection: Connection, instance: Instance) -> StopState:
    """Return the stop state of an instance, lifted stops counting towards its scope epoch."""
    touching = [
        found
        for found in connection.execute(select(stops).order_by(stops.c.target, stops.c.value))
        if concerns(
            StopTarget(found.target),
            found.value,
            instance=instance.instance,
            borrower=instance.borrower,
            models=instance.models,
        )
    ]
    return StopState(
        instance=instance.instance,
        epoch=facts.get_int(connection, facts.EPOCH),
        scope_epoch=max((found.epoch for found in touching), default=0),
        stops=[
            ActiveStop(target=StopTarget(found.target), value=found.value, epoch=found.epoch)
            for found in touching
            if found.active
        ],
    )
