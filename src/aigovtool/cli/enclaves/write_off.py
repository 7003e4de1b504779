"""`aigovtool enclaves write-off`: give up an enclave that never closed its leases.

The units of an expired lease stay charged either way. Until the enclave is written off they also count as outstanding:
against the shares of what an instance and a borrower may hold, so that a borrower whose enclaves crashed gets less.

Which leases these are is read from the end of the audit log backwards, until they make up what the custodian counts as
outstanding.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli import orders
from aigovtool.cli.credentials import connected, require_free
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import Verb, operator_option
from aigovtool.cli.words import amount, plain, short, when
from aigovtool.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aigovtool.ledger.entry import Entry, LeaseGranted
    from aigovtool.ledger.units import UnitVector
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.views import EnclaveView

_PAGE: Final = 1_000


class ExpiredLease(Struct, frozen=True, kw_only=True):
    """One lease that was charged in full because nobody closed it."""

    lease: str
    model: str
    consumer: str
    units: "UnitVector"
    granted_at_ms: int


class WrittenOff(Struct, frozen=True, kw_only=True):
    """What a write-off is about. `still_open` units are of leases that have not expired: they stay outstanding."""

    instance: str
    borrower: str
    state: str
    last_contact_ms: int
    leases: list[ExpiredLease]
    units: "UnitVector"
    still_open: "UnitVector"


class SavedWriteOff(Struct, frozen=True, kw_only=True):
    """The order, and what it is about."""

    order: orders.SavedOrder
    enclave: WrittenOff


@click.command(
    "write-off", cls=Verb, example='aigovtool enclaves write-off 3f9a1c --reason "host lost" --save order.json'
)
@click.argument("instance", metavar="ENCLAVE")
@orders.reason_option
@orders.save_option
@operator_option
@click.pass_obj
def write_off(screen: Screen, *, instance: str, reason: str, save: Path, operator_file: Path | None) -> None:
    """Order that an enclave's expired leases no longer count as outstanding; a second operator cosigns.

    ENCLAVE is the beginning of its id. The units stay charged: nobody knows whether they were used. What changes is
    that they no longer take up the share of a budget that this borrower's enclaves may hold. An enclave that comes
    back with a final report gets no refund any more.
    """
    from aigovtool.ids import InstanceId  # noqa: PLC0415
    from aigovtool.protocol.commands import WriteOff  # noqa: PLC0415

    require_free(save, "--save")
    with connected(operator_file) as client:
        found = expired_of(client, _instance(client, instance))
        act = WriteOff(instance=InstanceId(found.instance), reason=reason)
        done = SavedWriteOff(order=orders.saved(client, act, save), enclave=found)

    def render() -> None:
        show_expired(screen, found)
        screen.line()
        orders.say_saved(screen, done.order)

    screen.show(done, render)


def _instance(client: "OperatorClient", prefix: str) -> str:
    found = [one.instance for one in client.enclaves().enclaves if prefix and one.instance.startswith(prefix)]
    if len(found) != 1:
        what = "no enclave" if not found else "more than one enclave"
        raise NotFoundError(
            f"{what} begins with {plain(prefix[:40])}", reason="no_enclave", fix="see `aigovtool enclaves`"
        )
    return found[0]


def expired_of(client: "OperatorClient", instance: str) -> WrittenOff:
    """Return the expired leases of an instance.

    Raises:
        NotFoundError: `no_enclave`.
        ConflictError: `nothing_expired`.
    """
    view = client.enclaves()
    enclave = next((one for one in view.enclaves if one.instance == instance), None)
    if enclave is None:
        raise NotFoundError(
            f"there is no enclave {short(instance)} among the newest",
            reason="no_enclave",
            fix="see `aigovtool enclaves`",
        )
    leases, still_open = _leases(client, enclave, view.server_time_ms)
    if not leases:
        raise ConflictError(
            f"enclave {short(instance)} has no expired lease"
            + ("" if still_open.is_zero() else f"; live ones hold {amount(still_open)}"),
            reason="nothing_expired",
            fix="a lease expires some seconds after its ttl; see `aigovtool enclaves`",
        )
    return WrittenOff(
        instance=instance,
        borrower=enclave.borrower,
        state=f"{enclave.state}, connected" if enclave.connected else enclave.state,
        last_contact_ms=enclave.last_contact_ms,
        leases=leases,
        units=_sum(leases),
        still_open=still_open,
    )


def _leases(client: "OperatorClient", enclave: "EnclaveView", seen_ms: int) -> "tuple[list[ExpiredLease], UnitVector]":
    """Return the expired leases, oldest first, and the units of those that are still open.

    What was granted after `seen_ms`, when the custodian showed the enclave, is not among what it showed to be held;
    what was closed after it is. An enclave may have attested several times since its oldest lease.
    """
    from aigovtool.ledger.entry import LeaseClosed, LeaseExpired, LeaseGranted, LeaseWrittenOff  # noqa: PLC0415
    from aigovtool.ledger.units import ZERO  # noqa: PLC0415

    over: dict[str, int] = {}
    expired: set[str] = set()
    found: list[ExpiredLease] = []
    still_open = gone = ZERO
    for entry in () if enclave.outstanding.is_zero() else _newest_first(client):
        match entry.body:
            case LeaseGranted() if entry.at_ms > seen_ms:
                pass
            case LeaseClosed(lease_id=lease_id) | LeaseWrittenOff(lease_id=lease_id):
                over[lease_id] = entry.at_ms
            case LeaseExpired(lease_id=lease_id):
                expired.add(lease_id)
            case LeaseGranted() as granted if granted.instance == enclave.instance:
                if granted.lease_id in over:
                    gone = gone.plus(granted.units if over[granted.lease_id] > seen_ms else ZERO)
                elif granted.lease_id in expired:
                    found.append(_expired(granted, entry.at_ms))
                else:
                    still_open = still_open.plus(granted.units)
            case _:
                pass
        if _sum(found).plus(still_open).plus(gone).covers(enclave.outstanding):
            break
    return found[::-1], still_open


def _newest_first(client: "OperatorClient") -> "Iterator[Entry]":
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.ledger.entry import Entry  # noqa: PLC0415

    _, checkpoint = client.verified_head()
    for end in range(checkpoint.size, 0, -_PAGE):
        yield from reversed([decode(raw, Entry) for raw in client.log_entries(max(0, end - _PAGE), end=end)])


def _expired(granted: "LeaseGranted", at_ms: int) -> ExpiredLease:
    return ExpiredLease(
        lease=granted.lease_id,
        model=granted.model,
        consumer=granted.consumer,
        units=granted.units,
        granted_at_ms=at_ms,
    )


def _sum(leases: "list[ExpiredLease]") -> "UnitVector":
    from aigovtool.ledger.units import ZERO  # noqa: PLC0415

    total = ZERO
    for lease in leases:
        total = total.plus(lease.units)
    return total


def show_expired(screen: Screen, found: WrittenOff) -> None:
    """Print what a write-off is about."""
    screen.facts(
        [
            ("enclave", f"{short(found.instance)} of {found.borrower}"),
            ("state", found.state),
            ("last contact", when(found.last_contact_ms)),
        ]
    )
    columns = ("lease", "model", "consumer", ">units", "granted")
    rows = [
        (short(one.lease), one.model, one.consumer, amount(one.units), when(one.granted_at_ms)) for one in found.leases
    ]
    screen.table(columns, rows, "no lease has expired")
    screen.line(f"Units that no longer count as outstanding, and stay charged: {amount(found.units)}", style="bold")
    if not found.still_open.is_zero():
        screen.line(f"Units on leases that have not expired, which stay outstanding: {amount(found.still_open)}")
    if found.state.startswith("live"):
        screen.line("It was in touch lately: if it comes back, it could have closed these leases itself.", style="bold")
