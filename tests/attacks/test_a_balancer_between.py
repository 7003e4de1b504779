"""Before an enclave somebody ends TLS, as load balancers do: sealed requests pass, and who passes them gains nothing.

Custodian and enclave are processes. The balancer is at its worst: it reads, keeps, changes, repeats, withholds and
invents whatever it likes. What it can do is what whoever owns a wire can: withhold.
"""

import json
from collections.abc import Callable

import numpy as np
import pytest
from msgspec import UNSET, structs
from tests.attacks.balancer import Balancer, Passed, Passing
from tests.attacks.deployments import Consumer, Deployment
from tests.attacks.sealing import file_of
from tests.e2e.world import MODEL

from aigovtool.codec import decode, encode
from aigovtool.consumer import Client
from aigovtool.consumer.verify import verify_receipt_file
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.crypto.wrap import WrapKey
from aigovtool.errors import AIGovToolError, EvidenceError
from aigovtool.ids import digest_of
from aigovtool.protocol import sealed
from aigovtool.protocol.sealed import Statement
from aigovtool.protocol.session import RECEIPT_HEADER, SessionEvidence

#: A prompt that is found again wherever it goes.
PROMPT = np.random.default_rng(11).standard_normal((1, 64)).astype(np.float32)
NAME = "canary-of-a-sealed-request"


def at_sealed(rule: Callable[[Passing], Passed]) -> Callable[[Passing], Passed]:
    """Do something to sealed exchanges, and pass on what else there is."""
    return lambda passing: rule(passing) if passing.path == sealed.SEALED_PATH else passing.forward()


def test_a_balancer_reads_nothing_of_what_is_asked_and_answered(
    world: Deployment, balancer: Balancer, consumer: Consumer, connect: Callable[..., Client]
) -> None:
    """Neither input, answer, receipt nor the request's name: it learns how long they are, and who asked."""
    client = connect()
    result = client.infer(MODEL, PROMPT, request_id=NAME)
    read = balancer.everything()
    values = [np.ascontiguousarray(array).tobytes() for array in (PROMPT, result.outputs["probabilities"])]
    secrets = [*values, NAME.encode(), RECEIPT_HEADER.encode(), encode(result.receipt), result.response_body]
    assert [secret[:40] for secret in secrets if secret in read] == []
    assert len(balancer.at(sealed.SEALED_PATH)) == 2, "the model's description, and the inference"
    assert world.charged_to(consumer) >= 1
    assert client.evidence.tee.value == "simulated"


def test_an_answer_through_a_balancer_is_the_same_as_over_a_connection_of_its_own(
    world: Deployment, consumer: Consumer, connect: Callable[..., Client]
) -> None:
    """Outputs, units, receipt and models; and the receipt can be checked later like any other."""
    through = connect().infer(MODEL, PROMPT)
    with Client.connect(f"https://127.0.0.1:{world.enclave_port}", file_of(consumer), allow_simulated=True) as pinned:
        direct = pinned.infer(MODEL, PROMPT)
        models = pinned.models()
    assert connect().models() == models
    assert np.array_equal(through.outputs["probabilities"], direct.outputs["probabilities"])
    assert through.units_remaining == direct.units_remaining + 1
    assert through.receipt.receipt.consumer == consumer.name
    path = world.directory / f"{consumer.name}.receipt"
    through.save_receipt(path)
    verdict = verify_receipt_file(path, file_of(consumer), allow_simulated=True)
    assert verdict.receipt == through.receipt.receipt


# -- What comes beside the evidence ---------------------------------------------------------------


def its_own_key(session: SessionEvidence, key: SigningKey) -> SessionEvidence:
    """Name a key that the balancer holds."""
    said = Statement(
        instance=session.claims.instance,
        nonce=session.claims.nonce,
        body_key=WrapKey.generate().public,
        key_set=digest_of(encode(session.key_set)),
        models=session.models,
        warning=session.warning,
    )
    return structs.replace(session, statement=seal(sealed.STATEMENT, said, key))


def no_statement(session: SessionEvidence, _key: SigningKey) -> SessionEvidence:
    """Leave the instance's word away."""
    return structs.replace(session, statement=UNSET)


def no_warning(session: SessionEvidence, _key: SigningKey) -> SessionEvidence:
    """Leave away that the TEE protects nothing."""
    return structs.replace(session, warning=None)


def other_names(session: SessionEvidence, _key: SigningKey) -> SessionEvidence:
    """Call a served model by another name."""
    models = [structs.replace(model, model="another") for model in session.models]
    return structs.replace(session, models=models)


