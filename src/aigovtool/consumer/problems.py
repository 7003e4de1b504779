"""Refusals of a server, turned back into the errors that it raised (RFC 9457, `transport.problem`).

1. Only an answer of content type `application/problem+json` is read, bounded and by the strict parser.
2. `code` selects the class from `aigovtool.errors`; status and document must agree with each other.
3. Texts of the peer are cut and stripped of what a terminal would obey. A `reason` that is no plain word is dropped.
4. Everything else becomes `UnreachableError`: the peer gave no answer that can be relied on.
"""

import re
from collections.abc import Iterator
from typing import Final

from aigovtool import errors
from aigovtool.codec import decode
from aigovtool.consumer.exchange import Reply
from aigovtool.errors import AIGovToolError, InputError, UnreachableError
from aigovtool.transport.problem import MEDIA_TYPE, Problem

#: The reason of our own error where an answer cannot be understood.
NO_PROBLEM: Final = "no_problem"
_MAX_PROBLEM_BYTES: Final = 16 << 10
_MAX_TEXT_CHARS: Final = 500
_MAX_RETRY_AFTER_S: Final = 86_400
_REASON_RE: Final = re.compile(r"[a-z0-9_]{1,64}")
_SECONDS_RE: Final = re.compile(r"[0-9]{1,6}")
#: Classes that group others; a server never raises them itself.
_GROUPS: Final = frozenset({errors.InputError, errors.IdentityError, errors.VerificationError, errors.RefusalError})


def _leaves(kind: type[AIGovToolError]) -> Iterator[type[AIGovToolError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            if child not in _GROUPS:
                yield child
            yield from _leaves(child)


_BY_CODE: Final = {kind.code: kind for kind in _leaves(AIGovToolError)}


def error_of(reply: Reply, who: str) -> AIGovToolError:
    """Return the error that an answer with a status of 400 or more stands for; `who` names the server."""
    unclear = UnreachableError(
        f"{who} answered with status {reply.status}, without a readable reason", reason=NO_PROBLEM
    )
    if reply.headers.get("content-type") != MEDIA_TYPE:
        return unclear
    try:
        document = decode(reply.body, Problem, max_bytes=_MAX_PROBLEM_BYTES)
    except InputError:
        return unclear
    kind = _BY_CODE.get(document.code)
    if kind is None or document.status != reply.status:
        return unclear
    return kind(
        plain_text(document.detail) or kind.code,
        reason=document.reason if isinstance(document.reason, str) and _REASON_RE.fullmatch(document.reason) else None,
        fix=plain_text(document.fix) if isinstance(document.fix, str) else None,
        retry_after_s=_retry_after(reply),
    )


def plain_text(text: str) -> str:
    """Return a peer's text, at most 500 characters of it, without control and formatting characters."""
    return "".join(character if character.isprintable() else " " for character in text[:_MAX_TEXT_CHARS])


def _retry_after(reply: Reply) -> int | None:
    text = reply.headers.get("retry-after", "")
    return min(int(text), _MAX_RETRY_AFTER_S) if _SECONDS_RE.fullmatch(text) else None
