"""Packages on a disk that does not give all that was written to it."""

import io
from errno import EIO
from typing import BinaryIO

import pytest

from aigovtool.custodian.service.packages import PackageRange
from aigovtool.errors import StorageError

MIB = 1 << 20
CONTENT = bytes(range(256)) * (3 * MIB // 256) + b"end"


class BadDisk(io.BytesIO):
    """A file that cannot be read from a byte on."""

    def __init__(self, bad_at: int) -> None:
        super().__init__(CONTENT)
        self._bad_at = bad_at

    def read(self, size: int | None = -1) -> bytes:
        """Read, or fail where the bad byte is among those that are wanted."""
        if self.tell() + (len(CONTENT) if size is None else size) > self._bad_at:
            raise OSError(EIO, "Input/output error")
        return super().read(size)


def opened(file: BinaryIO, start: int, count: int | None = None) -> PackageRange:
    return PackageRange(file, start, len(CONTENT) - start if count is None else count, len(CONTENT))


@pytest.mark.parametrize("start", [0, 5, MIB, 3 * MIB, len(CONTENT) - 1])
@pytest.mark.parametrize("count", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, None])
def test_what_was_read_to_begin_is_sent_once(start: int, count: int | None) -> None:
    """The wanted bytes and no others, whatever part of them was read before the answer began."""
    wanted = opened(io.BytesIO(CONTENT), start, count)
    wanted.begin()
    stop = len(CONTENT) if count is None else start + count
    assert b"".join(wanted.chunks()) == CONTENT[start:stop]


def test_an_unreadable_byte_is_told_by_whoever_resumes_there() -> None:
    """The first answer breaks off; the next one says that it is the disk, so that an enclave knows whose fault."""
    first = opened(BadDisk(2 * MIB + 7), 0)
    first.begin()
    sent = b""
    with pytest.raises(OSError, match="Input/output error"):
        for chunk in first.chunks():
            sent += chunk
    assert sent == CONTENT[: 2 * MIB]
    with pytest.raises(StorageError) as caught:
        opened(BadDisk(2 * MIB + 7), len(sent)).begin()
    assert (caught.value.reason, caught.value.status) == ("package_unreadable", 503)
