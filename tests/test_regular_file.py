"""Files where others may have put something else in their place."""

import os
from collections.abc import Callable
from errno import EINVAL, ELOOP
from pathlib import Path

import pytest

from aigovtool.regular_file import open_regular, read_at_most, read_regular


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    """As by `open`, and closed to programs that are started."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with read_regular(path) as file:
        assert (file.read(), os.get_inheritable(file.fileno())) == (b"content", False)


def test_no_more_is_read_than_shows_that_it_is_too_much(tmp_path: Path) -> None:
    """One byte more than the bound."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert read_at_most(path, 3) == b"cont"
    assert read_at_most(path, 7) == b"content"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: path.symlink_to("/etc/hostname"), ELOOP),
        (lambda path: path.symlink_to(path), ELOOP),
        (os.mkfifo, EINVAL),
        (Path.mkdir, EINVAL),
    ],
    ids=["link", "link-to-itself", "pipe", "directory"],
)
def test_anything_else_is_refused_at_once(make: Callable[[Path], None], error: int, tmp_path: Path) -> None:
    """No link is followed, and no pipe is waited for; no descriptor stays open."""
    path = tmp_path / "other"
    make(path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError) as caught:
        open_regular(path)
    assert caught.value.errno == error
    assert len(list(Path("/proc/self/fd").iterdir())) == before