def other_digest(session: SessionEvidence, _key: SigningKey) -> SessionEvidence:
    """Say of a served model that it has another digest."""
    models = [structs.replace(model, manifest=digest_of(b"another")) for model in session.models]
    return structs.replace(session, models=models)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (its_own_key, "not_stated"),
        (no_statement, "not_stated"),
        (no_warning, "not_stated"),
        (other_names, "not_stated"),
        (other_digest, "model_not_bound"),
    ],
)
def test_nothing_that_comes_beside_the_evidence_is_the_balancers_to_say(
    change: Callable[[SessionEvidence, SigningKey], SessionEvidence],
    reason: str,
    balancer: Balancer,
    connect: Callable[..., Client],
) -> None:
    """The key to seal to above all: whoever chooses it reads everything."""
    key = SigningKey.generate()

    def forged(passing: Passing) -> Passed:
        return passing.forward().changed(lambda body: encode(change(decode(body, SessionEvidence), key)))

    balancer.rule = forged
    with pytest.raises(EvidenceError) as caught:
        connect()
    assert caught.value.reason == reason
    assert balancer.at(sealed.SEALED_PATH) == []


def test_evidence_of_before_is_not_believed_again(balancer: Balancer, connect: Callable[..., Client]) -> None:
    """Each client has a nonce of its own; what the balancer has kept is for another one."""
    connect()
    kept = balancer.answered[-1]
    balancer.rule = lambda _: kept
    with pytest.raises(EvidenceError) as caught:
        connect()
    assert caught.value.reason == "binding_nonce"


def test_a_challenge_that_is_passed_on_again_gets_no_evidence(
    balancer: Balancer, connect: Callable[..., Client]
) -> None:
    """Each quote takes the platform its time, and only so many are made for one consumer at once."""
    connect()
    (sent,) = balancer.at(sealed.SEALED_EVIDENCE_PATH)
    answers = [sent.forward() for _ in range(3)]
    assert {answer.status for answer in answers} == {409}
    assert b"sealed_twice" in answers[0].body
    connect()


# -- Requests that are passed on ------------------------------------------------------------------


def test_a_request_that_is_passed_on_twice_is_taken_once(balancer: Balancer, connect: Callable[..., Client]) -> None:
    """The second is refused, also after the first was answered, and nothing more is charged."""
    client = connect()
    client.infer(MODEL, PROMPT)
    before = client.infer(MODEL, PROMPT).units_remaining
    sent = balancer.at(sealed.SEALED_PATH)[-1]
    again = [sent.forward() for _ in range(3)]
    assert {one.status for one in again} == {200}, "sealed refusals: it does not even learn that they are"
    assert len({one.body for one in again}) == 3, "each under a salt of its own"
    assert client.infer(MODEL, PROMPT).units_remaining == before - 1

    balancer.rule = at_sealed(lambda passing: [passing.forward(), passing.forward()][1])
    with pytest.raises(AIGovToolError) as caught:
        client.infer(MODEL, PROMPT)
    assert caught.value.reason == "sealed_twice"


@pytest.mark.parametrize("place", [0, 1, 2, 40, -1, -400], ids=["length", "length too", "key", "head", "tag", "body"])
def test_a_changed_request_is_nothing_to_the_enclave(
    place: int, balancer: Balancer, connect: Callable[..., Client]
) -> None:
    """Nothing is run and nothing is charged, wherever one bit is turned."""
    client = connect()
    before = client.infer(MODEL, PROMPT).units_remaining

    def flipped(passing: Passing) -> Passed:
        body = bytearray(passing.body)
        body[place] ^= 1
        return passing.forward(bytes(body))

    balancer.rule = at_sealed(flipped)
    with pytest.raises(AIGovToolError) as caught:
        client.infer(MODEL, PROMPT)
    assert caught.value.reason in {"other_body_key", "answered_between", "wrong_frame", "retry_may_charge"}
    balancer.rule = Passing.forward
    assert client.infer(MODEL, PROMPT).units_remaining == before - 1


def test_a_request_of_which_the_end_is_missing_is_not_run(balancer: Balancer, connect: Callable[..., Client]) -> None:
    """A body is complete with its last frame only."""
    client = connect()
    before = client.infer(MODEL, PROMPT).units_remaining
    balancer.rule = at_sealed(lambda passing: passing.forward(passing.body[:-30]))
    with pytest.raises(AIGovToolError) as caught:
        client.infer(MODEL, PROMPT)
    assert caught.value.reason == "cut_off"
    balancer.rule = Passing.forward
    assert client.infer(MODEL, PROMPT).units_remaining == before - 1


# -- Answers --------------------------------------------------------------------------------------


