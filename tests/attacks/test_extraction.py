"""A consumer wants more of a model than its terms let leave: no answer has it, in whatever form it is asked for.

It can still ask as often as its budget lets it, which is what copying a model by its outputs costs then.
"""

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest
from tests.attacks.lent_digits import (
    PATH,
    TTL_MS,
    Found,
    Images,
    Lender,
    bits,
    fresh_key,
    images,
    lender,
    outputs_of,
    request,
    whole,
)
from tests.e2e.world import Answer
from tests.observations import Observed

from aigovtool.consumer import Client
from aigovtool.ledger.answers import AnswerTerms, OutputRule
from aigovtool.testing.fault_proxy import Direction

pytestmark = pytest.mark.attack(30)

LARGEST, DECIMALS = 3, 2
#: For the machines that this runs on.
SLACK_S = 0.25
TERMS = AnswerTerms(outputs=(OutputRule(name="probabilities", top_k=LARGEST, decimals=DECIMALS),))
HIDDEN = AnswerTerms(outputs=(OutputRule(name="probabilities", hide=True),))
ONLY_LABEL = AnswerTerms(outputs=(OutputRule(name="label"),), only_named=True)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    """A model of which the three largest probabilities leave, with two decimals."""
    with lender(tmp_path_factory.mktemp("extraction") / "world", TERMS) as made:
        yield made


@pytest.fixture
def lent(digits: Lender) -> Lender:
    """The same, on those terms again."""
    digits.order(TERMS)
    settled(digits, TERMS)
    return digits


def shown(lent: Lender) -> set[str]:
    """Return which outputs the model has for a consumer."""
    metadata = lent.world.connect().request("GET", PATH).json()
    return {output["name"] for output in metadata["outputs"]}


def settled(lent: Lender, terms: AnswerTerms | None) -> float:
    """Wait until answers are on these terms; return how long that took."""
    began = time.monotonic()
    wanted = {name for name in ("label", "probabilities") if terms is None or terms.lets(name)}
    lent.world.wait_for(lambda: shown(lent) == wanted, "the terms are known to the enclave")
    return time.monotonic() - began


def too_much(found: Found, given: Images) -> int:
    """Return how many of the probabilities say more than the three largest with two decimals."""
    truth, seen = whole(given)["probabilities"], found["probabilities"]
    assert seen.shape == truth.shape
    largest = np.argsort(-truth, axis=1, kind="stable")[:, :LARGEST]
    excess = 0
    for row, best in enumerate(largest):
        for column, value in enumerate(seen[row]):
            allowed = {bits(0.0)} | ({bits(round(float(truth[row, column]), DECIMALS))} if column in best else set())
            excess += bits(value) not in allowed
    return excess


def test_no_answer_says_more_than_the_terms_let_leave(lent: Lender, observed: Observed) -> None:
    """Two consumers, JSON and binary, all outputs and one by name, one row and many: always the same three numbers."""
    first = images(40, 0)
    assert too_much(whole(first), first) > 200  # the control: the model itself gives far more
    answers = 0
    for seed, connection in enumerate(lent.consumers()):
        for binary in (False, True):
            for outputs in ((), ("probabilities",), ("probabilities", "label")):
                for rows in (1, 2, 25):
                    given = images(rows, 100 * seed + rows)
                    found = outputs_of(lent.ask(connection, *request(given, *outputs, binary=binary)))
                    assert too_much(found, given) == 0
                    assert np.count_nonzero(found["probabilities"]) <= LARGEST * rows
                    if "label" in found:  # the answer is still the model's
                        assert (found["label"] == whole(given)["label"]).all()
                    answers += 1
    observed.figure("answers within the terms", answers)


def test_an_answer_that_was_kept_is_the_one_that_left(lent: Lender) -> None:
    """Asked again under its id, in either form of the request, nothing more comes than the first time."""
    connection, *_ = lent.consumers()
    given = images(5, 7)
    for binary in (False, True):
        body, headers = request(given, binary=binary)
        key = fresh_key()
        first, again = (lent.ask(connection, body, headers, key) for _ in range(2))
        assert (first.status, again.body, again.headers["aigovtool-receipt"]) == (
            200,
            first.body,
            first.headers["aigovtool-receipt"],
        )
        assert too_much(outputs_of(again), given) == 0


@pytest.mark.parametrize("terms", [HIDDEN, ONLY_LABEL], ids=["hidden", "not named"])
def test_a_hidden_output_does_not_exist_for_consumers(terms: AnswerTerms, lent: Lender, observed: Observed) -> None:
    """By name it is refused and costs nothing; who asks for everything gets the rest; the metadata does not show it."""
    lent.order(terms)
    settled(lent, terms)
    given = images(3, 11)
    lent.world.wait_for(lambda: lent.pending() == 0, "all leases are given back")
    charged = lent.world.charged()
    refused: list[Answer] = []
    for connection in lent.consumers():
        for binary in (False, True):
            for outputs in (("probabilities",), ("label", "probabilities")):
                key = fresh_key()
                refused += [lent.ask(connection, *request(given, *outputs, binary=binary), key) for _ in range(2)]
    assert (len(refused), lent.world.charged()) == (16, charged)
    for connection in lent.consumers():
        everything = [lent.ask(connection, *request(given, binary=binary)) for binary in (False, True)]
        assert [set(outputs_of(answer)) for answer in everything] == [{"label"}] * 2
    for answer in refused:
        problem = answer.json()
        assert (answer.status, problem["code"], problem["reason"]) == (403, "forbidden", "output_withheld")
        observed.refusal(problem)
    assert shown(lent) == {"label"}


