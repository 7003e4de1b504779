"""Inputs that a reader wants in a file: written where files lie in memory, as only this user may read them."""

from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Final, TypeVar

from assurance.machine import in_memory

T = TypeVar("T")

_PREFIX: Final = "aigovtool-input-"


def in_file(data: bytes, read: Callable[[Path], T], *, suffix: str = "") -> T:
    """Return what `read` makes of a file with this content."""
    with NamedTemporaryFile(prefix=_PREFIX, suffix=suffix, dir=in_memory()) as file:
        file.write(data)
        file.flush()
        return read(Path(file.name))


def in_folder(contents: dict[str, bytes], read: Callable[[Path], T]) -> T:
    """Return what `read` makes of a folder with these files; names may have a folder in them."""
    with TemporaryDirectory(prefix=_PREFIX, dir=in_memory()) as folder:
        for name, content in contents.items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(content)
        return read(Path(folder))
