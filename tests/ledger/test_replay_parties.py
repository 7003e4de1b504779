"""Who is who in a log: operators who order, borrowers and consumers who are given something, enclaves that hold it."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from tests.ledger.test_audit import (
    ALONE,
    ATTESTED,
    BORROWER,
    COMMAND,
    CONSUMER,
    DIGEST,
    INSTANCE,
    LIMIT,
    NEXT,
    Writer,
    begun,
    restored,
)
from tests.ledger.test_replay import accepted, enrol, reason

from aigovtool.ids import BorrowerId, ConsumerId, Digest, LeaseId, MessageId, OperatorId, digest_of, key_id_of
from aigovtool.ledger.budget import Scope
from aigovtool.ledger.entry import (
    AppraisalPolicySet,
    AskDecided,
    AttestationWithdrawn,
    BudgetSet,
    Command,
    LeaseExpired,
    LeaseGranted,
    LeaseWrittenOff,
    PartyAdded,
    PartyRevoked,
    PartyRole,
    StopTarget,
    Wiped,
)

CLINIC, LAB = BorrowerId("clinic"), ConsumerId("lab")
#: As an order is that was carried out before.
FIRST = replace(ALONE, command_id=MessageId("e" * 32))


def ended(log: Writer, role: PartyRole, name: str) -> None:
    """Revoke a party."""
    log.add(PartyRevoked(role=role, name=name, epoch=0, command=ALONE))


def granted(log: Writer) -> LeaseGranted:
    """Grant a lease, and return what the log says of it, to be said otherwise."""
    log.grant(1)
    body = log.entries.pop().body
    assert isinstance(body, LeaseGranted)
    return body


# --- Operators -----------------------------------------------------------------------------------------------


def by(log: Writer, operator: str, second: str | None = None) -> None:
    """Set a limit by order of somebody."""
    command = replace(ALONE, operator=OperatorId(operator), second=None if second is None else OperatorId(second))
    log.add(BudgetSet(limit=LIMIT, command=command))


@pytest.mark.parametrize(("operator", "second"), [("mallory", None), ("alice", "mallory"), (BORROWER, None)])
def test_who_orders_something_is_an_operator(operator: str, second: str | None) -> None:
    """Attack: a custodian that has its log key alone raises a budget by order of whom nobody enrolled."""
    log = begun()
    by(log, operator, second)
    assert reason(log) == "not_enrolled"


@pytest.mark.parametrize(("operator", "second"), [("bob", None), ("alice", "bob"), ("bob", "alice")])
def test_who_was_revoked_orders_nothing_more(operator: str, second: str | None) -> None:
    """Neither alone nor beside another one. What was ordered before counts; whoever goes may say so."""
    log = begun()
    by(log, operator, second)
    log.add(PartyRevoked(role=PartyRole.OPERATOR, name="bob", epoch=0, command=replace(ALONE, operator="bob")))
    assert accepted(log)
    by(log, operator, second)
    assert reason(log) == "not_enrolled"


def test_a_party_is_revoked_once() -> None:
    """And only one that there is."""
    log = begun()
    ended(log, PartyRole.CONSUMER, CONSUMER)
    assert accepted(log)
    ended(log, PartyRole.CONSUMER, CONSUMER)
    assert reason(log) == "not_enrolled"


def test_names_and_keys_are_given_out_once() -> None:
    """Attack: a revoked operator's name, or a borrower's, is given to a key of the custodian's own."""
    log = begun()
    ended(log, PartyRole.OPERATOR, "bob")
    enrol(log, "bob", None)
    assert reason(log) == "party_twice"
    log = begun()
    taken = key_id_of(f"operator {ALONE.operator}".encode())
    added = PartyAdded(role=PartyRole.BORROWER, name=CLINIC, key=taken, borrower=None, not_after_ms=1, command=ALONE)
    log.add(added)
    assert reason(log) == "party_twice"


@pytest.mark.parametrize("role", [PartyRole.BORROWER, PartyRole.CONSUMER])
def test_only_operators_are_enrolled_without_an_order(role: PartyRole) -> None:
    """By whoever holds the custodian's directory."""
    log = begun()
    log.enrol(role, "new", None, BORROWER if role is PartyRole.CONSUMER else None)
    assert reason(log) == "not_ordered"


