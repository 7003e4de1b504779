"""What an auditor remembers of leases that are over."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from aigovtool.ids import LeaseId
from aigovtool.ledger.lease_ids import LeaseIds

#: Few distinct ones, so that examples meet the same identifier again; zero is among them.
numbers = st.lists(st.integers(0, 300) | st.integers(0, 2**128 - 1), max_size=400)


def lease_id(number: int) -> LeaseId:
    return LeaseId(f"{number:032x}")


@given(numbers, numbers)
def test_it_holds_exactly_what_was_added(added: list[int], asked: list[int]) -> None:
    """As a set does, also where identifiers collide, come twice, or are all zeros."""
    found, model = LeaseIds(), set(added)
    for number in added:
        found.add(lease_id(number))
    assert len(found) == len(model)
    for number in [*added, *asked]:
        assert (lease_id(number) in found) == (number in model)


def test_a_lease_costs_no_more_than_forty_eight_bytes() -> None:
    """Five million leases, a log of ten million entries, fit in a quarter of a gigabyte."""
    tracemalloc.start()
    found = LeaseIds()
    for number in range(1, 44_000):  # just after the table has grown: the worst moment
        found.add(lease_id(number))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 43_999
    assert kept <= 48 * len(found) + 10_000
