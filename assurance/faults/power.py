"""What a disk may hold after the power failed: rebuilt from a record of every write and every sync.

What was synced is there. Of what was written after the last sync of its file, any part may be: this is chosen by a
seed, in sectors of 512 bytes, each kept or lost by itself, and so is a change of a file's length or its removal.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aigovtool.codec import decode
from assurance.faults.life import Told

_SECTOR = 512
_CALL_RE = re.compile(r"(\d+) +(\w+)\((.*)")
_RESUMED_RE = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_END_RE = re.compile(r"(.*)\) += (-?\d+|\?).*")
_UNFINISHED = " <unfinished ...>"
_FILE_RE = re.compile(r"\d+<([^>]*)>")
_TEXT_RE = re.compile(r'"([^"]*)"')
_SYNCS = {"fsync", "fdatasync"}


@dataclass(frozen=True)
class Event:
    """One call: to which file, at which offset, which bytes; or the new length of a truncated file."""

    call: str
    file: str
    offset: int = 0
    data: bytes = b""


def _plain(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode("latin-1") if "\\x" in text else text


def _event(call: str, rest: str) -> Event | None:
    """Read one call as strace writes it with `-xx -y`; a call that failed has changed nothing."""
    ended = _END_RE.fullmatch(rest)
    if ended is None:
        raise ValueError(f"not understood: {call}({rest[-80:]}")
    arguments = ended[1]
    if ended[2] == "-1":
        return None
    if call in {"unlink", "unlinkat"}:
        texts = _TEXT_RE.findall(arguments)
        return Event(call, Path(_plain(texts[-1])).name)
    held = _FILE_RE.match(arguments)
    if held is None:
        raise ValueError(f"not understood: {call}({arguments[:80]}")
    file = Path(_plain(held[1])).name
    if call in {"pwrite64", "write"}:
        text = _TEXT_RE.search(arguments)
        data = b"" if text is None else bytes.fromhex(text[1].replace("\\x", ""))
        tail = arguments.rpartition(", ")[2]
        return Event(call, file, int(tail) if call == "pwrite64" else 0, data)
    if call == "ftruncate":
        return Event(call, file, int(arguments.rpartition(", ")[2]))
    if call in _SYNCS:
        return Event(call, file)
    raise ValueError(f"a call that this disk does not know: {call}")


def events_of(lines: list[str]) -> list[Event]:
    """Return what happened, in order. A call that another thread interrupted counts when it ended.

    What was told counts as told when it was about to be written: the promise had been made then.
    """
    begun: dict[str, str] = {}
    found = []
    for line in lines:
        if resumed := _RESUMED_RE.match(line):
            if resumed[2] == "write":
                continue
            event = _event(resumed[2], begun.pop(resumed[1]) + resumed[3])
        elif (call := _CALL_RE.match(line)) and call[3].endswith(_UNFINISHED):
            begun[call[1]] = call[3].removesuffix(_UNFINISHED)
            if call[2] != "write":
                continue
            event = _event(call[2], begun[call[1]] + ") = 0")
        elif call:
            event = _event(call[2], call[3])
        else:
            continue
        found += [] if event is None else [event]
    return found


@dataclass
class File:
    """What of a file is safe (nothing if its name is not), and what was done to it since."""

    safe: bytearray | None
    since: list[Event] = field(default_factory=list)

    def sync(self) -> None:
        """Make everything safe."""
        self.safe = self.torn(None)
        self.since.clear()

    def torn(self, chance: random.Random | None) -> bytearray | None:
        """Return what may be left: everything, or what chance keeps of what is not safe."""
        content = None if self.safe is None else bytearray(self.safe)
        likely = 1.0 if chance is None else chance.choice((0.1, 0.5, 0.9))

        def kept() -> bool:
            return chance is None or chance.random() < likely

        for event in self.since:
            if event.call == "ftruncate":
                if kept() and content is not None:
                    content[event.offset :] = bytes(max(0, event.offset - len(content)))
            elif event.call == "pwrite64":
                content = _written(content, event, kept)
            elif kept():
                content = None
        return content


def _written(content: bytearray | None, event: Event, kept: Callable[[], bool]) -> bytearray | None:
    place, end = event.offset, event.offset + len(event.data)
    while place < end:
        stop = min(end, (place // _SECTOR + 1) * _SECTOR)
        if kept():
            content = bytearray() if content is None else content
            content.extend(bytes(max(0, stop - len(content))))
            content[place:stop] = event.data[place - event.offset : stop - event.offset]
        place = stop
    return content


@dataclass(frozen=True)
class Cut:
    """A moment at which the power fails: after so many calls, with what is left and what had been told."""

    after: int
    last: Event
    kind: str
    files: dict[str, bytes | None]
    told: list[Told]


def cuts(start: Path, events: list[Event], seed: int) -> Iterator[Cut]:
    """Yield every moment with everything lost that was not synced, and with parts of it lost.

    Moments between which nothing became safe and nothing was told leave the same files when everything is lost; only
    the first of them is yielded so.
    """
    chance = random.Random(seed)
    names = ("ledger.db", "ledger.db-wal")
    disk = {name: File(bytearray(path.read_bytes()) if (path := start / name).exists() else None) for name in names}
    heard, told = b"", list[Told]()
    for number, event in enumerate(events, 1):
        if event.file == "told":
            *lines, heard = (heard + event.data).split(b"\n")
            told += [decode(line, Told) for line in lines]
        elif event.call in _SYNCS:
            if event.file in disk:
                disk[event.file].sync()
        else:
            disk[event.file].since.append(event)
            left = {name: file.torn(chance) for name, file in disk.items()}
            yield Cut(number, event, "torn", _frozen(left), list(told))
            continue
        yield Cut(number, event, "lost", _frozen({name: file.safe for name, file in disk.items()}), list(told))


def _frozen(files: dict[str, bytearray | None]) -> dict[str, bytes | None]:
    return {name: None if content is None else bytes(content) for name, content in files.items()}


def put(directory: Path, cut: Cut) -> None:
    """Write the files as they are after the power has failed."""
    for name, content in cut.files.items():
        path = directory / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
