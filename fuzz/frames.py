"""Several parts of evidence as one input, which is what a fuzzer knows: a length of 4 bytes before each."""

from collections.abc import Sequence


def framed(parts: Sequence[bytes]) -> bytes:
    """Return the one input."""
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def unframed(data: bytes) -> tuple[bytes, ...]:
    """Return the parts; any input is some: a length that is too long means the rest."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return tuple(found)
