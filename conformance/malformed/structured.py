"""Edits of what has a structure: JSON, CBOR, PEM, certificate tables, and the numbers before them.

What lies inside (a certificate in PEM in text of JSON) is edited by its own kind, and everything around it is written
anew, so that an edit reaches the reader that it is for.
"""

import json
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Callable
from random import Random
from typing import Any

import cbor2

from conformance.malformed import der, edits

_BEGIN = b"-----BEGIN "
#: Large enough for every limit of a reader, and small enough that what this program takes is not what is measured.
_MOST_BYTES = 1 << 20
_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**53,
    2**64,
    1e308,
    "",
    "0",
    "\0",
    "x" * 3000,
    [],
    {},
    [[]],
    {"": 0},
)


def edit(data: bytes, chance: Random) -> bytes:
    """Change one thing, by a kind that `data` is seen to be, or as bytes."""
    return edits.edit(data, chance) if not data or chance.random() < 0.15 else _kind(data)(data, chance)


def _kind(data: bytes) -> Callable[[bytes, Random], bytes]:
    if data.startswith(_BEGIN):
        return pem
    if data.startswith(b"{"):
        return text_of_json
    if data.startswith((b"0\x82", b"0\x81")):
        return der.edit
    if data[0] >> 5 in {4, 5} and data[0] & 0x1F < 24 and len(data) > 500:
        return cbor
    return around_pem if _BEGIN in data else edits.edit


def pem(data: bytes, chance: Random) -> bytes:
    """Change one of several blocks, their order, or how they are written."""
    blocks = [_BEGIN + block for block in data.split(_BEGIN)[1:]] or [data]
    number = chance.randrange(len(blocks))
    match chance.randrange(6):
        case 0:
            chance.shuffle(blocks)
        case 1:
            blocks.insert(number, blocks[chance.randrange(len(blocks))])
        case 2:
            blocks[number] = edits.edit(blocks[number], chance)
        case 3:
            blocks[number] = blocks[number].replace(b"\n", chance.choice((b"\r\n", b"\n\n", b" \n", b"")), 3)
        case _:
            blocks[number] = _block(blocks[number], chance)
    return b"".join(blocks)


def _block(block: bytes, chance: Random) -> bytes:
    lines = block.split(b"\n")
    try:
        changed = der.edit(b64decode(b"".join(lines[1:-2]), validate=True), chance)
    except (Error, ValueError):
        return edits.edit(block, chance)
    text = b64encode(changed)
    body = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"\n".join([lines[0], *body, *lines[-2:]])


def around_pem(data: bytes, chance: Random) -> bytes:
    """Change a chain that lies within numbers and bytes, with the lengths before it made right again.

    A number before it that says how many bytes follow, to its end or to the end of everything, is such a length.
    """
    start = data.index(_BEGIN)
    end = data.rfind(b"-----\n") + 6
    if _BEGIN not in data[start:end] or chance.random() < 0.4:
        return edits.edit(data[:start], chance) + data[start:]
    chain = pem(data[start:end], chance)
    head = bytearray(data[:start])
    for at in range(max(0, start - 1300), start - 3):
        told = int.from_bytes(head[at : at + 4], "little")
        if told > len(data) // 4 and told in {len(data.rstrip(b"\0")) - at - 4 + zeros for zeros in range(3)}:
            head[at : at + 4] = (told + len(chain) - (end - start)).to_bytes(4, "little", signed=False)
    return bytes(head) + chain + data[end:]


def text_of_json(data: bytes, chance: Random) -> bytes:
    """Change a value, a member, or the writing of a document."""
    try:
        document = json.loads(data)
    except ValueError:
        return edits.edit(data, chance)
    match chance.randrange(8):
        case 0:
            return json.dumps(document, indent=chance.choice((None, 1))).encode()
        case 1:
            return data[:-1] + b"," + data[1:]  # every member twice
        case 2:
            return b"[" * chance.choice((1, 50, 5000)) + data
        case 3:
            text = data.decode(errors="replace")
            return text.replace(
                chance.choice('"e01'), chance.choice(("\\u0022", "\\ud800", "\x00", "\u00e9")), 1
            ).encode()
        case _:
            return json.dumps(changed(document, chance), separators=(",", ":"), allow_nan=True).encode()


