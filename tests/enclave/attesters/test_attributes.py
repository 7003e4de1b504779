"""Reads and writes as drivers want them, on real files of this kernel."""

import errno
import os
import threading
from pathlib import Path

import pytest
from tests.enclave.attesters.stand_ins import open_files

from aigovtool.enclave.attesters.attributes import Attributes, KernelAttributes, failure
from aigovtool.errors import ConfigurationError, EvidenceError

FILES: Attributes = KernelAttributes()


def test_a_value_is_given_in_one_write(tmp_path: Path) -> None:
    """A pipe shows how bytes were written: one read takes what one write gave."""
    pipe, got = tmp_path / "inblob", list[bytes]()
    os.mkfifo(pipe)

    def take() -> None:
        file = os.open(pipe, os.O_RDONLY)
        while data := os.read(file, 4096):
            got.append(data)
        os.close(file)

    reader = threading.Thread(target=take)
    reader.start()
    FILES.write(pipe, bytes(range(64)))
    reader.join(10)
    assert got == [bytes(range(64))]


def test_a_value_that_is_not_taken_whole_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No second write for the rest: a driver would take it for another value."""
    path = tmp_path / "inblob"
    path.touch()
    written: list[bytes] = []

    def half(file: int, data: bytes) -> int:
        os.fstat(file)
        written.append(data)
        return len(data) // 2

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError) as caught:
            FILES.write(path, bytes(64))
    assert (caught.value.errno, written) == (errno.EIO, [bytes(64)])


def test_an_error_of_a_write_comes_through() -> None:
    """The kernel's own device for this."""
    with pytest.raises(OSError) as caught:
        FILES.write(Path("/dev/full"), b"x")
    assert caught.value.errno == errno.ENOSPC


def test_nothing_is_made_by_writing(tmp_path: Path) -> None:
    """A missing attribute stays missing, and the value is not written elsewhere."""
    with pytest.raises(FileNotFoundError):
        FILES.write(tmp_path / "privlevel", b"0")
    assert list(tmp_path.iterdir()) == []


def test_reading_is_bounded_and_whole(tmp_path: Path) -> None:
    """An answer of several pages comes whole; one beyond the bound is refused, also one that never ends."""
    path = tmp_path / "outblob"
    path.write_bytes(bytes(range(256)) * 700)
    assert FILES.read(path, 179_200) == bytes(range(256)) * 700
    for endless, most in ((path, 179_199), (Path("/dev/zero"), 1 << 20)):
        with pytest.raises(OSError) as caught:
            FILES.read(endless, most)
        assert caught.value.errno == errno.EFBIG


def test_directories_come_and_go(tmp_path: Path) -> None:
    """`mkdir` and `rmdir`, never a removal of what is inside."""
    entry = tmp_path / "entry"
    assert not FILES.exists(entry)
    FILES.make(entry)
    assert FILES.exists(entry)
    with pytest.raises(FileExistsError):
        FILES.make(entry)
    (entry / "provider").touch()
    with pytest.raises(OSError) as caught:
        FILES.remove(entry)
    assert caught.value.errno == errno.ENOTEMPTY
    (entry / "provider").unlink()
    FILES.remove(entry)
    assert not FILES.exists(entry)
    assert not FILES.exists(tmp_path / "no" / "such")


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    """A long-lived enclave attests many times."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    before = open_files()
    for _ in range(5):
        FILES.read(path, 100)
        FILES.write(path, b"x")
        with pytest.raises(OSError):
            FILES.read(path, 10)
        with pytest.raises(OSError):
            FILES.write(Path("/dev/full"), b"x")
    assert open_files() == before


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [
        (errno.ENOENT, ConfigurationError, "attester_absent"),
        (errno.ENOTDIR, ConfigurationError, "attester_absent"),
        (errno.ENXIO, ConfigurationError, "attester_no_provider"),
        (errno.EACCES, ConfigurationError, "attester_permission"),
        (errno.EPERM, ConfigurationError, "attester_permission"),
        (errno.EROFS, ConfigurationError, "attester_permission"),
        (errno.EFBIG, EvidenceError, "attester_too_large"),
        (errno.EBUSY, EvidenceError, "attester_busy"),
        (errno.EAGAIN, EvidenceError, "attester_busy"),
        (errno.EINTR, EvidenceError, "attester_busy"),
        (errno.EIO, EvidenceError, "attester_failed"),
        (errno.ETIMEDOUT, EvidenceError, "attester_failed"),
    ],
)
def test_what_a_driver_says_becomes_a_typed_error(number: int, kind: type[Exception], reason: str) -> None:
    """What the operator must change is configuration; what the platform does is evidence."""
    error = failure(OSError(number, os.strerror(number), "x/outblob"), "asking")
    assert type(error) is kind
    assert error.reason == reason
    assert "x/outblob" in error.message
    assert failure(OSError("odd"), "asking").reason == "attester_failed"
