"""A borrower shows its custodian evidence that is old, of another conversation, or no evidence at all.

The custodian and the enclave are processes; the host has the borrower's keys and speaks for itself.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random

import httpx
import msgspec
import pytest
from conformance.malformed.bundles import load_bundles
from conformance.malformed.fuzz import malformed
from conformance.malformed.structured import edit
from tests.attacks.deployments import Deployment, deployed
from tests.attacks.host import Host
from tests.e2e.commandline import exported
from tests.e2e.world import BORROWER
from tests.effort import effort
from tests.observations import Observed

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.model import Evidence
from aigovtool.codec import decode, encode
from aigovtool.errors import TooLargeError
from aigovtool.ids import BorrowerId
from aigovtool.protocol.session import ATTESTATION_PATH, SessionChallenge, SessionEvidence

BUNDLES = effort(80, campaign=150)
AT_ONCE = 6
#: Whose platform's vendor would have to be asked first is told that, because this custodian asks nobody.
TYPED = {(403, "evidence_not_genuine"), (503, "unreachable")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment that every test leaves whole. Its custodian asks no vendor: no test may, either."""
    with deployed(tmp_path_factory.mktemp("borrowed") / "world", budget=50, enclave=False) as made:
        settings = made.directory / "custodian" / "custodian.json"
        fields = msgspec.json.decode(settings.read_bytes())
        settings.write_bytes(msgspec.json.encode({**fields, "fetch_endorsements": False}))
        restart(made)
        made.start_enclave()
        yield made


def restart(world: Deployment) -> None:
    """End the custodian in an orderly way, and start it again on the same ledger."""
    world.end("custodian")
    world.start_custodian()


def refusals(world: Deployment, borrower: str = BORROWER) -> list[tuple[str, int]]:
    """Return what the exported log says that a borrower was refused, and how often."""
    lines = exported(world.operator_file, world.directory, "attestation_refused")
    return [(f"{one['code']}: {one['reason']}", one.get("times", 1)) for one in lines if one["borrower"] == borrower]


def another_borrower(world: Deployment, name: str) -> Host:
    """Enrol one more borrower, so that what it is refused is told apart; return its host."""
    return Host(world.add_borrower(BorrowerId(name)))


@pytest.mark.attack(1)
@pytest.mark.fault(17)
def test_a_captured_boot_is_refused_however_it_is_sent_again(world: Deployment, observed: Observed) -> None:
    """At once over several connections, then over the same, a new one, and to a custodian that was started again."""
    host = Host.of(world.directory / "borrower.json")
    with host.connected() as conversation:
        captured = host.sealed(host.claims(host.challenge(conversation)))
        with ThreadPoolExecutor(AT_ONCE) as senders:
            at_once = list(senders.map(lambda _: send_alone(host, captured), range(AT_ONCE)))
        assert sorted(one.status_code for one in at_once) == [200] + [403] * (AT_ONCE - 1)
        answers = [one for one in at_once if one.status_code != 200]
        answers.append(host.send(conversation, captured))
    with host.connected() as another:
        answers.append(host.send(another, captured))
    restart(world)
    with host.connected() as later:
        answers.append(host.send(later, captured))
    assert [one.status_code for one in answers] == [403] * (AT_ONCE + 2)
    assert {observed.refusal(one.json()) for one in answers} == {"evidence_not_genuine: nonce_replayed"}
    assert sum(times for what, times in refusals(world) if what == "evidence_not_genuine: nonce_replayed") == len(
        answers
    )
    observed.entry("attestation_refused")
    observed.figure("sent again", len(answers))


def send_alone(host: Host, body: bytes) -> httpx.Response:
    """Send a boot over a connection of its own."""
    with host.connected() as client:
        return host.send(client, body)