def flipped(place: int) -> Callable[[bytes], bytes]:
    """Turn one bit."""

    def change(body: bytes) -> bytes:
        made = bytearray(body)
        made[place] ^= 1
        return bytes(made)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (flipped(0), "altered_answer"),
        (flipped(32), "altered_answer"),
        (flipped(60), "altered_answer"),
        (flipped(-1), "altered_answer"),
        (lambda body: body + bytes(8), "altered_answer"),
        (lambda body: body[:20], "altered_answer"),
        (lambda _: bytes(90), "altered_answer"),
        # As if the rest were still to come.
        (lambda _: b"", "connection_lost"),
        (flipped(35), "connection_lost"),
    ],
    ids=["salt", "last", "text", "tag", "longer", "half a salt", "zeros", "nothing", "length"],
)
def test_a_changed_answer_is_no_answer(
    change: Callable[[bytes], bytes], reason: str, balancer: Balancer, connect: Callable[..., Client]
) -> None:
    """It is told as what it is, with nothing of it believed; asked again by its id, it is charged once."""
    client = connect()
    before = client.infer(MODEL, PROMPT).units_remaining
    balancer.rule = at_sealed(lambda passing: passing.forward().changed(change))
    with pytest.raises(AIGovToolError) as caught:
        client.infer(MODEL, PROMPT, request_id="changed")
    assert caught.value.reason == reason
    balancer.rule = Passing.forward
    assert client.infer(MODEL, PROMPT, request_id="changed").units_remaining == before - 1


def test_the_answer_to_another_request_is_no_answer(balancer: Balancer, connect: Callable[..., Client]) -> None:
    """Each opens with the secret of its own request."""
    client = connect()
    client.infer(MODEL, PROMPT)
    kept = balancer.answered[-1]
    balancer.rule = at_sealed(lambda _: kept)
    with pytest.raises(AIGovToolError) as caught:
        client.infer(MODEL, PROMPT)
    assert caught.value.reason == "altered_answer"


@pytest.mark.parametrize("lost", ["announced", "not announced"])
def test_an_answer_that_is_cut_off_is_asked_for_again_and_charged_once(
    lost: str, balancer: Balancer, connect: Callable[..., Client]
) -> None:
    """The client repeats it with the same id by itself; the new request is sealed anew, so that it is taken."""
    client = connect()
    before = client.infer(MODEL, PROMPT).units_remaining
    cut: list[Passing] = []

    def rule(passing: Passing) -> Passed:
        answer = passing.forward()
        if cut:
            return answer
        cut.append(passing)
        return answer.cut(20) if lost == "announced" else answer.changed(lambda body: body[:-20])

    balancer.rule = at_sealed(rule)
    assert client.infer(MODEL, PROMPT).units_remaining == before - 1
    assert cut


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_balancer_that_finds_nobody_is_asked_again(
    status: int, balancer: Balancer, connect: Callable[..., Client]
) -> None:
    """Once, with the same id; a second time it is told."""
    client = connect()
    before = client.infer(MODEL, PROMPT).units_remaining
    page = Passed(status, b"<html>nobody</html>", {"content-type": "text/html"})
    said: list[int] = []

    def rule(passing: Passing) -> Passed:
        said.append(status)
        return page if len(said) == 1 else passing.forward()

    balancer.rule = at_sealed(rule)
    assert client.infer(MODEL, PROMPT).units_remaining == before - 1
    balancer.rule = at_sealed(lambda _: page)
    with pytest.raises(AIGovToolError) as caught:
        client.infer(MODEL, PROMPT)
    assert (caught.value.code, caught.value.reason) == ("unreachable", "connection_lost")
    assert str(status) in caught.value.message


@pytest.mark.parametrize("code", ["budget_exhausted", "stopped", "overloaded", "invalid_value"])
def test_a_refusal_in_the_clear_is_nobodys(code: str, balancer: Balancer, connect: Callable[..., Client]) -> None:
    """It does not pass for the enclave's, and the request is not taken for one that was not charged."""
    client = connect()
    client.infer(MODEL, PROMPT)  # which asks for the model's description before
    status = {"budget_exhausted": 402, "stopped": 423, "overloaded": 429, "invalid_value": 422}[code]
    problem = {"type": "x", "title": "x", "status": status, "detail": "pay me", "code": code, "error": "pay me"}
    forged = Passed(status, json.dumps(problem).encode(), {"content-type": "application/problem+json"})
    balancer.rule = at_sealed(lambda passing: [passing.forward(), forged][1])
    with pytest.raises(AIGovToolError) as caught:
        client.infer(MODEL, PROMPT, request_id=f"forged-{code}")
    assert (caught.value.code, caught.value.reason) == ("unreachable", "answered_between")
    assert "pay me" not in str(caught.value)
    assert f"repeat it with request_id forged-{code}" in (caught.value.fix or "")
