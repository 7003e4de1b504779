"""Which older copies of a log nobody takes: those that end within a settlement for good, before all is charged."""

import pytest
from assurance.campaigns.tampering import is_unfinished
from tests.ledger.test_audit import WIDE, restored
from tests.ledger.test_final_restore import charge, stopped
from tests.ledger.test_replay import accepted

from aigovtool.ledger.budget import Window
from aigovtool.ledger.entry import StopTarget


@pytest.mark.parametrize("final", [True, False])
def test_only_the_charges_that_follow_a_settlement_for_good_are_within_it(*, final: bool) -> None:
    """One that is not for good may be followed by charges as well, and is whole without them."""
    log = stopped()
    before = len(log.entries)
    restored(log, final=final)
    for row in log.rows():
        charge(log, row.scope, row.window, {Window.LIFETIME: 100, Window.DAY: 50}[row.window])
    settled = len(log.entries)
    log.resume(StopTarget.ALL, "")
    log.limit(WIDE, 110)
    assert accepted(log)
    within = [number for number in range(1, len(log.entries)) if is_unfinished(log.entries, number)]
    assert within == (list(range(before + 1, settled)) if final else [])