def changed(item: Any, chance: Random) -> Any:  # noqa: ANN401 - any JSON
    """Return an item of JSON or CBOR with one thing in it changed."""
    if isinstance(item, dict) and item and chance.random() < 0.95:
        return _of_members(item, chance)
    if isinstance(item, list) and item and chance.random() < 0.9:
        return _of_items(item, chance)
    if isinstance(item, str) and item and chance.random() < 0.8:
        return _text(item, chance)
    if isinstance(item, bytes) and item and chance.random() < 0.9:
        return edit(item, chance)
    if isinstance(item, int) and not isinstance(item, bool) and chance.random() < 0.6:
        return chance.choice((item + 1, -item, item ^ 1 << chance.randrange(64), 0))
    return chance.choice(_VALUES)


def _of_members(item: dict[Any, Any], chance: Random) -> dict[Any, Any]:
    name = chance.choice(list(item))
    match chance.randrange(9):
        case 0:
            return {key: value for key, value in item.items() if key != name}
        case 1:
            return {(chance.choice(("", "x", f"{key} ", 2**40)) if key == name else key): item[key] for key in item}
        case 2:
            other = chance.choice(list(item))
            return {**item, name: item[other], other: item[name]}
        case 3:
            return dict(chance.sample(list(item.items()), len(item)))
        case 4:
            return {**item, chance.choice(("more", "", "__proto__")): chance.choice(_VALUES)}
        case _:
            return {**item, name: changed(item[name], chance)}


def _of_items(item: list[Any], chance: Random) -> list[Any]:
    at = chance.randrange(len(item))
    match chance.randrange(6):
        case 0:
            return [*item[:at], *item[at + 1 :]]
        case 1:
            return [*item, item[at]]
        case 2:
            return item[::-1]
        case 3:
            return item * _times(chance.choice((2, 40, 400)), item)
        case _:
            return [*item[:at], changed(item[at], chance), *item[at + 1 :]]


def _times(wanted: int, item: list[Any]) -> int:
    """Return how often a list is repeated: several edits of one document would multiply."""
    return max(2, min(wanted, _MOST_BYTES // max(1, len(repr(item)))))


def _text(text: str, chance: Random) -> str:
    """Change what is in a text: PEM, JSON, hexadecimal or base64 of something."""
    ways: list[Callable[[], str]] = [lambda: edits.edit(text.encode(errors="replace"), chance).decode(errors="replace")]
    if text.startswith(("-----BEGIN ", "{")):
        ways.append(lambda: edit(text.encode(errors="replace"), chance).decode(errors="replace"))
    elif len(text) % 2 == 0 and set(text) <= set("0123456789abcdef"):
        ways += [lambda: edit(bytes.fromhex(text), chance).hex(), text.upper]
    elif len(text) % 4 == 0 and len(text) > 40:
        ways.append(lambda: b64encode(edit(b64decode(text), chance)).decode())
    try:
        return chance.choice(ways)()
    except (Error, ValueError):
        return ways[0]()


def cbor(data: bytes, chance: Random) -> bytes:
    """Change an item of a COSE structure or of its payload, or how it is written."""
    if not data or chance.random() < 0.3:
        return loosely(data or b"\0", chance)
    try:
        item = cbor2.loads(data)
        if isinstance(item, list) and len(item) == 4 and isinstance(item[2], bytes) and chance.random() < 0.7:
            item[2] = cbor(item[2], chance)
        else:
            item = changed(item, chance)
        return bytes(cbor2.dumps(item))
    # What was changed before need not be CBOR any more, and what it was changed to need not have an encoding.
    except (cbor2.CBORError, ValueError, TypeError, OverflowError):
        return edits.edit(data, chance)


def loosely(data: bytes, chance: Random) -> bytes:
    """Write the same in a way that is not the only one."""
    match chance.randrange(6):
        case 0:
            return bytes([data[0] & 0xE0 | 0x1F]) + data[1:] + b"\xff"
        case 1:
            return bytes([data[0] & 0xE0 | 24, data[0] & 0x1F]) + data[1:]
        case 2:
            return chance.choice((b"\xd2", b"\xd9\xd9\xf7", b"\xc1", b"\xd8\x1c")) + data
        case 3:
            return data + chance.choice((b"\0", b"\xff", data))
        case 4:
            return b"\x81" * chance.choice((1, 4, 4000)) + data
        case _:
            return edits.edit(data, chance)
