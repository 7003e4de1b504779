"""Vendors' answers on disk: one file for each address, which nobody else on the machine can read.

Of certificates of machines there may be any number, so they have a bound. Room is made where most of them are of one
borrower: nobody can push out the machines of others by having many.
"""

import os
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from aigovtool.attestation.tee.completion import is_of_one_machine
from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.codec import Message, decode, encode
from aigovtool.crypto.keyfile import make_private_directory, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.errors import InputError
from aigovtool.limits import MAX_REVOCATION_LIST_BYTES
from aigovtool.regular_file import read_at_most

#: Certificates of so many machines and TCB versions.
_MOST_MACHINES: Final = 4_096
_MAX_FILE_BYTES: Final = 2 * MAX_REVOCATION_LIST_BYTES


class Kept(Message):
    """An answer, the borrower whose evidence named its address, and whether an operator brought it."""

    answer: Fetched
    asker: Annotated[str, Meta(max_length=256)]
    by_hand: bool


class KeptAnswers:
    """The files. Whoever writes one takes care that it is worth keeping."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which is made if it is not there.

        Raises:
            ConfigurationError: others can read it.
        """
        make_private_directory(directory)
        self._directory: Final = directory

    def read(self, url: str) -> Kept | None:
        """Return what is kept of an address; a damaged file is as good as none."""
        found = _decoded(self._path(url))
        return found if found is not None and found.answer.url == url else None

    def write(self, kept: Kept) -> None:
        """Keep an answer in the place of an earlier one at its address.

        Raises:
            ConfigurationError: the directory cannot be written.
        """
        path = self._path(kept.answer.url)
        if is_of_one_machine(kept.answer.url) and not path.exists():
            self._make_room()
        write_secret_file(path, Secret(encode(kept)), replace=True)

    def touch(self, url: str) -> None:
        """Remember that what is kept of an address was of use just now."""
        with suppress(OSError):  # it may have been removed by hand
            os.utime(self._path(url))

    def all(self) -> list[Kept]:
        """Return everything, by address; damaged files are left out."""
        found = (_decoded(path) for path in self._directory.glob("*.json"))
        return sorted((one for one in found if one is not None), key=lambda one: one.answer.url)

    def _path(self, url: str) -> Path:
        kind = "machine" if is_of_one_machine(url) else "all"
        return self._directory / f"{kind}-{sha256(url.encode()).hexdigest()}.json"

    def _make_room(self) -> None:
        """Remove certificates until there is room for one: of who has most of them, that which was not used longest."""
        files = {path: _asker(path) for path in self._machines()} if len(self._machines()) >= _MOST_MACHINES else {}
        for _ in range(len(files) - _MOST_MACHINES + 1 if files else 0):
            (greediest, _), *_ = Counter(files.values()).most_common(1)
            oldest = min((path for path, asker in files.items() if asker == greediest), key=_used_at)
            oldest.unlink(missing_ok=True)
            del files[oldest]

    def _machines(self) -> list[Path]:
        return list(self._directory.glob("machine-*.json"))


def _decoded(path: Path) -> Kept | None:
    try:
        return decode(read_at_most(path, _MAX_FILE_BYTES), Kept, max_bytes=_MAX_FILE_BYTES)
    except (OSError, InputError):
        return None


def _asker(path: Path) -> str:
    kept = _decoded(path)
    return "" if kept is None else kept.asker


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has removed it
        return 0.0
