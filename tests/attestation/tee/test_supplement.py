"""What a custodian adds to evidence is added once, and Intel's collateral takes the place of what was there."""

import pytest

from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.supplement import COLLATERAL_PREFIX, supplemented
from aigovtool.errors import TooLargeError
from aigovtool.limits import MAX_ENDORSEMENTS

OLD, NEW = COLLATERAL_PREFIX + b'"old"}', COLLATERAL_PREFIX + b'"new"}'


def evidence(*endorsements: bytes) -> Evidence:
    return Evidence(tee=TeeType.TDX, data=b"quote", endorsements=endorsements)


@pytest.mark.parametrize(
    ("brought", "added", "both"),
    [
        ((), (), ()),
        ((b"leaf",), (b"list",), (b"leaf", b"list")),
        ((b"leaf", b"list"), (b"list",), (b"leaf", b"list")),
        ((OLD, b"events"), (NEW,), (b"events", NEW)),
        ((NEW, b"events"), (NEW,), (b"events", NEW)),
        ((OLD, b"events"), (), (OLD, b"events")),
    ],
)
def test_what_is_added_is_there_once(
    brought: tuple[bytes, ...], added: tuple[bytes, ...], both: tuple[bytes, ...]
) -> None:
    """Two of one kind would make a verifier refuse what is genuine."""
    assert supplemented(evidence(*brought), added) == evidence(*both)


def test_too_much_is_refused() -> None:
    """Evidence has a bound, whoever adds to it."""
    parts = [b"%d" % number for number in range(MAX_ENDORSEMENTS + 1)]
    with pytest.raises(TooLargeError):
        supplemented(evidence(), parts)
