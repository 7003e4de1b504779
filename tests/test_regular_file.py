"""Files where others may have put something else in their place."""

import os
import resource
from collections.abc import Callable
from errno import EINVAL, ELOOP, ENOTSUP
from pathlib import Path

import pytest

from aigovtool.regular_file import give_name, open_regular, read_at_most, read_regular, write_new


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


@pytest.mark.parametrize("links", [True, False], ids=["with links", "without"])
def test_a_name_that_is_taken_is_not_given(*, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one of a link to nowhere; a stick or a share on which there are no hard links is written to all the same."""

    def none(*_: object, **__: object) -> None:
        raise OSError(ENOTSUP, os.strerror(ENOTSUP))

    if not links:
        monkeypatch.setattr(os, "link", none)
    partial, taken, dangling = tmp_path / ".partial", tmp_path / "taken", tmp_path / "dangling"
    partial.write_bytes(b"new")
    taken.write_bytes(b"old")
    dangling.symlink_to(tmp_path / "nowhere")
    for path in (taken, dangling):
        with pytest.raises(FileExistsError):
            give_name(partial, path)
    assert (taken.read_bytes(), dangling.is_symlink()) == (b"old", True)
    give_name(partial, tmp_path / "free")
    assert (tmp_path / "free").read_bytes() == b"new"


def test_a_file_that_could_not_be_written_to_its_end_is_not_left_behind(tmp_path: Path) -> None:
    """Whoever makes room and tries again finds no half of it in the way; what was there before stays as it was."""
    path = tmp_path / "file"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))  # Python does not die of SIGXFSZ
    try:
        with pytest.raises(OSError, match="too large"):
            write_new(path, bytes(1_001))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.exists()
    write_new(path, b"whole")
    with pytest.raises(FileExistsError):
        write_new(path, b"another")
    assert path.read_bytes() == b"whole"
