"""Ways to tamper with a copy of the audit log, and what a reader must say to each.

A copy is an audit file: a header line and one line for each entry. A tampering takes the lines of a genuine one and the
number of an entry. `names` says which entry the reader must name; nothing means that it cannot be known which (an entry
was changed together with its recorded hash), only that something was changed.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from aigovtool.ledger.merkle import leaf_hash

_LINE_RE = re.compile(rb'\{"leaf":"([0-9a-f]{64})","entry":(.*)\}\n', re.DOTALL)

Edit = Callable[[list[bytes], int, random.Random], list[bytes] | None]


@dataclass(frozen=True)
class Tampering:
    """One way. `edit` gives the lines of the entries afterwards, or nothing where it is not applicable."""

    name: str
    edit: Edit
    names: Callable[[int], set[int]] | None


def entry_of(line: bytes) -> bytes:
    """Return the encoding of an entry in its line."""
    match = _LINE_RE.fullmatch(line)
    if match is None:
        raise ValueError("not a line of an audit file")
    return match[2]


def line_of(entry: bytes) -> bytes:
    """Return a line with a recorded hash that fits."""
    return b'{"leaf":"' + leaf_hash(entry).hex().encode() + b'","entry":' + entry + b"}\n"


def _with(lines: list[bytes], number: int, line: bytes) -> list[bytes]:
    return [*lines[:number], line, *lines[number + 1 :]]


def _flip(data: bytes, position: int, chance: random.Random) -> bytes:
    """Change one bit, and never into what ends a line."""
    flipped = bytearray(data)
    flipped[position] ^= 1 << chance.randrange(8)
    if flipped[position] == 0x0A:
        flipped[position] ^= 0x80
    return bytes(flipped)


def _flip_entry(lines: list[bytes], number: int, chance: random.Random) -> list[bytes]:
    line = lines[number]
    start = line.index(b'"entry":') + len(b'"entry":')
    return _with(lines, number, _flip(line, chance.randrange(start, len(line) - 2), chance))


def _flip_leaf(lines: list[bytes], number: int, chance: random.Random) -> list[bytes]:
    line = bytearray(lines[number])
    position = chance.randrange(9, 73)
    line[position] = ord(chance.choice([digit for digit in "0123456789abcdef" if ord(digit) != line[position]]))
    return _with(lines, number, bytes(line))


def _flip_frame(lines: list[bytes], number: int, chance: random.Random) -> list[bytes]:
    line = lines[number]
    places = [*range(9), *range(73, 83), len(line) - 2]
    return _with(lines, number, _flip(line, chance.choice(places), chance))


def _drop(lines: list[bytes], number: int, _: random.Random) -> list[bytes]:
    return [*lines[:number], *lines[number + 1 :]]


def _duplicate(lines: list[bytes], number: int, _: random.Random) -> list[bytes]:
    return [*lines[: number + 1], *lines[number:]]


def _swap(lines: list[bytes], number: int, _: random.Random) -> list[bytes] | None:
    if number + 1 == len(lines):
        return None
    return [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]


def _move(lines: list[bytes], number: int, chance: random.Random) -> list[bytes] | None:
    """Move an entry to a later place."""
    if number + 2 >= len(lines):
        return None
    rest = _drop(lines, number, chance)
    place = chance.randrange(number + 1, len(rest) + 1)
    return [*rest[:place], lines[number], *rest[place:]]


def _insert(lines: list[bytes], number: int, chance: random.Random) -> list[bytes]:
    """Put a copy of another entry in, with the index that fits here and a hash that fits it."""
    other = entry_of(chance.choice(lines))
    forged = re.sub(rb'^\{"index":\d+', b'{"index":%d' % number, other)
    return [*lines[:number], line_of(forged), *lines[number:]]


def _truncate(lines: list[bytes], number: int, _: random.Random) -> list[bytes]:
    return lines[:number]


def _cut_line(lines: list[bytes], number: int, chance: random.Random) -> list[bytes]:
    """End the file in the middle of a line."""
    return [*lines[:number], lines[number][: chance.randrange(1, len(lines[number]))]]


def _respell(lines: list[bytes], number: int, chance: random.Random) -> list[bytes]:
    """Write the same value in another way, with a hash that fits the new spelling."""
    entry = entry_of(lines[number])
    spellings = [(b",", b", "), (b":", b" :"), (b"{", b"{ "), (b'"generation":0', b'"generation":-0')]
    spelling = chance.choice([one for one in spellings if one[0] in entry])
    return _with(lines, number, line_of(entry.replace(*spelling, 1)))


def _respell_only(lines: list[bytes], number: int, _: random.Random) -> list[bytes]:
    """Write the same value in another way, under the recorded hash."""
    entry = entry_of(lines[number])
    return _with(lines, number, lines[number].replace(entry, entry.replace(b",", b", ", 1)))


def _edit(lines: list[bytes], number: int, chance: random.Random) -> list[bytes] | None:
    """Change a number in an entry, and fit the recorded hash."""
    entry = entry_of(lines[number])
    digits = [match for match in re.finditer(rb":(\d+)[,}]", entry) if match.start() > len(b'{"index":')]
    chosen = chance.choice(digits)
    changed = b"%d" % (int(chosen[1]) + chance.choice((1, 7, 1_000)))
    return _with(lines, number, line_of(entry[: chosen.start(1)] + changed + entry[chosen.end(1) :]))


def _exchange(lines: list[bytes], number: int, chance: random.Random) -> list[bytes] | None:
    """Replace what an entry says by what another one says, with index, time and hash that fit."""
    entry, other = entry_of(lines[number]), entry_of(chance.choice(lines))
    head = re.match(rb'\{"index":\d+,"at_ms":\d+,"generation":\d+,"body":', entry)
    tail = re.match(rb'\{"index":\d+,"at_ms":\d+,"generation":\d+,"body":', other)
    if head is None or tail is None or entry[head.end() :] == other[tail.end() :]:
        return None
    return _with(lines, number, line_of(entry[: head.end()] + other[tail.end() :]))


def _here(number: int) -> set[int]:
    return {number}


def _after(number: int) -> set[int]:
    return {number + 1}


def _either(number: int) -> set[int]:
    return {number, number + 1}


TAMPERINGS: tuple[Tampering, ...] = (
    Tampering("a bit of the entry flipped", _flip_entry, _here),
    Tampering("a digit of the recorded hash changed", _flip_leaf, _here),
    Tampering("a bit of the line's frame flipped", _flip_frame, _here),
    Tampering("dropped", _drop, _here),
    Tampering("duplicated", _duplicate, _after),
    Tampering("swapped with the next", _swap, _here),
    Tampering("moved to a later place", _move, _here),
    Tampering("a forged one inserted", _insert, _either),
    Tampering("everything from here on cut off", _truncate, _here),
    Tampering("cut off in the middle of the line", _cut_line, _here),
    Tampering("spelled differently, with its hash", _respell, _here),
    Tampering("spelled differently, under its old hash", _respell_only, _here),
    Tampering("a number changed, with its hash", _edit, None),
    Tampering("replaced by another, with its hash", _exchange, None),
)
