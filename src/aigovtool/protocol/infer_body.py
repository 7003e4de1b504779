"""The body of an inference: a JSON part, then the bytes of the tensors that are sent in the binary form.

`Inference-Header-Content-Length` says where the JSON part ends. Without it the whole body is JSON.

Rules: both parts are bounded before anything else is done with them, the JSON part also in how many arrays and objects
it has; and the length has one spelling: decimal ASCII digits, no sign, no space, no leading zero.

What it does not do: reading either part; that is `oip`.

Source: https://github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aigovtool.errors import MalformedError, TooLargeError
from aigovtool.limits import MAX_INFER_BODY_BYTES, MAX_INFER_JSON_BYTES, MAX_INFER_JSON_LISTS
from aigovtool.protocol.tensor import Buffer, Tensor

#: The header that says how many bytes of a body are JSON; present exactly when a tensor is binary.
HEADER_LENGTH_NAME: Final = "Inference-Header-Content-Length"

_LENGTH_RE: Final = re.compile(r"0|[1-9][0-9]{0,9}")
# A string, also one without an end, in one match.
_STRING_RE: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


@dataclass(frozen=True, slots=True)
class InferBody:
    """A body to send: its parts in order (views, not copies) and the value of its length header, if any."""

    parts: tuple[Buffer, ...]
    header_length: int | None

    @property
    def content_type(self) -> str:
        """The media type of the body."""
        return "application/json" if self.header_length is None else "application/octet-stream"

    @property
    def size_bytes(self) -> int:
        """The length of the whole body."""
        return sum(memoryview(part).nbytes for part in self.parts)

    def joined(self) -> bytes:
        """Return the body in one piece, copied."""
        return b"".join(self.parts)


def split_body(body: bytes | memoryview, header_length: str | None, max_bytes: int) -> tuple[bytes, memoryview]:
    """Return the JSON part of `body`, copied, and a view of the rest.

    Args:
        body: the whole body, already without any content encoding.
        header_length: the value of the header as received, or None without the header.
        max_bytes: the bound on the whole body.

    Raises:
        TooLargeError: `body_too_large`, `json_too_large`, `too_many_lists`.
        MalformedError: `bad_header_length`.
    """
    view = memoryview(body).cast("B")
    if len(view) > max_bytes:
        raise TooLargeError(f"a body of {len(view)} bytes; at most {max_bytes} are read", reason="body_too_large")
    length = len(view)
    if header_length is not None:
        if _LENGTH_RE.fullmatch(header_length) is None or int(header_length) > len(view):
            raise MalformedError(
                f"{HEADER_LENGTH_NAME} is not a number of bytes of the body",
                reason="bad_header_length",
                fix="send the length of the JSON part in decimal digits",
            )
        length = int(header_length)
    if length > MAX_INFER_JSON_BYTES:
        raise json_too_large(length)
    head = bytes(view[:length])
    _check_lists(head)
    return head, view[length:]


def _check_lists(head: bytes) -> None:
    """Bound what a parser would make in one go. Brackets in strings are text, and cost nothing."""
    count = _brackets(head, 0, len(head))
    if count <= MAX_INFER_JSON_LISTS:  # nearly always, and fast
        return
    for string in _STRING_RE.finditer(head):
        count -= _brackets(head, *string.span())
    if count > MAX_INFER_JSON_LISTS:
        raise TooLargeError(
            f"JSON with {count} arrays and objects; at most {MAX_INFER_JSON_LISTS} are read",
            reason="too_many_lists",
            fix="send the data of a tensor flat, or in the binary form",
        )


def _brackets(text: bytes, start: int, end: int) -> int:
    return text.count(b"[", start, end) + text.count(b"{", start, end)


def join_body(head: bytes, tensors: Sequence[Tensor], binary: frozenset[str]) -> InferBody:
    """Return the body of the JSON part `head` and the data of those tensors that `binary` names.

    Raises:
        TooLargeError: `body_too_large`, `json_too_large`.
    """
    if len(head) > MAX_INFER_JSON_BYTES:
        raise json_too_large(len(head))
    data = [tensor.data for tensor in tensors if tensor.name in binary]
    body = InferBody((head, *data), len(head) if data else None)
    if body.size_bytes > MAX_INFER_BODY_BYTES:
        raise TooLargeError(
            f"a body of {body.size_bytes} bytes; at most {MAX_INFER_BODY_BYTES} are read", reason="body_too_large"
        )
    return body


def json_too_large(length: int) -> TooLargeError:
    """Return the refusal of a JSON part of `length` bytes or more."""
    return TooLargeError(
        f"{length} bytes of JSON; at most {MAX_INFER_JSON_BYTES} are read",
        reason="json_too_large",
        fix="send large tensors, and ask for large outputs, in the binary form",
    )
