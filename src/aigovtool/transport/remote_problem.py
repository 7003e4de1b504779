"""From a peer's problem+json back to the error class that it stands for.

The body comes from outside: it is bounded, parsed strictly where it counts, and an unknown code becomes a
plain `UnreachableError`, never a success.
"""

import json
from typing import Final

from aigovtool import errors
from aigovtool.errors import AIGovToolError, UnreachableError

MAX_PROBLEM_BYTES: Final = 64 << 10
_MAX_TEXT: Final = 500


def _classes(base: type[AIGovToolError]) -> dict[str, type[AIGovToolError]]:
    found = {base.code: base}
    for derived in base.__subclasses__():
        found.update(_classes(derived))
    return found


_BY_CODE: Final = _classes(errors.AIGovToolError)


def remote_error(status: int, body: bytes, retry_after: str | None = None) -> AIGovToolError:
    """Return the error that a peer reported with `status` and `body`."""
    try:
        problem = json.loads(body[:MAX_PROBLEM_BYTES])
    except (ValueError, RecursionError):
        problem = {}
    members = problem if isinstance(problem, dict) else {}
    kind = _BY_CODE.get(str(members.get("code")))
    wait_s = int(retry_after) if retry_after is not None and retry_after.isascii() and retry_after.isdigit() else None
    if kind is None or kind is AIGovToolError:
        return UnreachableError(f"the peer answered with status {status}", reason="bad_answer", retry_after_s=wait_s)
    return kind(
        _text(members.get("detail")) or "refused",
        reason=_text(members.get("reason")),
        fix=_text(members.get("fix")),
        retry_after_s=None if wait_s is None else min(wait_s, 86_400),
    )


def _text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return "".join(character if character.isprintable() else "?" for character in value[:_MAX_TEXT])
