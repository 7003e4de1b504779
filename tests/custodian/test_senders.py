"""How often enclaves may ask for keys, each of which is a line of the log for ever."""

import pytest
from tests.custodian.conftest import BORROWER, OTHER, Bench, Enclave

from aigovtool.custodian.senders import Senders
from aigovtool.errors import ForbiddenError, OverloadedError
from aigovtool.ids import digest_of
from aigovtool.ledger.entry import KeyReleased, ReleaseRefused

AT_ONCE = 2_000
NOW_MS = 1_800_000_000_000


def asked(senders: Senders, times: int, now_ms: int) -> int:
    """Return how many of so many requests of a borrower were taken."""
    taken = 0
    for _ in range(times):
        try:
            senders.count_release(BORROWER, now_ms)
        except OverloadedError:
            continue
        taken += 1
    return taken


def test_a_borrowers_enclaves_ask_two_thousand_times_at_once_and_then_once_a_second() -> None:
    """Nobody else's are kept waiting for it, and a clock that was put back keeps nobody waiting for long."""
    senders = Senders()
    assert asked(senders, AT_ONCE + 10, NOW_MS) == AT_ONCE
    assert asked(senders, 10, NOW_MS + 5_000) == 5
    senders.count_release(OTHER, NOW_MS + 5_000)
    assert asked(senders, 1, NOW_MS - 86_400_000) == 0
    assert asked(senders, 10, NOW_MS - 86_400_000 + 3_000) == 3


async def test_requests_for_keys_leave_no_more_lines_than_that(admitted: Enclave, lent: Bench) -> None:
    """Attack: an instance asks for its model's key again and again, and with a manifest that the model has not."""
    for _ in range(AT_ONCE - 2):
        lent.custodian.senders.count_release(BORROWER, lent.now_ms)
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
