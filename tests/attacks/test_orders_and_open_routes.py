"""What only an operator may order, and what anybody may ask: refused without a trace in the budget, and cheap."""

from pathlib import Path

import httpx
import msgspec
import pytest
from tests.attacks.deployments import JSON, Consumer, Deployment, answered_until_used_up
from tests.e2e.world import BORROWER, MODEL
from tests.effort import effort
from tests.observations import Observed

from aigovtool.codec import decode, encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, Signature, SigningKey, pre_authentication_encoding, seal
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import BorrowerId
from aigovtool.ledger.budget import Scope, Window
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands
from aigovtool.protocol.commands import COMMAND, Command
from aigovtool.protocol.release import CHALLENGE_REQUEST, ChallengeRequest
from aigovtool.transport.tls import client_context

#: How often somebody calls in vain.
MANY = effort(400, campaign=1_000)
BAD_NUMBERS = (
    *("-1", "-5", "0", "1.5", "1e3", "1E400", "-0", "NaN", "Infinity", "-Infinity", "true", "false", "null", '"5"'),
    *('"abc"', '"１２"', '"0x10"', "1_0", "+5", "05", "0x10", "１２", "٣", "1e-400", "9007199254740992", "[]", "[5]"),
    *("9223372036854775808", "18446744073709551616", "1" + "0" * 400, "1.0", "5.0000", '""', "1000000000001", "--5"),
    *("5 5", "1,2", "5;", '"5', "\\u0035", "5e", ".5", "5."),
)


def client_of(world: Deployment, consumer: Consumer | None = None) -> httpx.Client:
    """Return a client of the custodian, as a consumer or as a stranger."""
    credential = [] if consumer is None else from_pem(consumer.certificate.encode())
    context = client_context(
        from_pem(world.operator.custodian.tls_ca.encode()),
        credential=credential,
        key=None if consumer is None else consumer.key,
    )
    return httpx.Client(base_url=world.operator.custodian.url, verify=context, timeout=20, trust_env=False)


@pytest.mark.fault(3)
def test_only_an_operators_order_of_whole_units_raises_a_budget(world: Deployment, observed: Observed) -> None:
    """Strangers, consumers, foreign signatures, and each of 40 bad numbers: refused, and no row is changed."""
    consumer, _ = world.new_consumer(units=5)
    before = world.view("/v1/budgets")["budgets"]
    grant = commands.GrantBudget(
        scope=Scope(model=MODEL, borrower=BORROWER, consumer=consumer.name),
        dimension=Dimension.INFERENCES,
        window=Window.LIFETIME,
        units=7,
    )
    good, key = world.order(grant), world.operator_key
    order = decode(decode(good, Envelope).payload, Command)
    with client_of(world) as stranger, client_of(world, consumer) as as_consumer:
        refusals = [stranger.post("/v1/commands", content=good, headers=JSON)]
        refusals.append(as_consumer.post("/v1/commands", content=good, headers=JSON))
    assert [one.status_code for one in refusals] == [401, 403]
    assert len(BAD_NUMBERS) >= 40
    refusals.append(world.send(world.order(grant, SigningKey.generate())))
    old = msgspec.structs.replace(order, issued_at_ms=order.issued_at_ms - 600_000)
    refusals.append(world.send(encode(seal(COMMAND, old, key))))
    assert [one.status_code for one in refusals[2:]] == [403, 403]
    for refused in refusals:
        observed.refusal(refused.json())
    with world.custodian_client() as operator:
        for number in BAD_NUMBERS:
            text = encode(order).replace(b'"units":7', b'"units":' + number.encode())
            answer = operator.post("/v1/commands", content=encode(signed(text, key)), headers=JSON)
            assert answer.status_code in {400, 422}, (number, answer.text)
    assert before == world.view("/v1/budgets")["budgets"]


def signed(payload: bytes, key: SigningKey) -> Envelope:
    """Return an envelope of an operator's order whose text is not what the product would write."""
    kind = seal(COMMAND, commands.WithdrawModel(model=MODEL), key).payloadType
    signature = Signature(keyid=key.public.key_id, sig=key.sign(pre_authentication_encoding(kind, payload)))
    return Envelope(payload=payload, payloadType=kind, signatures=[signature])


@pytest.mark.fault(8)
def test_malformed_requests_are_charged_nothing(world: Deployment, body: bytes, observed: Observed) -> None:
    """On one connection: each is refused with a code, none is charged, and the three units are all there."""
    consumer, connection = world.new_consumer(units=3)
    bad = (b"", b"{}", b"[]", body[:-1], body.replace(b"FP32", b"INT8"), body.replace(b"[1, 64]", b"[-1]"))
    for number in range(MANY):
        answer = connection.infer(bad[number % len(bad)])
        assert 400 <= answer.status < 500
        assert answer.json()["code"]
    assert world.row_of(consumer)["posted"] == 0
    observed.figure(f"units posted for {MANY:,} malformed requests", 0)
    assert answered_until_used_up(connection, body, 10)[0] == 3


@pytest.mark.attack(20)
@pytest.mark.fault(15)
def test_calls_of_open_routes_cost_neither_threads_nor_memory(
    world: Deployment, body: bytes, observed: Observed
) -> None:
    """Who is up, which keys, and a challenge to boot, by a borrower that never boots: the last is refused in time."""
    borrower = BorrowerId("looping")
    enrolment = SigningKey.from_secret(Secret(world.add_borrower(borrower).enrolment_key))
    asked = ChallengeRequest(borrower=borrower, models=[MODEL])
    challenge = encode(seal(CHALLENGE_REQUEST, asked, enrolment))
    entries, statuses = len(world.log_entries()), []
    with client_of(world) as stranger:

        def call(times: int) -> None:
            for _ in range(times):
                assert stranger.get("/v1/health").status_code == 200
                assert stranger.get("/v1/key-set").status_code == 200
                statuses.append(stranger.post("/v1/boot/challenge", content=challenge, headers=JSON))

        call(40)
        threads, rss_kb = weight(world.processes["custodian"].pid)
        call(MANY // 3)
    more_threads, more_rss_kb = weight(world.processes["custodian"].pid)
    assert more_threads <= threads + 2
    assert more_rss_kb <= rss_kb + 8_192
    assert 1 <= sum(one.status_code == 200 for one in statuses) <= 100
    refused = next(one for one in statuses if one.status_code != 200)
    assert refused.status_code == 429
    observed.refusal(refused.json())
    # Each refusal is counted; the log grows by a line or two, and nobody else is refused anything.
    assert len(world.log_entries()) <= entries + 2
    assert answered_until_used_up(world.new_consumer(units=1)[1], body, 2)[0] == 1


def weight(pid: int) -> tuple[int, int]:
    """Return the threads of a process, and its resident memory in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return int(found["Threads"]), int(found["VmRSS"].split()[0])
