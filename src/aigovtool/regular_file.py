"""Opens files where others may have put something else in their place.

A path that others can write to may name a link to a file of ours, or a pipe that never answers. Here a file is opened
once, and what is looked at is the open descriptor, so that nothing can be exchanged in between.
"""

import os
import stat
from errno import EINVAL, ELOOP, ENOSYS, ENOTSUP, ENXIO, EPERM
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Final

#: O_NONBLOCK: opening a pipe must not wait for its other end. For regular files it means nothing.
_ALWAYS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: A link; what the kernel opens and is no file; a socket, or a pipe to write to that nobody reads.
NO_REGULAR_FILE: Final = frozenset({ELOOP, EINVAL, ENXIO})

#: What a file system says that has no hard links.
_NO_LINKS: Final = frozenset({ENOSYS, ENOTSUP, EPERM})


def open_regular(path: Path | str, flags: int = os.O_RDONLY, *, mode: int = 0o600, dir_fd: int | None = None) -> int:
    """Return a descriptor of a regular file; a link at the end of the path is not followed.

    Raises:
        OSError: as `os.open`; one of `NO_REGULAR_FILE` for anything else than a regular file.
    """
    descriptor = os.open(path, flags | _ALWAYS, mode, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(EINVAL, "not a regular file", str(path))
    return descriptor


def new_beside(path: Path) -> tuple[BinaryIO, Path]:
    """Open a new file for writing in the directory of `path`, to be renamed to it; return it with its name.

    Its name is one that nobody can have prepared: where others write too, a link to a file of ours may lie in waiting.

    Raises:
        OSError: as `os.open`.
    """
    partial = path.with_name(f".{path.name[:20]}.{token_hex(8)}.partial")
    return partial.open("xb"), partial


def write_new(path: Path, content: bytes) -> None:
    """Write a new file that holds no secret; one that cannot be written to its end is not left behind.

    Raises:
        FileExistsError: there is one.
        OSError: as `open` and `write`.
    """
    with path.open("xb") as file:
        try:
            file.write(content)
            file.flush()
        except OSError:
            path.unlink(missing_ok=True)
            raise


def give_name(partial: Path, path: Path) -> None:
    """Give a file that is whole its name, unless that was taken meanwhile; `partial` may be there still.

    Raises:
        FileExistsError: it was.
        OSError: as `os.link`.
    """
    try:
        os.link(partial, path, follow_symlinks=False)  # unlike a rename, it fails then
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(error.errno, "exists already", str(path)) from None
        partial.rename(path)


def read_regular(path: Path | str) -> BinaryIO:
    """Open a regular file for reading; raises as `open_regular`."""
    return os.fdopen(open_regular(path), "rb")


def read_at_most(path: Path | str, most_bytes: int) -> bytes:
    """Return a regular file's content, or its first `most_bytes` + 1, by which it is known to be longer.

    Raises:
        OSError: as `open_regular`.
    """
    with read_regular(path) as file:
        return file.read(most_bytes + 1)
