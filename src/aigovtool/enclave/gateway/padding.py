"""Answers of a few sizes only, where a model's terms ask for it: what is sent is as long as what others are sent.

A body is filled with spaces before the last brace of its JSON part, which every reader of JSON takes, up to a power of
two or, from 4 MiB on, a multiple of that. The head is filled on its own, by a header of its own, to a multiple of
`HEAD_BYTES`: the receipt and the numbers in other headers have no fixed length. So of one model there are at most as
many lengths on the wire as there are sizes of bodies.

It hides neither how long the answer took, nor how many there are, nor what was asked, nor that one was refused.
"""

from dataclasses import replace
from typing import Final

from aigovtool.limits import MAX_INFER_JSON_BYTES, MAX_PADDING_BYTES
from aigovtool.protocol.infer_body import InferBody, json_too_large

#: Header whose value is nothing but as long as it has to be.
PADDING_HEADER: Final = "aigovtool-padding"
#: Our headers take 2.6 KiB at most where no name is longer than names may be; clients take 8 KiB at least.
HEAD_BYTES: Final = 4 << 10


def padded_size(size_bytes: int, least_bytes: int) -> int:
    """Return the smallest size that a body of `size_bytes` may be sent with."""
    if size_bytes > MAX_PADDING_BYTES:
        return -(-size_bytes // MAX_PADDING_BYTES) * MAX_PADDING_BYTES
    return max(least_bytes, 1 << max(0, size_bytes - 1).bit_length())


def padded(body: InferBody, least_bytes: int) -> InferBody:
    """Return the same answer in one of the sizes.

    Raises:
        TooLargeError: its JSON would be longer than clients read (`json_too_large`).
    """
    head = bytes(body.parts[0])
    spaces = padded_size(body.size_bytes, least_bytes) - body.size_bytes
    if len(head) + spaces > MAX_INFER_JSON_BYTES:
        raise json_too_large(len(head) + spaces)
    filled = head[:-1] + b" " * spaces + head[-1:]
    length = None if body.header_length is None else len(filled)
    return replace(body, parts=(filled, *body.parts[1:]), header_length=length)


def head_padding(size_bytes: int) -> str:
    """Return the header line that fills lines of such a length up to a multiple of `HEAD_BYTES`."""
    filling = -(size_bytes + len(f"{PADDING_HEADER}: \r\n")) % HEAD_BYTES
    return f"{PADDING_HEADER}: {'0' * filling}\r\n"
