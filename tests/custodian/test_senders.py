"""How often enclaves may ask for keys, each of which is a line of the log for ever."""

import pytest
from tests.custodian.conftest import BORROWER, OTHER, Bench, Enclave

from aigovtool.custodian.senders import Senders
from aigovtool.errors import ForbiddenError, OverloadedError
from aigovtool.ids import digest_of
from aigovtool.ledger.entry import KeyReleased, ReleaseRefused

AT_ONCE = 2_000


def asked(senders: Senders, times: int) -> int:
    """Return how many of so many requests of a borrower were taken."""
    taken = 0
    for _ in range(times):
        try:
            senders.count_release(BORROWER)
        except OverloadedError:
            continue
        taken += 1
    return taken


def test_a_borrowers_enclaves_ask_two_thousand_times_at_once_and_then_once_a_second() -> None:
    """By a clock that only passes; nobody else's are kept waiting for it."""
    now_ms = 5_000
    senders = Senders(lambda: now_ms)
    assert asked(senders, AT_ONCE + 10) == AT_ONCE
    now_ms += 5_000
    assert asked(senders, 10) == 5
    senders.count_release(OTHER)
    now_ms += 3_000
    assert asked(senders, 10) == 3


async def test_requests_for_keys_leave_no_more_lines_than_that(admitted: Enclave, lent: Bench) -> None:
    """Attack: an instance asks for its model's key again and again, and with a manifest that the model has not."""
    lent.custodian.senders = Senders(lambda: 0)
    assert asked(lent.custodian.senders, AT_ONCE - 2) == AT_ONCE - 2
    await admitted.release()
    with pytest.raises(ForbiddenError):
        await admitted.release(admitted.release_request(manifest=digest_of(b"another")))
    before = await lent.log()
    assert [type(line) for line in before[-2:]] == [KeyReleased, ReleaseRefused]
    for _ in range(20):
        with pytest.raises(OverloadedError) as refused:
            await admitted.release()
        assert refused.value.reason == "releases"
    assert await lent.log() == before
