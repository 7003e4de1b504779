"""Answers that are not taken: whoever has much of them has nothing more run, and others have."""

from contextlib import ExitStack

import pytest

from aigovtool.enclave.unread import Unread
from aigovtool.errors import OverloadedError
from aigovtool.ids import ConsumerId
from aigovtool.limits import UNREAD_BYTES_OF_ANYBODY as LITTLE

ANN, BEN, CLEO = map(ConsumerId, ("ann", "ben", "cleo"))


def refused(unread: Unread, consumer: ConsumerId) -> bool:
    """Return whether nothing more is run for a consumer."""
    try:
        unread.require_few(consumer)
    except OverloadedError as error:
        assert (error.reason, error.retry_after_s, error.status) == ("answers_not_taken", 1, 429)
        return True
    return False


def test_who_has_more_than_its_share_takes_it_first() -> None:
    """At the bound is not over it; what was taken is forgotten; others are not concerned."""
    unread = Unread(4 * LITTLE, 100 * LITTLE)
    with unread.hold(ANN, 3 * LITTLE):
        with unread.hold(ANN, LITTLE):
            assert not refused(unread, ANN)
            with unread.hold(ANN, 1):
                assert refused(unread, ANN)
                assert not refused(unread, BEN)
        assert not refused(unread, ANN)
    assert not refused(unread, ANN)


def test_nobody_has_more_than_is_left_to_others() -> None:
    """Where little is left, who has more than that waits; whoever has but a little is served all the same."""
    unread = Unread(8 * LITTLE, 12 * LITTLE)
    with ExitStack() as held:
        for consumer, size in ((ANN, 8 * LITTLE), (BEN, 3 * LITTLE), (CLEO, LITTLE)):
            held.enter_context(unread.hold(consumer, size))
        assert refused(unread, ANN)
        assert refused(unread, BEN)
        assert not refused(unread, CLEO)


def test_what_fails_while_it_is_sent_is_not_held() -> None:
    """The consumer went away: what it did not take is not kept for it."""
    unread = Unread(LITTLE, 2 * LITTLE)
    with pytest.raises(ConnectionError), unread.hold(ANN, 9 * LITTLE):
        raise ConnectionError
    assert not refused(unread, ANN)