# --- Orders --------------------------------------------------------------------------------------------------


def a_limit(log: Writer) -> None:
    log.add(BudgetSet(limit=LIMIT, command=FIRST))


def a_stop(log: Writer) -> None:
    log.stop(StopTarget.ALL, "")
    log.add(replace(log.entries.pop().body, command=FIRST))


def a_party(log: Writer) -> None:
    enrol(log, f"party{len(log.entries)}", FIRST, PartyRole.BORROWER)


@pytest.mark.parametrize("order", [a_limit, a_stop, a_party])
def test_an_order_is_carried_out_once(order: Callable[[Writer], None]) -> None:
    """Attack: a custodian carries out again what an operator ordered once; the digest in the log is the same."""
    log = begun()
    order(log)
    log.grant(1) if order is not a_stop else log.wait(1)
    assert accepted(log)
    order(log)
    assert reason(log) == "order_twice"


def test_most_orders_have_one_entry() -> None:
    """Attack: two parties are enrolled by one order for one."""
    log = begun()
    a_party(log)
    a_party(log)
    assert reason(log) == "order_twice"


def test_all_entries_of_an_order_stand_together() -> None:
    """A decision raises several budgets; what is given up, and what is charged, may be more than one thing."""
    log = begun()
    first, second = log.grant(1), log.grant(1)
    for lease in (first, second):
        log.add(LeaseExpired(lease_id=lease))
    a_limit(log)
    log.add(BudgetSet(limit=replace(LIMIT, scope=Scope(model=LIMIT.scope.model, borrower=BORROWER)), command=FIRST))
    log.add(AskDecided(ask_id=MessageId("1" * 32), approved=True, command=FIRST))
    two = replace(COMMAND, command_id=MessageId("d" * 32))
    for lease in (first, second):
        log.add(LeaseWrittenOff(lease_id=lease, command=two))
    assert accepted(log)


# --- Which enclaves are accepted -----------------------------------------------------------------------------


def policy(log: Writer, version: int, command: Command | None = COMMAND) -> None:
    """Say which enclaves are accepted."""
    log.add(AppraisalPolicySet(version=version, digest=digest_of(b"%d" % version), command=command))


def test_an_older_policy_is_not_put_in_force_again() -> None:
    """Attack: what accepted too much once accepts it again. The one in force may be set once more."""
    log = begun()
    for version in (5, 7, 7):
        policy(log, version)
    assert accepted(log)
    policy(log, 5)
    assert reason(log) == "policy_rollback"
    log.entries.pop()
    log.add(AppraisalPolicySet(version=7, digest=DIGEST, command=COMMAND))
    assert reason(log) == "policy_rollback"


def test_a_policy_that_nobody_ordered_is_the_first_one() -> None:
    """It is set when the ledger is founded, by an option; from then on two operators order it."""
    log = Writer(entries=begun().entries[:2])
    policy(log, 1, None)
    assert accepted(log)
    log = begun()
    policy(log, 1, None)
    assert reason(log) == "not_ordered"


# --- Borrowers, consumers and their enclaves -----------------------------------------------------------------


def another_borrower(log: Writer) -> None:
    """Enrol one, and a consumer of it."""
    log.enrol(PartyRole.BORROWER, CLINIC)
    log.enrol(PartyRole.CONSUMER, LAB, borrower=CLINIC)


def test_a_consumer_is_of_a_borrower_who_is_enrolled() -> None:
    """And goes on to be."""
    for borrower in (None, CLINIC):
        log = begun()
        log.enrol(PartyRole.CONSUMER, LAB, borrower=borrower)
        assert reason(log) == "not_enrolled"
    log = begun()
    ended(log, PartyRole.BORROWER, BORROWER)
    log.enrol(PartyRole.CONSUMER, LAB, borrower=BORROWER)
    assert reason(log) == "not_enrolled"


def test_a_lease_is_for_a_consumer_of_its_borrower() -> None:
    """Attack: what one borrower's budget holds is granted for another one's consumer, or for nobody's."""
    for consumer, why in ((LAB, "foreign_consumer"), (ConsumerId("nobody"), "not_enrolled")):
        log = begun()
        another_borrower(log)
        log.limit(Scope(model=LIMIT.scope.model, borrower=BORROWER), 100)
        body = granted(log)
        log.add(replace(body, consumer=consumer, rows=[row for row in body.rows if row.scope.consumer is None]))
        assert reason(log) == why


