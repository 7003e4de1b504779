"""Refusals of a server become our errors again, and nothing that it writes is obeyed."""

import json

import pytest

from aigovtool import errors
from aigovtool.codec import encode
from aigovtool.consumer.exchange import Reply
from aigovtool.consumer.problems import error_of
from aigovtool.errors import AIGovToolError, UnreachableError
from aigovtool.transport.problem import describe, problem_headers


def leaves(kind: type[AIGovToolError] = AIGovToolError) -> list[type[AIGovToolError]]:
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [leaf for child in children for leaf in leaves(child)] or [kind]


def reply(status: int = 402, body: bytes | None = None, **changes: object) -> Reply:
    document = {
        "type": "urn:aigovtool:error:budget_exhausted",
        "title": "Budget exhausted",
        "status": 402,
        "detail": "no units are left",
        "code": "budget_exhausted",
        "error": "no units are left",
        **changes,
    }
    headers = {"content-type": "application/problem+json"}
    return Reply(status, headers, json.dumps(document).encode() if body is None else body, None)


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.code)
def test_every_error_survives_the_way(kind: type[AIGovToolError]) -> None:
    """What a server raises is what a client raises."""
    sent = kind("what happened", reason="finer_code", fix="do this", retry_after_s=9)
    answer = Reply(sent.status, problem_headers(sent), encode(describe(sent)), None)
    got = error_of(answer, "the enclave")
    assert type(got) is kind
    assert (got.message, got.reason, got.fix, got.retry_after_s) == ("what happened", "finer_code", "do this", 9)


UNREADABLE = {
    "unknown-code": reply(code="brand_new"),
    "group-code": reply(code="refused"),
    "base-code": reply(code="error"),
    "other-status": reply(status=403),
    "not-json": reply(body=b"<html>"),
    "too-long": reply(detail="x" * 20_000),
    "wrong-type": reply(detail=5),
    "no-media-type": Reply(402, {}, reply().body, None),
    "other-media-type": Reply(402, {"content-type": "text/html"}, reply().body, None),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_unreadable_refusal_is_no_answer(what: str) -> None:
    """Nothing is guessed: without a known code there is no refusal, and nobody learns that nothing was charged."""
    error = error_of(UNREADABLE[what], "the enclave")
    assert type(error) is UnreachableError
    assert error.reason == "no_problem"


def test_texts_are_cut_and_cleaned() -> None:
    """A peer's text may end up in a terminal."""
    error = error_of(reply(detail="\x1b[31mred\u202e\n" + "x" * 5000, fix="\x07bell"), "the enclave")
    assert error.message.startswith(" [31mred  x")
    assert len(error.message) == 500
    assert error.fix == " bell"


@pytest.mark.parametrize("reason", ["Not A Word", "x" * 65, "a\n", ""])
def test_a_reason_that_is_no_word_is_dropped(reason: str) -> None:
    """Programs branch on reasons."""
    assert error_of(reply(reason=reason), "the enclave").reason is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7), ("999999", 86_400), ("-1", None), ("1e3", None), ("soon", None), ("9" * 40, None)]
)
def test_retry_after_is_bounded(text: str, seconds: int | None) -> None:
    """A server cannot make anybody wait for a century."""
    answer = reply()
    answer = Reply(answer.status, {**answer.headers, "retry-after": text}, answer.body, None)
    assert error_of(answer, "the enclave").retry_after_s == seconds
