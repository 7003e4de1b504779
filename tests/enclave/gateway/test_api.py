"""Who is let in at all; and how an answer leaves: whole if it is small, in pieces if it is large, always the same."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.crypto.sign import SigningKey
from aigovtool.enclave.gateway.api import authorize, routes
from aigovtool.enclave.gateway.sending import INSTANCE_ENDED, Leave, response_of
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.enclave.results import Answered
from aigovtool.enclave.unread import Unread
from aigovtool.errors import AIGovToolError, LeaseExpiredError, StoppedError
from aigovtool.ids import ConsumerId
from aigovtool.protocol.sealed import SEALED_EVIDENCE_PATH, SEALED_PATH

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
    instance = SimpleNamespace(admission=admitted, meter=meter, session_evidence=None, custodian_time_ms=None)
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
    is_open = {"/v2/health/live", "/v2/health/ready", SEALED_PATH, SEALED_EVIDENCE_PATH}  # what is signed says by whom
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


class _Asked:
    """The answers of an instance to whether more may leave, one for each piece, and its clock."""

    def __init__(self, *answers: AIGovToolError | None) -> None:
        self._answers = iter(answers)
        self._now_ms = 0
        self.instance = SimpleNamespace(clock=self, meter=self)
        self.charging = self
        self.tampered = False

    def now_ms(self) -> int:
        return self._now_ms

    def authority_left_ms(self, now_ms: int) -> int:
        """Return what is left of three seconds from the last piece before the first refusal on."""
        return 3_000 if now_ms <= 2_000 else 0

    def check(self, _: ConsumerId) -> None:
        self._now_ms += 1_000
        if (error := next(self._answers)) is not None:
            raise error


@pytest.mark.parametrize(
    ("then", "tampered", "left"),
    [
        (StoppedError("stopped", reason="consumer_stopped"), False, 2),
        (LeaseExpiredError("no authority"), False, 2),
        (LeaseExpiredError("ended", reason=INSTANCE_ENDED), False, 4),
        (LeaseExpiredError("ended", reason=INSTANCE_ENDED), True, 2),
    ],
)
async def test_a_large_answer_ends_where_nothing_may_leave(then: AIGovToolError, *, tampered: bool, left: int) -> None:
    """At a stop between two pieces; where the instance has but ended, when the authority is over that it had then."""
    asked = _Asked(None, None, then, then, then, then)
    asked.tampered = tampered
    pieces: list[bytes] = []

    async def send(event: Any) -> None:
        pieces.append(event.get("body", b""))

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "method": "POST", "headers": []}
    leave = Leave(cast("InstanceRun", asked), ConsumerId("ann"))
    response = response_of(Answered(bytes(6 * PIECE), ""), nullcontext(), leave)
    with pytest.raises(type(then)):
        await response(scope, cast("Any", None), send)
    assert sum(map(len, pieces)) == left * PIECE


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
async def test_a_large_answer_leaves_in_pieces(size: int) -> None:
    """Sixty-four megabytes in one piece would hold up the event loop, and lie in memory twice."""
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    headers, pieces = await sent(Answered(body, "content-type: application/octet-stream\r\nx-y: z\r\n"))
    assert b"".join(pieces) == body
    assert all(len(piece) <= PIECE for piece in pieces)
    assert (headers[b"content-length"], headers[b"x-y"]) == (str(size).encode(), b"z")
    assert headers[b"content-type"] == b"application/octet-stream"