def test_a_lease_is_held_by_an_admitted_enclave_of_its_borrower() -> None:
    """Attack: units leave for what was never judged, or what ended, or for somebody else's enclave."""

    def never(log: Writer) -> None:
        log.instance = NEXT

    def wiped(log: Writer) -> None:
        log.add(Wiped(instance=INSTANCE, epoch=0))

    def not_accepted(log: Writer) -> None:
        log.add(AttestationWithdrawn(instance=INSTANCE, borrower=BORROWER, code="evidence", reason="revoked"))

    def of_another(log: Writer) -> None:
        another_borrower(log)
        log.add(replace(ATTESTED, instance=NEXT, borrower=CLINIC))
        log.instance = NEXT

    for crime, why in (
        (never, "not_admitted"),
        (wiped, "not_admitted"),
        (not_accepted, "not_admitted"),
        (of_another, "wrong_holder"),
    ):
        log = begun()
        crime(log)
        log.grant(1)
        assert reason(log) == why


def test_after_a_restore_a_lease_is_held_by_who_attested_since() -> None:
    """A restored ledger does not know what became of those that it admitted."""
    log = begun()
    restored(log)
    body = granted(log)
    log.add(body, generation=1)
    assert reason(log) == "not_admitted"


def test_an_enclave_that_ended_is_not_admitted_again() -> None:
    """Attack: one that wiped itself, was not acceptable any more, or is from before a restore, comes back."""
    for end in (
        Wiped(instance=INSTANCE, epoch=0),
        AttestationWithdrawn(instance=INSTANCE, borrower=BORROWER, code="evidence", reason="revoked"),
    ):
        log = begun()
        log.add(ATTESTED)
        assert accepted(log)
        log.add(end)
        log.add(ATTESTED)
        assert reason(log) == "readmitted"
    log = begun()
    restored(log)
    log.add(ATTESTED, generation=1)
    assert reason(log) == "readmitted"


def test_an_enclave_stays_what_it_was() -> None:
    """Attack: it attests again as another borrower's, or as one of a TEE that may be given more."""
    for changes in ({"borrower": CLINIC}, {"tee": "tpm"}):
        log = begun()
        another_borrower(log)
        log.add(replace(ATTESTED, **changes))
        assert reason(log) == "another_instance"


def test_who_is_not_enrolled_is_admitted_nowhere() -> None:
    """Attack: an enclave of a borrower of whom no operator knows."""
    log = begun()
    log.add(replace(ATTESTED, instance=NEXT, borrower=CLINIC))
    assert reason(log) == "not_enrolled"


@pytest.mark.parametrize("late", [False, True])
def test_an_enclave_of_which_copies_can_be_made_is_refunded_nothing(late: bool) -> None:  # noqa: FBT001
    """Attack: what one copy of it reports to have left, another one has used."""

    def closed(charged: int) -> Writer:
        log = begun()
        log.instance = NEXT
        log.add(replace(ATTESTED, instance=NEXT, tee="tpm"))
        lease: LeaseId = log.grant(10, request=DIGEST)
        if late:
            log.add(LeaseExpired(lease_id=lease))
        log.close(lease, 2, charged=charged, late=late)
        return log

    assert accepted(closed(10))
    assert reason(closed(2)) == "wrong_charge"


def test_an_enclave_of_which_copies_can_be_made_is_granted_one_request() -> None:
    """Attack: it is given units, and each copy of it uses them."""
    for request, good in ((DIGEST, True), (None, False)):
        log = begun()
        log.instance = NEXT
        log.add(replace(ATTESTED, instance=NEXT, tee="tpm"))
        log.grant(10, request=request)
        assert accepted(log) if good else reason(log) == "not_bound"


def test_a_digest_of_an_order_is_no_identifier_of_one() -> None:
    """Two orders of one content are two: each has an identifier of its own."""
    log = begun()
    for _ in range(2):
        log.add(BudgetSet(limit=LIMIT, command=replace(ALONE, digest=Digest("sha256:" + "7" * 64))))
        log.wait(1)
    assert accepted(log)
