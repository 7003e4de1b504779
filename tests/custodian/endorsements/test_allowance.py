"""How many unknown machines a borrower may have us ask about."""

import pytest

from aigovtool.custodian.endorsements.allowance import MOST, Allowances
from aigovtool.errors import UnreachableError


def test_each_borrower_has_a_number_that_comes_back_with_time() -> None:
    """Attack: invented chips. The others are served; who waits gets 120 an hour, and never more than all at once."""
    now_ms = [10_000_000]
    allowances = Allowances(lambda: now_ms[0])

    def taken(borrower: str) -> int:
        count = 0
        while count <= MOST:
            try:
                allowances.take(borrower)
            except UnreachableError as error:
                assert (error.reason, error.retry_after_s) == ("too_many_machines", 60)
                return count
            count += 1
        return count

    assert (taken("greedy"), taken("greedy"), taken("honest")) == (MOST, 0, MOST)
    now_ms[0] += 29_999
    assert taken("greedy") == 0
    now_ms[0] += 1
    assert taken("greedy") == 1
    now_ms[0] += 3_600_000
    assert taken("greedy") == 120
    now_ms[0] += 30 * 86_400_000
    assert taken("greedy") == MOST
    now_ms[0] -= 5_000_000  # a clock that was put back gives nothing
    with pytest.raises(UnreachableError):
        allowances.take("greedy")
