"""Requests that two readers could read differently, over TLS to the processes of a custodian and an enclave."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.attacks.lent import Lent
from tests.attacks.raw import context_of, exchange
from tests.observations import Observed
from tests.transport.test_http_abuse import REFUSED, STATUS

#: What each server would answer, with 200, to whoever got a second request through.
_SMUGGLED = {
    "custodian": ("custodian/operator.json", b"GET /v1/parties HTTP/1.1\r\nHost: a\r\n\r\n"),
    "enclave": ("ward7.json", b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n"),
}


@pytest.mark.attack(35)
@pytest.mark.parametrize("name", _SMUGGLED)
def test_each_gets_one_refusal_and_the_connection_ends(standing: Lent, name: str, observed: Observed) -> None:
    """One problem document, whatever follows; who asks has a credential with which the second would be answered."""
    party, smuggled = _SMUGGLED[name]
    port, context = standing.ports[name], context_of(standing.path(party))
    (alone,) = exchange(port, context, smuggled.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert alone.status == 200
    wrong: dict[str, object] = {}
    reasons: set[str] = set()
    # Each lasts a second, for which a server goes on reading what it throws away.
    with ThreadPoolExecutor(48) as pool:
        found = list(pool.map(lambda request: exchange(port, context, request + smuggled), REFUSED.values()))
    for case, answers in zip(REFUSED, found, strict=True):
        expected = [(STATUS.get(case, 400), "close", "application/problem+json")]
        if [(one.status, one.headers["connection"], one.headers["content-type"]) for one in answers] != expected:
            wrong[case] = answers
        elif (problem := json.loads(answers[0].body))["reason"] not in reasons:
            reasons.add(problem["reason"])
            observed.refusal(problem)
    assert wrong == {}
    observed.figure(f"requests to the {name} with two readings", len(REFUSED))