def test_stricter_terms_hold_while_the_model_is_served(lent: Lender, observed: Observed) -> None:
    """Without a new boot, within a ttl: and what was answered and kept under looser terms does not leave again."""
    connection, other = lent.consumers()
    engine = lent.world.engine_pid()
    given, key = images(2, 13), fresh_key()
    body, headers = request(given, binary=False)
    loose = lent.ask(connection, body, headers, key)
    assert "probabilities" in outputs_of(loose)
    lent.order(HIDDEN)
    began = time.monotonic()
    asked = 0
    while "probabilities" in outputs_of(lent.ask(other, body, headers)):
        asked += 1
        assert time.monotonic() - began < TTL_MS / 1000 + 1.0
    for each in (connection, other):
        assert set(outputs_of(lent.ask(each, body, headers))) == {"label"}
    kept = lent.ask(connection, body, headers, key)
    assert (kept.status, kept.json()["reason"]) == (409, "terms_changed")
    observed.refusal(kept.json())
    assert b"probabilities" not in kept.body
    # The same answers are given again as soon as as much may leave as when they were made.
    lent.order(TERMS)
    settled(lent, TERMS)
    assert lent.ask(connection, body, headers, key).body == loose.body
    assert lent.world.engine_pid() == engine
    observed.figure("answers on the old terms after the order for new ones", asked)


def test_a_request_that_asks_for_it_in_other_words_is_refused(lent: Lender) -> None:
    """There is no parameter that brings back what the terms leave out."""
    connection, *_ = lent.consumers()
    given = images(1, 17)
    message = json.loads(request(given, "probabilities", binary=False)[0])
    for parameters in ({"classification": 10}, {"top_k": 10}, {"raw": True}):
        message["outputs"][0]["parameters"] = parameters
        refused = lent.ask(connection, json.dumps(message).encode(), {})
        assert (refused.status, refused.json()["reason"]) == (422, "unsupported_parameter")
    for name in ("Probabilities", "probabilities ", "probabilities\u200b", "probabilities/raw"):
        refused = lent.ask(connection, *request(given, name, binary=False))
        assert (refused.status, refused.json()["reason"]) in {(422, "unknown_output"), (422, "bad_tensor_name")}


def test_an_answer_that_json_cannot_say_is_an_answer(lent: Lender, observed: Observed) -> None:
    """Whether a model overflows says where its weights are: one who asks for JSON does not learn it for nothing."""
    lent.order(None)
    settled(lent, None)
    connection, *_ = lent.consumers()
    lent.world.wait_for(lambda: lent.pending() == 0, "all leases are given back")
    charged = lent.world.charged()
    overflows = np.full((1, 64), 3e38, np.float32)
    assert np.isnan(whole(overflows)["probabilities"]).any()
    asked = 20
    for number in range(asked):
        given = overflows if number % 2 else images(1, number)
        found = outputs_of(lent.ask(connection, *request(given, "probabilities", binary=False)))
        assert found["probabilities"].tobytes() == whole(given)["probabilities"].tobytes()
    lent.world.wait_for(lambda: lent.pending() == 0, "all leases are given back")
    assert lent.world.charged() == charged + asked
    observed.figure("units for answers that JSON cannot say", asked // 2)


def test_a_host_that_withholds_stricter_terms_gains_one_ttl(lent: Lender, observed: Observed) -> None:
    """Whatever authority an enclave has is on the terms that came with it: then nothing leaves until it hears anew."""
    connection, *_ = lent.consumers()
    body, headers = request(images(1, 19), binary=False)
    assert "probabilities" in outputs_of(lent.ask(connection, body, headers))
    lent.proxy.drop(Direction.TO_CLIENT)
    began = last = time.monotonic()
    lent.order(HIDDEN)
    while (answer := lent.ask(connection, body, headers)).status == 200:
        assert "probabilities" in outputs_of(answer)
        last = time.monotonic()
        time.sleep(0.02)
    assert last - began <= TTL_MS / 1000 * 1.0005 + SLACK_S
    assert (answer.status, answer.json()["code"]) == (423, "lease_expired")
    observed.refusal(answer.json())
    observed.figure("seconds on withheld terms", round(last - began, 2))
    lent.proxy.heal()
    lent.world.wait_for(
        lambda: (
            (answered := lent.ask(connection, body, headers)).status == 200 and set(outputs_of(answered)) == {"label"}
        ),
        "the first answer is on the new terms",
    )


def test_the_consumers_own_library_gets_what_leaves(lent: Lender) -> None:
    """It is told so by the enclave, and goes on when less leaves: `None` for all outputs means all that leave."""
    file = lent.world.consumer_file()
    address = f"https://127.0.0.1:{lent.world.enclave_port}"
    given = images(4, 23)
    with Client.connect(address, str(file), allow_simulated=True) as client:
        first = client.infer("digits", given)
        assert too_much(dict(first.outputs), given) == 0
        lent.order(AnswerTerms(outputs=HIDDEN.outputs, pad_bytes=4_096))
        settled(lent, HIDDEN)
        assert [output.name for output in client.models()[0].outputs] == ["label"]
        assert (client.infer("digits", given).outputs["label"] == first.outputs["label"]).all()
        lent.order(TERMS)
        settled(lent, TERMS)
        assert set(client.infer("digits", given).outputs) == {"label"}  # as it was described to this client last
        assert len(client.models()[0].outputs) == 2
        assert set(client.infer("digits", given).outputs) == {"label", "probabilities"}
