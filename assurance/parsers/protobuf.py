"""Edits of protocol buffers that keep the lengths of everything around right, so that what is wrong lies deep inside.

What a field of bytes holds is taken for a message where it can be read as one, as nobody says here which it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from conformance.malformed import edits

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_DEPTH = 12
#: Field numbers beyond this are none of a message that is edited here, but a sign that bytes are no message.
_MOST = 40
_NUMBERS = (0, 1, 2, 7, 8, 13, 16, 127, 128, 2**31, 2**32, 2**32 + 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**70)


@dataclass
class Node:
    """One field: a number, bytes, or a message; `head` stands in place of its tag and length, if they are wrong."""

    number: int
    wire: int
    value: int = 0
    content: bytes = b""
    inside: list[Node] = field(default_factory=list)
    head: bytes | None = None

    def written(self) -> bytes:
        """Return its encoding."""
        tag = varint(self.number << 3 | self.wire)
        if self.wire == _VARINT:
            return (self.head or tag) + varint(self.value)
        content = b"".join(node.written() for node in self.inside) if self.inside else self.content
        if self.head is not None:
            return self.head + content
        return tag + (varint(len(content)) if self.wire == _LEN else b"") + content

    def all(self) -> list[Node]:
        """Return it and everything inside."""
        return [self, *(node for part in self.inside for node in part.all())]


def varint(value: int) -> bytes:
    """Return a number in its shortest encoding."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def read(data: bytes, depth: int = _DEPTH) -> list[Node] | None:
    """Return the fields that `data` is; None if it is no message."""
    found: list[Node] = []
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        number, wire = tag >> 3, tag & 7
        if at < 0 or not 1 <= number <= _MOST or wire not in {_VARINT, _I64, _LEN, _I32}:
            return None
        node = Node(number, wire)
        if wire in {_VARINT, _LEN}:
            node.value, at = _number(data, at)
        if wire != _VARINT:
            size = {_I64: 8, _I32: 4}.get(wire, node.value)
            node.content = data[at : at + size]
            at = at + size if len(node.content) == size else -1
            node.inside = (read(node.content, depth - 1) or []) if wire == _LEN and size > 1 and depth else []
        if at < 0:
            return None
        found.append(node)
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends, or -1 if it does not."""
    value = 0
    for index, byte in enumerate(data[at : at + 10] if at >= 0 else b""):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    return 0, -1


def edit(data: bytes, chance: Random) -> bytes:
    """Change one field, or how it is written; what is no message is changed as bytes."""
    nodes = read(data)
    if not nodes:
        return edits.edit(data, chance)
    root = Node(0, _LEN, inside=nodes, head=b"")
    chosen = chance.choice([node for part in nodes for node in part.all()])
    chance.choice(_EDITS)(chosen, root, chance)
    return root.written()


def _content(node: Node, _: Node, chance: Random) -> None:
    if node.wire == _VARINT:
        node.value = chance.choice(_NUMBERS)
    else:
        node.content, node.inside = edits.edit(node.written()[2:] if node.inside else node.content, chance), []


def _text(node: Node, _: Node, chance: Random) -> None:
    if node.wire == _LEN:
        text = (
            "",
            "x",
            "n" * 1025,
            "\n",
            "\u202e",
            "ai.onnx",
            "com.evil",
            "EPContext",
            "../w",
            "/etc/passwd",
            "é",
            "-1",
        )
        node.content, node.inside = chance.choice((*(one.encode() for one in text), b"\xff", b"external_data")), []


def _tag(node: Node, _: Node, chance: Random) -> None:
    node.number = chance.choice((node.number + 1, max(1, node.number - 1), 1, 2, 20, 25, 26, 39, 1 << 28))


def _wire(node: Node, _: Node, chance: Random) -> None:
    content = node.written()[2:]
    node.wire, node.inside = chance.choice((_VARINT, _I64, _LEN, _I32)), []
    node.content = content.ljust(8, b"\1")[: {_I64: 8, _I32: 4}.get(node.wire, len(content))]


def _group(node: Node, _: Node, chance: Random) -> None:
    node.head = varint(node.number << 3 | chance.choice((3, 4, 6, 7)))


def _long(node: Node, _: Node, chance: Random) -> None:
    """Write tag, length or number in more bytes than necessary."""
    size = len(b"".join(one.written() for one in node.inside) if node.inside else node.content)
    tag = varint(node.number << 3 | node.wire)
    if chance.random() < 0.5:
        tag = tag[:-1] + bytes([tag[-1] | 0x80]) + b"\x80" * chance.choice((0, 1, 6, 9)) + b"\0"
    node.head = tag + (varint(size)[:-1] + bytes([varint(size)[-1] | 0x80, 0]) if node.wire == _LEN else b"")


def _lie(node: Node, _: Node, chance: Random) -> None:
    if node.wire == _LEN:
        size = len(b"".join(one.written() for one in node.inside) if node.inside else node.content)
        node.head = varint(node.number << 3 | _LEN) + varint(max(0, chance.choice((size - 1, size + 1, 2**31, 2**63))))


def _drop(node: Node, root: Node, _: Random) -> None:
    for parent in root.all():
        parent.inside = [one for one in parent.inside if one is not node] or parent.inside[:0]


def _repeat(node: Node, root: Node, chance: Random) -> None:
    for parent in root.all():
        if any(one is node for one in parent.inside):
            times = chance.choice((1, 1, 2, 70, 3000)) if len(node.content) < 64 else 1
            at = chance.randrange(len(parent.inside) + 1)
            parent.inside[at:at] = [node] * times
            return


def _order(node: Node, root: Node, chance: Random) -> None:
    chance.shuffle((node.inside or root.inside) if node.inside else root.inside)


def _move(node: Node, root: Node, chance: Random) -> None:
    """Put it, or a copy, somewhere else."""
    places = [one for one in root.all() if one.inside and not any(within is one for within in node.all())]
    if places:
        chance.choice(places).inside.append(Node(node.number, node.wire, node.value, node.content, node.inside))


def _deepen(node: Node, _: Node, chance: Random) -> None:
    """Put it into itself, a few times or often: into field 6 of field 5 of field 1, as ONNX nests graphs."""
    content = node.written()
    for _times in range(chance.choice((1, 3, 6, 20, 60))):
        content = Node(1, _LEN, inside=[Node(5, _LEN, inside=[Node(6, _LEN, content=content)])]).written()
    node.wire, node.inside, node.content = _LEN, [], content


_EDITS = (_content, _content, _text, _tag, _wire, _group, _long, _lie, _drop, _repeat, _order, _move, _deepen)
