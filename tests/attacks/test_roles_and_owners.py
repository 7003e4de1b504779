"""Each caller on each route of custodian and enclave: another role, another party, a party whose time is over."""

import base64
import json
import secrets
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Final, cast

import pytest
from tests.attacks.callers import Callers
from tests.attacks.lent import MODEL, Lent
from tests.observations import Observed

from aigovtool.enclave.gateway.api import routes
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol import commands

CALLERS: Final = (
    "nobody",
    "consumer",
    "consumer of the same borrower",
    "consumer of another borrower",
    "borrower",
    "another borrower",
    "operator",
    "revoked operator",
    "operator whose time is over",
    "revoked consumer",
    "consumer whose time is over",
)
_ABSENT: Final = "sha256:" + "0" * 64


def anyone(status: int) -> tuple[int, ...]:
    """Return what a route says that is open to all; a credential that has ended is refused even there."""
    return (*(status,) * 8, 401, status, 401)


def operators(status: int = 200) -> tuple[int, ...]:
    """Return what a route says that is for operators."""
    return (401, *(403,) * 5, status, 403, 401, 403, 401)


#: Without what a message must have (`{}`), so that only who may send one at all is seen here.
_SIGNED: Final = {
    ("POST", path): anyone(422)
    for path in (
        "/v1/boot",
        "/v1/boot/again",
        "/v1/boot/challenge",
        "/v1/release",
        "/v1/renew",
        "/v1/wiped",
        "/v1/listen",
        "/v1/checkpoints",
        "/v1/cosignatures",
    )
}
CUSTODIAN: Final[dict[tuple[str, str], tuple[int, ...]]] = _SIGNED | {
    ("GET", "/openapi.json"): anyone(200),
    ("GET", "/v1/health"): anyone(200),
    ("GET", "/v1/key-set"): anyone(200),
    ("GET", "/v1/checkpoint"): anyone(200),
    ("GET", "/v1/witnesses"): anyone(200),
    ("GET", "/v1/packages/{package}"): anyone(404),
    ("GET", "/v1/log/inclusion"): anyone(422),
    ("GET", "/v1/log/consistency"): anyone(422),
    # What belongs to a consumer is seen by it, and by its borrower; to others it does not exist.
    ("POST", "/v1/asks"): (401, 200, 403, 403, 200, 403, 403, 403, 401, 403, 401),
    ("GET", "/v1/asks/{ask_id}"): (401, 200, 404, 404, 200, 404, 403, 403, 401, 403, 401),
    ("GET", "/v1/leases/{lease_id}/proof"): (401, 200, 404, 404, 200, 404, 200, 403, 401, 403, 401),
    # One's own, until the same end: of whoever is enrolled.
    ("GET", "/v1/self/certificate"): (401, 200, 200, 200, 200, 200, 200, 403, 401, 403, 401),
    ("GET", "/v1/self"): (401, 200, 200, 200, 200, 200, 403, 403, 401, 403, 401),
    # An order for a target that does not exist, other bytes than announced, and no query.
    ("POST", "/v1/commands"): operators(404),
    ("PUT", "/v1/packages/{package}"): operators(422),
    ("GET", "/v1/certificate"): (401, *(403,) * 5, 422, 422, 401, 403, 401),
    ("GET", "/v1/log/found"): (401, *(403,) * 5, 422, 422, 401, 403, 401),
    ("GET", "/v1/ledger"): operators(),
    ("GET", "/v1/log/entries"): operators(),
    ("GET", "/v1/log/head"): operators(),
    ("GET", "/v1/appraisal-policy"): operators(),
    ("GET", "/v1/parties"): operators(),
    ("GET", "/v1/models"): operators(),
    ("GET", "/v1/budgets"): operators(),
    ("GET", "/v1/usage"): operators(),
    ("GET", "/v1/enclaves"): operators(),
    ("GET", "/v1/stops"): operators(),
    ("GET", "/v1/gap"): operators(),
    ("GET", "/v1/asks"): operators(),
}
#: On any route of an enclave that is not open. A revocation reaches enclaves as a stop.
_CONSUMERS: Final = (401, 200, 200, 403, 403, 403, 403, 403, 401, 423, 401)
ENCLAVE: Final[dict[tuple[str, str], tuple[int, ...]]] = {
    ("GET", "/v2/health/live"): anyone(200),
    ("GET", "/v2/health/ready"): anyone(200),
    # What is signed within says by whom: tests/attacks/test_a_balancer_between.py.
    ("POST", "/aigovtool/sealed/evidence"): anyone(422),
    ("POST", "/aigovtool/sealed"): anyone(415),
    ("GET", "/v2"): _CONSUMERS,
    ("POST", "/.well-known/aigovtool/attestation"): _CONSUMERS,
    ("GET", "/v2/models/{model}"): _CONSUMERS,
    ("GET", "/v2/models/{model}/ready"): _CONSUMERS,
    ("POST", "/v2/models/{model}/infer"): _CONSUMERS,
    ("GET", "/aigovtool/models/{model}/manifest"): _CONSUMERS,
    ("GET", "/v2/models/{model}/versions/{version}"): _CONSUMERS,
    ("GET", "/v2/models/{model}/versions/{version}/ready"): _CONSUMERS,
    ("POST", "/v2/models/{model}/versions/{version}/infer"): _CONSUMERS,
}


