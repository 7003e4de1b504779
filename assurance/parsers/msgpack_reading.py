"""MessagePack, read by hand from its specification, and written in any of its ways (github.com/msgpack/msgpack).

Numbers keep their type, texts and bytes are two things, and a map is a list of pairs: nothing is lost that a reader
could take for something else.
"""

from random import Random
from struct import pack, unpack
from typing import Any, Final

_DEPTH: Final = 64


class NotMsgpackError(Exception):
    """The bytes are no single MessagePack object."""


class Pairs(list[tuple[Any, Any]]):
    """A map, with its pairs in the order in which they stand."""

    def last(self) -> dict[Any, Any]:
        """Return the last value of each key.

        Raises:
            NotMsgpackError: a key is no text.
        """
        if not all(isinstance(name, str) for name, _ in self):
            raise NotMsgpackError("a key that is no text")
        return dict(self)


def by_hand(data: bytes) -> Any:  # noqa: ANN401 - any object
    """Return the object that `data` is.

    Raises:
        NotMsgpackError: it is none, or something follows it.
    """
    reader = _Reader(data)
    found = reader.object(0)
    if reader.at != len(data):
        raise NotMsgpackError("something follows")
    return found


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data: Final = data
        self.at = 0

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise NotMsgpackError("it is cut")
        self.at += size
        return self._data[self.at - size : self.at]

    def _size(self, width: int) -> int:
        return int.from_bytes(self._take(width))

    def object(self, depth: int) -> Any:  # noqa: ANN401, C901, PLR0911, PLR0912 - one line for each kind
        (first,) = self._take(1)
        if depth > _DEPTH:
            raise NotMsgpackError("too deep")
        match first:
            case _ if first < 0x80:
                return first
            case _ if first < 0x90:
                return self._pairs(first & 0x0F, depth)
            case _ if first < 0xA0:
                return self._items(first & 0x0F, depth)
            case _ if first < 0xC0:
                return self._text(first & 0x1F)
            case 0xC0:
                return None
            case 0xC2 | 0xC3:
                return first == 0xC3
            case 0xC4 | 0xC5 | 0xC6:
                return self._take(self._size(1 << first - 0xC4))
            case 0xCA | 0xCB:
                return float(unpack(">f" if first == 0xCA else ">d", self._take(4 if first == 0xCA else 8))[0])
            case 0xCC | 0xCD | 0xCE | 0xCF:
                return self._size(1 << first - 0xCC)
            case 0xD0 | 0xD1 | 0xD2 | 0xD3:
                return int.from_bytes(self._take(1 << first - 0xD0), signed=True)
            case 0xD9 | 0xDA | 0xDB:
                return self._text(self._size(1 << first - 0xD9))
            case 0xDC | 0xDD:
                return self._items(self._size(2 << first - 0xDC), depth)
            case 0xDE | 0xDF:
                return self._pairs(self._size(2 << first - 0xDE), depth)
            case _ if first >= 0xE0:
                return first - 0x100
            case _:
                raise NotMsgpackError("an extension, or a sign that means nothing")

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise NotMsgpackError("not UTF-8") from None

    def _items(self, size: int, depth: int) -> list[Any]:
        return [self.object(depth + 1) for _ in range(min(size, len(self._data) - self.at + 1))]

    def _pairs(self, size: int, depth: int) -> Pairs:
        count = min(size, len(self._data) - self.at + 1)
        return Pairs((self.object(depth + 1), self.object(depth + 1)) for _ in range(count))


def written(value: Any, chance: Random) -> bytes:  # noqa: ANN401, PLR0911 - any object, one by one
    """Return an object, mostly as short as it can be, sometimes in another way."""
    wide = chance.random() < 0.1
    match value:
        case None | False | True:
            return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
        case int():
            return _integer(value, wide=wide)
        case float():
            return b"\xcb" + pack(">d", value)
        case str():
            data = value.encode("utf-8", "surrogatepass")
            return _sized(len(data), b"\xd9\xda\xdb", None if wide or len(data) > 31 else 0xA0) + data
        case bytes():
            return _sized(len(value), b"\xc4\xc5\xc6", None) + value
        case Pairs():
            return _counted(len(value), b"\xde\xdf", 0x80, wide=wide) + b"".join(
                written(one, chance) for pair in value for one in pair
            )
        case dict():
            return written(Pairs(value.items()), chance)
        case _:
            return _counted(len(value), b"\xdc\xdd", 0x90, wide=wide) + b"".join(written(one, chance) for one in value)


def _integer(value: int, *, wide: bool) -> bytes:
    value = max(-(1 << 63), min(value, (1 << 64) - 1))
    if 0 <= value < 0x80 and not wide:
        return bytes([value])
    if value < 0:
        return b"\xd3" + value.to_bytes(8, signed=True)
    return b"\xcf" + value.to_bytes(8)


def _sized(size: int, signs: bytes, short: int | None) -> bytes:
    if short is not None:
        return bytes([short | size])
    at = 0 if size < 1 << 8 else 1 if size < 1 << 16 else 2
    return signs[at : at + 1] + size.to_bytes(1 << at)


def _counted(size: int, signs: bytes, short: int, *, wide: bool) -> bytes:
    if size < 16 and not wide:
        return bytes([short | size])
    at = 0 if size < 1 << 16 else 1
    return signs[at : at + 1] + size.to_bytes(2 << at)
