"""Opens the files of a model for sealing: the graph and the external data that the sealer names.

Rules: names are relative to one folder and hold no ".."; no level below the folder is a symbolic link, so nothing
outside it can get into a package; only regular files are opened, and a pipe does not block.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from errno import EINVAL
from pathlib import Path
from typing import BinaryIO, Final

from aigovtool.errors import InvalidValueError, ModelError
from aigovtool.limits import MAX_PACKAGE_FILES
from aigovtool.package.manifest import FILE_NAME_PATTERN, check_file_names
from aigovtool.regular_file import open_regular

_NAME_RE: Final = re.compile(FILE_NAME_PATTERN)
_FOLDER: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to seal: the name it gets in the package, and a seekable binary stream."""

    name: str
    stream: BinaryIO


@contextmanager
def open_sources(folder: Path, names: Sequence[str]) -> Iterator[tuple[SourceFile, ...]]:
    """Open `names` in `folder`, the graph first, and close them at the end of the block.

    Raises:
        InvalidValueError: a name is not a plain relative name, or the names meet each other.
        ModelError: a file is missing, cannot be read, is a link, or is not a regular file.
    """
    if not 1 <= len(names) <= MAX_PACKAGE_FILES:
        raise InvalidValueError(f"a package holds 1 to {MAX_PACKAGE_FILES} files", reason="file_count")
    for name in names:
        if _NAME_RE.match(name) is None:
            raise InvalidValueError(
                f"{name[:80]!r} is not a plain relative file name",
                reason="file_name",
                fix="rename the file: letters, digits and . _ + = @ - are taken, folders are separated by /",
            )
    check_file_names(list(names))
    with ExitStack() as stack:
        yield tuple(SourceFile(name, stack.enter_context(_open(folder, name))) for name in names)


def _open(folder: Path, name: str) -> BinaryIO:
    """Open level by level relative to the folder before it, so that no link can be slipped in between."""
    *folders, last = name.split("/")
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for level in folders:
                at, before = os.open(level, _FOLDER, dir_fd=at), at
                os.close(before)
            file = open_regular(last, dir_fd=at)
        finally:
            os.close(at)
    except OSError as error:
        if error.errno == EINVAL:
            raise ModelError(f"{name!r} is not a regular file", reason="source_not_a_file", fix="name a file") from None
        raise ModelError(
            f"{name!r} cannot be opened: {error.strerror}",
            reason="source_unreadable",
            fix="check name and permissions; a symbolic link is not followed, put the file itself in its place",
        ) from None
    return os.fdopen(file, "rb")
