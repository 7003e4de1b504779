"""Who is let in at all; and how an answer leaves: whole if it is small, in pieces if it is large, always the same."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.crypto.sign import SigningKey
from aigovtool.enclave.gateway.api import _Served, authorize, response_of, routes
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.enclave.results import Answered
from aigovtool.enclave.unread import Unread
from aigovtool.errors import AIGovToolError, LeaseExpiredError, StoppedError
from aigovtool.ids import ConsumerId

PIECE = 256 << 10


@pytest.mark.parametrize(
    ("name", "borrower", "reason"),
    [
        ("ward7", "hospital", None),
        ("ward7", None, None),  # by a custodian of before: it refuses whatever the enclave asks for
        ("lab1", "clinic", "foreign_consumer"),
        ("ward9", "hospital", "consumer_stopped"),
        ("ward9", None, "consumer_stopped"),
    ],
)
def test_whoever_this_enclave_never_answers_sees_nothing_of_it(
    name: str, borrower: str | None, reason: str | None
) -> None:
    """Neither metadata nor evidence; what is open to anybody stays open to them."""
    admitted, meter = SimpleNamespace(borrower="hospital"), SimpleNamespace(stopped=frozenset({"ward9"}))
    instance = SimpleNamespace(admission=admitted, meter=meter, session_evidence=None)
    run = cast("InstanceRun", SimpleNamespace(instance=instance))
    key = SigningKey.generate().public
    who = Identity(IdentityKind.CONSUMER, name, key, 0, 1, 1, borrower)
    seen: set[tuple[str, str | None]] = set()
    for route in routes(run):
        try:
            authorize(run)(who, route)
            seen.add((route.path, None))
        except AIGovToolError as error:
            seen.add((route.path, error.reason))
    is_open = {"/v2/health/live", "/v2/health/ready"}
    assert {found for path, found in seen if path in is_open} == {None}
    assert {found for path, found in seen if path not in is_open} == {reason}


async def sent(answered: Answered) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Return the headers and the pieces of the body that a server is handed."""
    events: list[Any] = []

    async def send(event: Any) -> None:
        events.append(event)

    async def receive() -> Any:
        raise NotImplementedError

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "method": "POST", "headers": []}
    unread = Unread()
    held = unread.hold(ConsumerId("ann"), len(answered.body))
    await response_of(answered, held, lambda: None)(scope, receive, send)
    unread.require_few(ConsumerId("ann"))
    return dict(events[0]["headers"]), [bytes(event["body"]) for event in events[1:] if event["body"]]


@pytest.mark.parametrize("reason", ["consumer_stopped", None])
async def test_a_large_answer_ends_where_nothing_may_leave(reason: str | None) -> None:
    """At a stop between two pieces; where the instance has but ended, as when its engine died, it goes on."""
    stopped = StoppedError("stopped", reason="consumer_stopped")
    ended = LeaseExpiredError("ended", reason="instance_ended")
    answers = iter([None, None, stopped if reason else ended, ended, ended])

    def check(_: ConsumerId) -> None:
        if (error := next(answers)) is not None:
            raise error

    instance = SimpleNamespace(session_evidence=None)
    served = _Served(cast("InstanceRun", SimpleNamespace(instance=instance, check=check)))
    pieces: list[bytes] = []

    async def send(event: Any) -> None:
        pieces.append(event.get("body", b""))

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "method": "POST", "headers": []}
    require_leave = partial(served._require_leave, ConsumerId("ann"))
    response = response_of(Answered(bytes(5 * PIECE), ()), nullcontext(), require_leave)
    with pytest.raises(StoppedError) if reason else nullcontext():
        await response(scope, cast("Any", None), send)
    assert sum(map(len, pieces)) == (2 if reason else 5) * PIECE


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
async def test_a_large_answer_leaves_in_pieces(size: int) -> None:
    """Sixty-four megabytes in one piece would hold up the event loop, and lie in memory twice."""
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    headers, pieces = await sent(Answered(body, (("content-type", "application/octet-stream"), ("x-y", "z"))))
    assert b"".join(pieces) == body
    assert all(len(piece) <= PIECE for piece in pieces)
    assert (headers[b"content-length"], headers[b"x-y"]) == (str(size).encode(), b"z")
    assert headers[b"content-type"] == b"application/octet-stream"
