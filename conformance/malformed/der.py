"""Edits of DER that keep the lengths of everything around right, so that what is wrong lies deep inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from conformance.malformed import edits

_CONSTRUCTED = 0x20
_DEPTH = 24


@dataclass
class Node:
    """One element: its tag, and either elements or bytes inside; `head` in place of its own head, if it is wrong."""

    tag: int
    inside: list[Node] = field(default_factory=list)
    content: bytes = b""
    head: bytes | None = None

    def written(self) -> bytes:
        """Return its encoding."""
        content = b"".join(node.written() for node in self.inside) if self.inside else self.content
        return (bytes([self.tag]) + length(len(content)) if self.head is None else self.head) + content

    def all(self) -> list[Node]:
        """Return it and everything inside."""
        return [self, *(node for part in self.inside for node in part.all())]


def length(size: int) -> bytes:
    """Return a length in its only encoding."""
    if size < 0x80:
        return bytes([size])
    octets = size.to_bytes(-(-size.bit_length() // 8))
    return bytes([0x80 | len(octets)]) + octets


def read(data: bytes, depth: int = _DEPTH) -> list[Node] | None:
    """Return the elements that `data` is, one after the other; None if it is no DER."""
    found: list[Node] = []
    at = 0
    while at < len(data):
        if len(data) - at < 2 or data[at] & 0x1F == 0x1F:
            return None
        size, start = data[at + 1], at + 2
        if size > 0x84 or size == 0x80:
            return None
        if size > 0x80:
            start += size - 0x80
            size = int.from_bytes(data[at + 2 : start])
        content = data[start : start + size]
        if len(content) != size:
            return None
        # What is in a string may be DER, too: the extensions of certificates, and keys.
        skip = 1 if data[at] == 0x03 and content[:1] == b"\0" else 0
        nested = data[at] & _CONSTRUCTED or (data[at] == 0x04 and size > 2)
        inside = read(content, depth - 1) if nested and depth and not skip else None
        found.append(Node(data[at], inside or [], content))
        at = start + size
    return found


def edit(data: bytes, chance: Random) -> bytes:
    """Change one element, or how it is written; what is no DER is changed as bytes."""
    nodes = read(data)
    if not nodes:
        return edits.edit(data, chance)
    root = Node(0, nodes, head=b"")
    chosen = chance.choice([node for part in nodes for node in part.all()])
    chance.choice((_tag, _content, _number, _order, _repeat, _drop, _wrap, _long, _indefinite, _lie))(chosen, chance)
    return root.written()


def _tag(node: Node, chance: Random) -> None:
    node.tag = chance.choice((node.tag ^ _CONSTRUCTED, chance.randrange(256), 0x02, 0x04, 0x05, 0x30, 0xA0, 0x17))


def _content(node: Node, chance: Random) -> None:
    node.content, node.inside = edits.edit(node.written()[2:] if node.inside else node.content, chance), []


def _number(node: Node, chance: Random) -> None:
    node.tag, node.inside = 0x02, []
    node.content = chance.choice(
        (b"", b"\0", b"\0\1", b"\xff\xff", b"\x80", b"\x7f" * 40, bytes(300), b"\1" + bytes(30))
    )


def _order(node: Node, chance: Random) -> None:
    if len(node.inside) > 1:
        chance.shuffle(node.inside)
    else:
        node.content = node.content[::-1]


def _repeat(node: Node, chance: Random) -> None:
    if node.inside:
        node.inside.insert(chance.randrange(len(node.inside) + 1), chance.choice(node.inside))
    else:
        node.content *= 2


def _drop(node: Node, chance: Random) -> None:
    if node.inside:
        node.inside.pop(chance.randrange(len(node.inside)))
    if not node.inside:
        node.content = b""


def _wrap(node: Node, chance: Random) -> None:
    """Put it into itself, a few times or very often."""
    content = node.written()
    tag = chance.choice((0x30, 0x31, 0xA0, 0x24))
    for _ in range(chance.choice((1, 2, 8, 200))):
        content = bytes([tag]) + length(len(content)) + content
    node.content, node.inside, node.head = content, [], b""


def _long(node: Node, _: Random) -> None:
    """Write the length in more bytes than necessary."""
    size = len(node.written())
    node.head = bytes([node.tag, 0x84]) + (size - 1 - len(length(size))).to_bytes(4)


def _indefinite(node: Node, _: Random) -> None:
    node.head = bytes([node.tag, 0x80])
    (node.inside[-1:] or [node])[0].content += b"\0\0"


def _lie(node: Node, chance: Random) -> None:
    size = len(node.content)
    node.head = bytes([node.tag]) + length(max(0, size + chance.choice((-1, 1, 2, 100, 2**31))))
