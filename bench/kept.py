"""What a run has measured so far, so that one which is broken off after an hour can go on where it was.

Figures of another commit or machine do not stand under this one's name, nor those of this machine before it was
started anew: what was kept is found again under the same commit and the same boot alone.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from aigovtool.codec import Message, encode
from bench.served import ROOT

_FOLDER: Final = ROOT / ".bench"
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
T = TypeVar("T", bound=Message)


class Kept:
    """The parts of one run, each in a file under its name; or of nothing, where `folder` is None."""

    def __init__(self, folder: Path | None) -> None:
        """Go on with what is in a folder."""
        self._folder: Final = folder

    @classmethod
    def of(cls, commit: str, within: Path = _FOLDER) -> "Kept":
        """Return what was kept of a commit since this machine was started."""
        return cls(within / f"{commit}-{_BOOT.read_text(encoding='ascii').strip()}")

    def part(self, name: str, kind: type[T], measure: Callable[[], Iterable[T]]) -> list[T]:
        """Return a part that was kept, or else measure it and keep it.

        Args:
            name: of the part, with all that was chosen for it.
            kind: what it consists of.
            measure: how to come by it.
        """
        if self._folder is None:
            return list(measure())
        path = self._folder / f"{name}.json"
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=list[kind])  # type: ignore[valid-type]
        found = list(measure())
        self._folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(b"[" + b",".join(map(encode, found)) + b"]")
        part.rename(path)
        return found

    def one(self, name: str, kind: type[T], measure: Callable[[], T]) -> T:
        """Return a part that is a single thing."""
        return self.part(name, kind, lambda: [measure()])[0]

    def forget(self) -> None:
        """Remove all of it: it was published."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
