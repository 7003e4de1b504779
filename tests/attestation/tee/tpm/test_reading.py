"""The reader of structures: never beyond the end, and to the end."""

from collections.abc import Callable
from typing import Any

import pytest

from aigovtool.attestation.tee.tpm.reading import Reader
from aigovtool.errors import EvidenceError


@pytest.mark.parametrize(
    "action",
    [
        lambda read: read.take(5),
        lambda read: read.take(-1),
        lambda read: read.number(8),
        lambda read: read.sized(1),
        lambda read: (read.take(2), read.sized(9)),
        lambda read: read.end(),
    ],
    ids=range(6),
)
def test_a_part_that_is_not_there_is_refused(action: Callable[[Reader], Any]) -> None:
    """Short reads, lengths above their bound or beyond the end, and bytes that are left, have the reader's reason."""
    with pytest.raises(EvidenceError) as caught:
        action(Reader(b"\0\2\0\3", "a structure", "a_reason"))
    assert caught.value.reason == "a_reason"


def test_parts_come_in_their_order() -> None:
    """Numbers are big-endian, and a TPM2B is without its length."""
    read = Reader(b"\1\2\0\1x\3", "a structure", "a_reason")
    assert (read.number(2), read.sized(1), read.take(1)) == (0x0102, b"x", b"\3")
    read.end()
