"""Edits of bytes that know nothing of their structure but numbers that might be lengths."""

from random import Random

_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def flip(data: bytes, chance: Random) -> bytes:
    """Flip bits of a few bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        changed[chance.randrange(len(changed))] ^= chance.randrange(1, 256)
    return bytes(changed)


def insert(data: bytes, chance: Random) -> bytes:
    """Put bytes in."""
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.randbytes(chance.choice((1, 2, 4, 32, 700))) + data[at:]


def delete(data: bytes, chance: Random) -> bytes:
    """Take bytes out."""
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.choice((1, 2, 4, 32, 700)) :]


def truncate(data: bytes, chance: Random) -> bytes:
    """End early."""
    return data[: chance.randrange(len(data))]


def repeat(data: bytes, chance: Random) -> bytes:
    """Say a piece, or everything, twice."""
    if chance.random() < 0.2:
        return data + data
    start = chance.randrange(len(data))
    end = start + chance.choice((1, 4, 48, 500))
    return data[:end] + data[start:]


def swap(data: bytes, chance: Random) -> bytes:
    """Exchange two fields of one size."""
    size = chance.choice((1, 2, 4, 8, 16, 32, 48, 64))
    if len(data) < 2 * size:
        return flip(data, chance)
    first = chance.randrange(len(data) - 2 * size + 1)
    second = chance.randrange(first + size, len(data) - size + 1)
    one, other = data[first : first + size], data[second : second + size]
    return data[:first] + other + data[first + size : second] + one + data[second + size :]


def zero(data: bytes, chance: Random) -> bytes:
    """Fill a field with zeros or ones."""
    at, size = chance.randrange(len(data)), chance.choice((1, 2, 4, 8, 32, 48, 96))
    filling = chance.choice((b"\0", b"\xff")) * min(size, len(data) - at)
    return data[:at] + filling + data[at + len(filling) :]


def lie(data: bytes, chance: Random) -> bytes:
    """Change a number that might be a length: of what follows it, or any; in either order of bytes."""
    size = chance.choice((1, 2, 2, 4, 4))
    order = chance.choice(("big", "little"))
    at = chance.randrange(max(1, len(data) - size))
    for _ in range(64):  # numbers that fit into what follows are more likely to be lengths
        place = chance.randrange(max(1, len(data) - size))
        number = int.from_bytes(data[place : place + size], order)  # type: ignore[arg-type]
        if 8 <= number <= len(data) - place:
            at = place
            break
    number = int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]
    told = chance.choice((number - 1, number + 1, 2 * number, *_EDGES)) % (1 << 8 * size)
    return data[:at] + told.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


EDITS = (flip, insert, delete, truncate, repeat, swap, zero, lie)


def edit(data: bytes, chance: Random) -> bytes:
    """Make one of these edits; of nothing, something."""
    return chance.choice(EDITS)(data, chance) if data else chance.randbytes(4)
