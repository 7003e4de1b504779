import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool import errors
from aigovtool.codec import encode
from aigovtool.errors import AIGovToolError, BudgetExhaustedError, FaultError, ForbiddenError
from aigovtool.transport.problem import describe, problem_headers
from aigovtool.transport.remote_problem import MAX_PROBLEM_BYTES, error_from_problem


def leaves(kind: type[AIGovToolError]) -> Iterator[type[AIGovToolError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from leaves(child)
            if not child.__subclasses__():
                yield child


KINDS: list[type[AIGovToolError]] = sorted(set(leaves(AIGovToolError)), key=lambda kind: kind.code)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_the_way_to_a_peer(kind: type[AIGovToolError]) -> None:
    """Class, text, reason, fix and waiting time come back as they were raised."""
    sent = kind("what happened", reason="why_so", fix="do this", retry_after_s=7)
    header = problem_headers(sent)["retry-after"]
    back = error_from_problem(sent.status, encode(describe(sent)), retry_after=header)
    assert type(back) is kind
    assert (back.message, back.reason, back.fix, back.retry_after_s) == ("what happened", "why_so", "do this", 7)


def test_the_class_decides_the_exit_code_not_the_peer() -> None:
    """A peer that sends another status beside a code changes nothing."""
    back = error_from_problem(500, encode(describe(BudgetExhaustedError("none left"))))
    assert type(back) is BudgetExhaustedError
    assert (back.status, back.exit_code) == (402, 6)


def test_text_of_a_peer_cannot_move_the_cursor() -> None:
    """Escapes, line breaks and direction marks are gone, a reason that is no plain word is dropped, and text is cut."""
    document = {"code": "forbidden", "detail": "a\x1b[2Jb\nc\u202ed" + "x" * 5000, "reason": "no\nword", "fix": "\x07"}
    back = error_from_problem(403, json.dumps(document).encode())
    assert type(back) is ForbiddenError
    assert back.message.startswith("a?[2Jb?c?dxx")
    assert len(back.message) == 1000
    assert (back.reason, back.fix) == (None, "?")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b'"forbidden"',
        b'{"code":1}',
        b'{"code":"error"}',
        b'{"code":"no_such_code"}',
        b'{"code":"forbidden","code":"conflict"}',
        b'{"code":"forbidden","detail":"' + b"x" * MAX_PROBLEM_BYTES + b'"}',
        b'{"code":"forbidden","detail":' + b"[" * 1000 + b"]" * 1000 + b"}",
    ],
)
def test_an_unreadable_document_leaves_only_the_status(body: bytes) -> None:
    """Not ours, ambiguous or too large: the HTTP status alone chooses the class."""
    assert type(error_from_problem(409, body)) is errors.ConflictError
    assert type(error_from_problem(502, body)) is FaultError
    assert error_from_problem(409, body).reason == "peer_refused"


@given(st.integers(100, 999), st.binary(max_size=300), st.none() | st.text(max_size=10))
def test_any_bytes_become_an_error_of_ours(status: int, body: bytes, retry_after: str | None) -> None:
    """Nothing else leaves the reader."""
    back = error_from_problem(status, body, retry_after=retry_after)
    assert isinstance(back, AIGovToolError)
    assert back.message.isprintable()


def test_only_plain_seconds_are_read_as_waiting_time() -> None:
    """A date, a sign or an absurd number is no waiting time."""
    body = encode(describe(BudgetExhaustedError("none left")))
    for text in ("Wed, 21 Oct 2026 07:28:00 GMT", "-1", "1.5", "9999999", "\u0661", ""):
        assert error_from_problem(402, body, retry_after=text).retry_after_s is None
    assert error_from_problem(402, body, retry_after="0").retry_after_s == 0
