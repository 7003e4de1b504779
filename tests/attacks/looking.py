"""Looks for secrets where they may not be: in files, in what processes show of themselves, and in their memory."""

import base64
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.attacks.lent import Floats
from tests.attacks.memory import memory_of

#: Of a secret, the bytes that must be found in one place.
_KNOWN_BY: Final = 16


def spellings(secret: bytes) -> list[bytes]:
    """Return how the beginning and the end of a secret may be written: raw, in hexadecimal, in base64."""
    return [one for piece in (secret[:_KNOWN_BY], secret[-_KNOWN_BY:]) for one in _written(piece)]


def _written(piece: bytes) -> list[bytes]:
    """Return how a piece may be written, in base64 wherever it begins in what is encoded."""
    found = [piece, piece.hex().encode(), piece.hex().upper().encode()]
    for before in range(3):
        # What shares a character with its neighbours is left out, at both ends.
        first, last = -(-before * 4 // 3), (before + len(piece)) * 4 // 3
        data = bytes(before) + piece
        found += [base64.b64encode(data)[first:last], base64.urlsafe_b64encode(data)[first:last]]
    return list(dict.fromkeys(found))


def spelt_numbers(found: Floats) -> list[bytes]:
    """Return how numbers may be written: as the bytes of a tensor, in any spelling, or in decimal."""
    ends = found.ravel()[[0, -1]]
    decimal = [text for one in ends for text in (repr(float(one)).encode()[:12], str(one).encode())]
    return [*spellings(found.tobytes()), *decimal]


def found_in(data: bytes | bytearray, secrets: Mapping[str, list[bytes]]) -> set[str]:
    """Return the names of the secrets that are in `data` in any spelling."""
    return {name for name, needles in secrets.items() if any(needle in data for needle in needles)}


def found_in_files(directory: Path, secrets: Mapping[str, list[bytes]]) -> dict[str, set[str]]:
    """Return which files below `directory` hold which secrets; names of files count as well."""
    found: dict[str, set[str]] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        seen = found_in(name.encode(), secrets)
        if path.is_file():
            seen |= found_in(path.read_bytes(), secrets)
        if seen:
            found[name] = seen
    return found


def found_in_memory(pid: int, secrets: Mapping[str, list[bytes]]) -> tuple[set[str], int]:
    """Return which secrets are in the memory of a process, and how many bytes were looked at.

    Raises:
        PermissionError: this user may not look: the process has forbidden it, and only root may anyway.
    """
    found: set[str] = set()
    looked_at = 0
    for piece in memory_of(pid, files=False):
        looked_at += len(piece)
        found |= found_in(piece, secrets)
    return found, looked_at


def parents() -> dict[int, int]:
    """Return the parent of each process."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def descendants(ancestor: int) -> set[int]:
    """Return all processes that come from one."""
    found, known = {ancestor}, parents()
    while more := {child for child, parent in known.items() if parent in found and child not in found}:
        found |= more
    return found - {ancestor}


class Onlooker:
    """Reads what all processes of this test show of themselves, again and again."""

    def __init__(self) -> None:
        """Look at the descendants of this process."""
        self.shown: Final[dict[str, bytes]] = {}
        self._ended = threading.Event()

    def look(self) -> None:
        """Look until told to end."""
        while not self._ended.is_set():
            for pid in descendants(os.getpid()):
                for name in ("cmdline", "environ"):
                    with suppress(OSError):
                        seen = Path(f"/proc/{pid}/{name}").read_bytes()
                        if seen:
                            self.shown[f"{pid}/{name}/{hash(seen)}"] = seen
            time.sleep(0.02)

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def found(self, secrets: Mapping[str, list[bytes]]) -> set[str]:
        """Return the secrets that any process has shown."""
        return {name for seen in self.shown.values() for name in found_in(seen, secrets)}


@contextmanager
def looking() -> Iterator[Onlooker]:
    """Look at all processes meanwhile."""
    onlooker = Onlooker()
    thread = threading.Thread(target=onlooker.look, daemon=True)
    thread.start()
    try:
        yield onlooker
    finally:
        onlooker.end()
        thread.join(10)


def without(secrets: Mapping[str, list[bytes]], *names: str) -> dict[str, list[bytes]]:
    """Return all but these."""
    return {name: needles for name, needles in secrets.items() if name not in names}


def only(secrets: Mapping[str, list[bytes]], names: Iterable[str]) -> dict[str, list[bytes]]:
    """Return these."""
    return {name: secrets[name] for name in names}
