"""Errors as problem+json (RFC 9457).

An error of ours becomes its own document. Anything else is a bug of ours, and becomes an opaque 500 with an
error id: the peer learns the id, the log gets the id, the exception's type and where it was raised, and
nobody gets its text, because a library's message may quote a key, a prompt or an output.
"""

import logging
from secrets import token_hex
from traceback import extract_tb
from typing import Final

from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from aigovtool.codec import encode
from aigovtool.errors import AIGovToolError, FaultError

MEDIA_TYPE: Final = "application/problem+json"
_TYPE_PREFIX: Final = "urn:aigovtool:error:"
_LOG: Final = logging.getLogger(__name__)


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The document. `error` repeats `detail` for Open Inference Protocol clients, which read only that.

    It is not a strict `Message`: RFC 9457 section 3.2 makes readers ignore members they do not know.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    error: str
    reason: str | UnsetType = UNSET
    fix: str | UnsetType = UNSET


def describe(error: AIGovToolError, *, status: int | None = None) -> Problem:
    """Return the document for `error`; `status` overrides the one of its class."""
    return Problem(
        type=_TYPE_PREFIX + error.code,
        title=error.code.replace("_", " ").capitalize(),
        status=error.status if status is None else status,
        detail=error.message,
        code=error.code,
        error=error.message,
        reason=UNSET if error.reason is None else error.reason,
        fix=UNSET if error.fix is None else error.fix,
    )


def problem_headers(error: AIGovToolError) -> dict[str, str]:
    """Return the header fields that go with the document of `error`."""
    headers = {"content-type": MEDIA_TYPE, "cache-control": "no-store", "x-content-type-options": "nosniff"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return headers


def problem(error: AIGovToolError, *, status: int | None = None) -> Response:
    """Return the response for an error of ours; `status` overrides the one of its class."""
    document = describe(error, status=status)
    return Response(encode(document), status_code=document.status, headers=problem_headers(error))


def unexpected(exception: BaseException) -> FaultError:
    """Log an exception that is not ours under a fresh error id, without its text, and return what to answer."""
    error_id = token_hex(8)
    frames = extract_tb(exception.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    _LOG.error("internal_error id=%s type=%s at=%s", error_id, type(exception).__qualname__, where)
    return FaultError(f"internal error {error_id}", reason="internal", fix="quote the error id to the administrator")


def wire_problem(error: AIGovToolError, *, status: int | None = None) -> bytes:
    """Return a whole HTTP/1.1 response that ends the connection, for errors below the application."""
    document = describe(error, status=status)
    body = encode(document)
    headers = {**problem_headers(error), "content-length": str(len(body)), "connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {document.status} {document.title}\r\n{lines}\r\n".encode("ascii") + body
