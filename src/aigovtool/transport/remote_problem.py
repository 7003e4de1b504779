"""A peer's problem+json (RFC 9457) back into the error that it was.

The peer is not trusted: the document is bounded, its text loses everything that a terminal would act on, and
its code only selects a class of `aigovtool.errors`. A class decides status and exit code here, not the peer.
What cannot be read becomes an error chosen by the HTTP status alone. Members that are not known are ignored,
because RFC 9457 section 3.2 makes readers ignore them; the strict codec still bounds depth and size.

It does not decide whether to try again.
"""

import re
from collections.abc import Iterator
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from aigovtool import errors
from aigovtool.codec import convert, decode
from aigovtool.errors import AIGovToolError, InputError

#: Our own documents are under 2 KiB.
MAX_PROBLEM_BYTES: Final = 16 << 10
_MAX_TEXT_CHARS: Final = 1_000
_REASON_RE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RETRY_AFTER_RE: Final = re.compile(r"[0-9]{1,6}")


class _Problem(Struct, frozen=True, kw_only=True):
    """The members that we read; not a strict `Message`, see above."""

    code: str
    detail: str = ""
    reason: str | None = None
    fix: str | None = None


def _tree(root: type[AIGovToolError]) -> Iterator[type[AIGovToolError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _tree(kind)


#: Classes by code. Where a class inherits its parent's code, the parent (found first) stands.
_KINDS: Final[list[type[AIGovToolError]]] = [AIGovToolError, *_tree(AIGovToolError)]
_BY_CODE: Final = MappingProxyType({kind.code: kind for kind in reversed(_KINDS)})

_BY_STATUS: Final[MappingProxyType[int, type[AIGovToolError]]] = MappingProxyType(
    {
        400: errors.MalformedError,
        401: errors.UnauthenticatedError,
        402: errors.BudgetExhaustedError,
        403: errors.ForbiddenError,
        404: errors.NotFoundError,
        409: errors.ConflictError,
        413: errors.TooLargeError,
        415: errors.UnsupportedMediaError,
        422: errors.InvalidValueError,
        429: errors.OverloadedError,
        503: errors.UnreachableError,
        504: errors.DeadlineError,
    }
)


def error_from_problem(status: int, body: bytes, *, retry_after: str | None = None) -> AIGovToolError:
    """Return (not raise) the error that a peer answered with.

    Args:
        status: the HTTP status of the answer, which is not a success.
        body: at most `MAX_PROBLEM_BYTES` of the answer; more counts as unreadable.
        retry_after: the Retry-After header, if there was one; only whole seconds are read.
    """
    wait_s = int(retry_after) if retry_after is not None and _RETRY_AFTER_RE.fullmatch(retry_after) else None
    try:
        problem = convert(decode(body, object, max_bytes=MAX_PROBLEM_BYTES), _Problem)
    except InputError:
        return _unreadable(status, wait_s)
    kind = _BY_CODE.get(problem.code)
    if kind is None or kind is AIGovToolError:
        return _unreadable(status, wait_s, detail=problem.detail)
    reason = problem.reason if problem.reason is not None and _REASON_RE.fullmatch(problem.reason) else None
    return kind(
        _plain(problem.detail) or kind.code,
        reason=reason,
        fix=None if problem.fix is None else _plain(problem.fix),
        retry_after_s=wait_s,
    )


def _unreadable(status: int, wait_s: int | None, detail: str = "") -> AIGovToolError:
    kind = _BY_STATUS.get(status, errors.FaultError)
    said = f": {_plain(detail)}" if detail else " and no readable explanation"
    return kind(f"the peer answered with status {status}{said}", reason="peer_refused", retry_after_s=wait_s)


def _plain(text: str) -> str:
    """Return the text without line breaks, terminal escapes or direction marks."""
    return "".join(character if character.isprintable() else "?" for character in text[:_MAX_TEXT_CHARS])