@pytest.fixture(scope="module")
def callers(standing: Lent) -> Callers:
    """Everybody."""
    return Callers(standing)


def body_of(callers: Callers, method: str, path: str) -> bytes | None:
    """Return what goes to a route: as good as it can be without changing anything, the owner's if it is somebody's."""
    stop = commands.Stop(target=StopTarget.CONSUMER, value="ward99", reason="matrix")
    known = {
        "/v1/asks": lambda: callers.wish(secrets.token_hex(16)),
        "/v1/commands": lambda: callers.order(stop),
        "/.well-known/aigovtool/attestation": lambda: json.dumps({"nonce": secrets.token_hex(32)}).encode(),
    }
    if method == "GET":
        return None
    if path.endswith("/infer"):
        return callers.question()
    return known.get(path, lambda: b"{}")()


def found(
    callers: Callers, server: str, table: set[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], list[dict[str, object]]]]:
    """Yield what each route says to all callers."""
    ids = {"package": _ABSENT, "ask_id": callers.ask, "lease_id": callers.lease, "model": MODEL, "version": "1"}
    for method, path in sorted(table):
        answers = []
        for caller in CALLERS:
            answer = callers.send(server, caller, method, path.format(**ids), body_of(callers, method, path))
            problem = answer.json() if answer.status >= 400 else {}
            answers.append({"status": answer.status, "problem": problem})
        yield (method, path), answers


def tables(callers: Callers) -> dict[str, set[tuple[str, str]]]:
    """Return the routes that there are: of the custodian as it describes itself, of an enclave by its table."""
    described = callers.send("custodian", "nobody", "GET", "/openapi.json").json()["paths"]
    listed = {(method.upper(), path) for path, item in described.items() for method in item}
    nobody = cast(
        "InstanceRun", SimpleNamespace(instance=SimpleNamespace(session_evidence=None, custodian_time_ms=None))
    )
    return {
        "custodian": listed | {("GET", "/openapi.json")},
        "enclave": {(route.method, route.path) for route in routes(nobody)},
    }


@pytest.mark.attack(40)
@pytest.mark.parametrize(("server", "expected"), [("custodian", CUSTODIAN), ("enclave", ENCLAVE)])
def test_every_cell_is_as_it_must_be(
    callers: Callers, server: str, expected: dict[tuple[str, str], tuple[int, ...]], observed: Observed
) -> None:
    """All routes that there are, for all callers: a new route without a line above fails, and so does one cell."""
    seen: dict[tuple[str, str], tuple[object, ...]] = {}
    for route, answers in found(callers, server, tables(callers)[server]):
        seen[route] = tuple(answer["status"] for answer in answers)
        for answer in answers:
            problem = cast("dict[str, object]", answer["problem"])
            if problem.get("code") in {"forbidden", "unauthenticated"}:
                observed.refusal(problem)
    assert seen == expected
    observed.figure(f"cells of the {server}", len(seen) * len(CALLERS))


@pytest.mark.attack(40)
def test_who_was_refused_is_in_the_audit_log(callers: Callers, observed: Observed) -> None:
    """Of those who proved who they are, also once their time is over; and no line of a stranger."""
    for caller in CALLERS:
        callers.send("custodian", caller, "GET", "/v1/parties")
    lines = callers.send("custodian", "operator", "GET", "/v1/log/found?kind=refused").json()["entries"]
    seen = [json.dumps(json.loads(base64.b64decode(line))) for line in lines]
    proven = {"ward7", "ward8", "desk1", "hospital", "clinic", "bob", "carol", "ward10", "ward11"}
    assert {
        name for name in proven if any(f'"{name}"' in line and '"GET /v1/parties"' in line for line in seen)
    } == proven
    assert [line for line in seen if '"alice"' in line and '"GET /v1/parties"' in line] == []
    observed.entry("refused")