@pytest.mark.attack(4)
def test_what_an_enclave_shows_to_a_consumer_admits_nobody(world: Deployment, observed: Observed) -> None:
    """A host and a consumer together have a genuine enclave answer the custodian's nonce; it does not become a boot."""
    host = another_borrower(world, "lodger")
    with host.connected() as client:
        for forge in (as_it_is, in_another_name, with_claims_of_a_boot):
            challenge = host.challenge(client)
            asked = world.connect().request("POST", ATTESTATION_PATH, encode(SessionChallenge(nonce=challenge.nonce)))
            shown = decode(asked.body, SessionEvidence)
            assert (shown.claims.role, shown.claims.nonce) == ("session", challenge.nonce)
            observed.refusal(host.send(client, forge(host, shown)).json())
        own = host.claims(host.challenge(client), role="session")
        answer = host.send(client, host.sealed(own)).json()
    assert observed.refusal(answer) == "evidence_not_genuine: binding_role"
    assert [what for what, _ in refusals(world, "lodger")] == [
        "bad_signature: wrong_key",
        "evidence_not_genuine: channel_binding",
        "evidence_not_genuine: binding_role",
    ]
    observed.entry("attestation_refused")


def as_it_is(host: Host, shown: SessionEvidence) -> bytes:
    """The enclave's own claims: a boot of its identity, which the host cannot sign for."""
    return host.sealed(shown.claims, shown.evidence)


def in_another_name(host: Host, shown: SessionEvidence) -> bytes:
    """The same claims with an identity key that the host has."""
    own = type(shown.claims.identity_key)(host.identity.public.raw)
    return host.sealed(msgspec.structs.replace(shown.claims, identity_key=own), shown.evidence)


def with_claims_of_a_boot(host: Host, shown: SessionEvidence) -> bytes:
    """Claims such as the custodian expects, beside evidence over others."""
    with_nonce = {"nonce": shown.claims.nonce, "appraisal_policy": shown.claims.appraisal_policy}
    boot = msgspec.structs.replace(shown.claims, role="boot", manifests=(), **with_nonce)
    own = type(boot.identity_key)(host.identity.public.raw)
    return host.sealed(msgspec.structs.replace(boot, identity_key=own), shown.evidence)


@pytest.mark.attack(9)
def test_malformed_bundles_are_refused_and_disturb_nobody(world: Deployment, observed: Observed) -> None:
    """Of every kind of TEE, bent in all ways of the fuzzer: typed refusals only, the same process, and boots go on."""
    host, custodian = another_borrower(world, "bender"), world.processes["custodian"]
    seen: Counter[str] = Counter()
    with host.connected() as client:
        for bent in itertools.islice(malformed_evidence(host), BUNDLES):
            claims = host.claims(host.challenge(client))
            answer = host.send(client, host.sealed(claims, bent(claims)))
            problem = answer.json()
            assert (answer.status_code, problem["code"]) in TYPED, problem
            seen[f"{problem['code']}: {problem['reason']}"] += 1
        honest = host.send(client, host.sealed(host.claims(host.challenge(client)))).json()
    assert honest["reason"] == "not_lent"  # its evidence is accepted, as before
    assert "evidence_not_genuine: internal" not in seen
    assert len(seen) > 10, seen
    assert custodian.poll() is None
    world.kill("enclave")
    world.start_enclave()
    observed.figure("malformed bundles", BUNDLES)
    observed.figure("reasons", len(seen))


def malformed_evidence(host: Host) -> Iterator[Callable[[Binding], Evidence]]:
    """Yield what makes bent evidence: of the simulated TEE, over the very claims, and of other kinds, in turn."""
    chance = Random(9)
    bundles = [one for one in load_bundles() if one is not None]
    while True:
        yield lambda claims: edited(host.platform.attest(claims), chance)
        bundle = chance.choice(bundles)
        parts = malformed(bundle, chance)
        if parts == bundle.parts:
            continue
        try:
            made = Evidence(tee=bundle.tee, data=parts[0], endorsements=parts[1:])
        except TooLargeError:
            continue
        yield partial(whatever_is_claimed, made)


def whatever_is_claimed(evidence: Evidence, _: Binding) -> Evidence:
    """Evidence that was made before the nonce was known."""
    return evidence


def edited(evidence: Evidence, chance: Random) -> Evidence:
    """Return evidence that differs in its data or in one endorsement."""
    parts = [evidence.data, *evidence.endorsements]
    at = chance.randrange(len(parts))
    changed = edit(parts[at], chance) or b"\0"
    if changed == parts[at]:
        return edited(evidence, chance)
    parts[at] = changed
    return msgspec.structs.replace(evidence, data=parts[0], endorsements=tuple(parts[1:]))
