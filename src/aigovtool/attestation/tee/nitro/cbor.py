"""The part of CBOR that Nitro documents and requests use, in one encoding only (RFC 8949, sections 3 and 4.2.1).

Unsigned integers, byte and text strings, arrays, maps with such integers or text as keys, and null; definite lengths,
shortest heads, no key twice, nothing after the item. Everything else is refused: negative integers, tags, floats,
booleans, other simple values.

Why no library: cbor2 6.3 reads longer heads than necessary and ignores what follows the item, in its strictest mode
too, and it evaluates some twenty kinds of tags before its caller sees anything. The tests compare the two.
"""

from typing import Final, TypeAlias

from aigovtool.errors import MalformedError

Item: TypeAlias = "int | str | bytes | list[Item] | dict[int | str, Item] | None"

#: The deepest structure: an array of four, or a map of a map.
MAX_DEPTH: Final = 3

_NULL: Final = 0xF6
#: The smallest argument that may take so many bytes: below it there is a shorter head.
_SMALLEST: Final = {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}


def read(data: bytes) -> Item:
    """Return the one item that `data` encodes. The caller has bounded its length.

    Raises:
        MalformedError: reason `cbor`.
    """
    reader = _Reader(data)
    item = reader.item(MAX_DEPTH)
    if reader.left:
        raise _bad("bytes follow the item")
    return item


def write(item: Item) -> bytes:
    """Return the encoding of `item`; the members of a map keep their order."""
    match item:
        case None:
            return bytes([_NULL])
        case int():
            return _head(0, item)
        case bytes():
            return _head(2, len(item)) + item
        case str():
            encoded = item.encode()
            return _head(3, len(encoded)) + encoded
        case list():
            return _head(4, len(item)) + b"".join(map(write, item))
        case dict():
            return _head(5, len(item)) + b"".join(write(key) + write(value) for key, value in item.items())


class _Reader:
    """A position in bytes that are being read."""

    def __init__(self, data: bytes) -> None:
        self._data: Final = data
        self._next = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._next

    def item(self, depth: int) -> Item:
        initial = self._take(1)[0]
        if initial == _NULL:
            return None
        major = initial >> 5
        if major not in {0, 2, 3, 4, 5}:
            raise _bad(f"a kind of item that does not belong here ({initial:#04x})")
        argument = self._argument(initial & 0x1F)
        match major:
            case 0:
                return argument
            case 2:
                return self._take(argument)
            case 3:
                return self._text(argument)
            case _:
                if depth == 0:
                    raise _bad("a structure within too many others")
                return self._array(argument, depth - 1) if major == 4 else self._map(argument, depth - 1)

    def _take(self, count: int) -> bytes:
        if count > self.left:
            raise _bad("it ends within an item")
        self._next += count
        return self._data[self._next - count : self._next]

    def _argument(self, low: int) -> int:
        if low < 24:
            return low
        if low > 27:
            raise _bad("an indefinite length or a reserved head")
        size = 1 << (low - 24)
        value = int.from_bytes(self._take(size), "big")
        if value < _SMALLEST[size]:
            raise _bad("a head that is longer than necessary")
        return value

    def _text(self, count: int) -> str:
        try:
            return self._take(count).decode()
        except UnicodeDecodeError:
            raise _bad("text that is not UTF-8") from None

    def _array(self, count: int, depth: int) -> list[Item]:
        # Every item takes a byte at least, so the loop ends with the data, whatever the count says.
        return [self.item(depth) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[int | str, Item]:
        found: dict[int | str, Item] = {}
        for _ in range(count):
            key = self.item(0)
            if not isinstance(key, int | str):
                raise _bad("a key that is neither an unsigned integer nor text")
            if key in found:
                raise _bad("a key twice")
            found[key] = self.item(depth)
        return found


def _head(major: int, value: int) -> bytes:
    if not 0 <= value < 1 << 64:
        raise MalformedError("an integer that CBOR has no head for", reason="cbor")
    if value < 24:
        return bytes([major << 5 | value])
    size = next(size for size in (1, 2, 4, 8) if value < 1 << 8 * size)
    return bytes([major << 5 | 23 + size.bit_length()]) + value.to_bytes(size, "big")


def _bad(what: str) -> MalformedError:
    return MalformedError(f"not the strict CBOR that is used here: {what}", reason="cbor")
