"""Terms in the audit log: letting more leave in a model's answers names two operators, once there are two."""

import pytest
from tests.ledger.test_audit import ALONE, BORROWER, COMMAND, DIGEST, MODEL, Writer, begun
from tests.ledger.test_replay import TWICE, accepted, reason

from aigovtool.ledger.entry import Command, ModelTermsSet


def changed(log: Writer, command: Command, *, more_leaves: bool) -> None:
    log.add(
        ModelTermsSet(
            model=MODEL, policy=DIGEST, borrowers=[BORROWER], epoch=1, command=command, more_leaves=more_leaves
        )
    )


@pytest.mark.parametrize("command", [ALONE, TWICE])
def test_letting_more_leave_names_two(command: Command) -> None:
    """One is not enough, nor one who is named twice."""
    log = begun()
    changed(log, command, more_leaves=True)
    assert reason(log) == "needs_second"
    log = begun()
    changed(log, COMMAND, more_leaves=True)
    assert accepted(log)


def test_stricter_terms_are_for_one_of_several() -> None:
    """As a stop is."""
    log = begun()
    changed(log, ALONE, more_leaves=False)
    assert accepted(log)


def test_one_operator_lets_more_leave_while_there_is_no_other() -> None:
    """There is nobody to ask."""
    log = begun(second=False)
    changed(log, ALONE, more_leaves=True)
    assert accepted(log)
