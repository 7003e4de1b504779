"""Between a consumer and a genuine enclave: whoever ends TLS there is refused, and whoever listens reads nothing.

The enclave and the custodian are processes; the consumer is the command line, and where many ways are tried, the
library that the command line is made of.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.attacks.deployments import Deployment, deployed
from tests.attacks.host import LOOSE
from tests.attacks.middle import Forge, Middle, between, reading
from tests.attacks.wire import APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, Tap, Tapped, records, tapping
from tests.e2e.commandline import aigovtool
from tests.e2e.world import BORROWER, MODEL
from tests.observations import Observed

from aigovtool.attestation.binding import Binding, HpkePublicKey, IdentityPublicKey
from aigovtool.attestation.model import TeeType
from aigovtool.codec import decode, encode
from aigovtool.consumer import Client
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import VerificationError
from aigovtool.ids import Nonce, digest_of
from aigovtool.protocol.party import BorrowerFile
from aigovtool.protocol.session import ATTESTATION_PATH, SessionChallenge, SessionEvidence
from aigovtool.testing.simulated_tee.wiring import development_policy

#: A prompt that is found again wherever it goes: 64 numbers that nobody else asks.
PROMPT = np.random.default_rng(5).standard_normal((1, 64), np.float32)
REQUEST_ID = "canary-of-a-request-that-nobody-else-makes"


@dataclass
class Site:
    """A deployment all of whose connections are tapped, and somebody in the middle before its enclave."""

    world: Deployment
    custodian: Tap
    enclave: Tap
    middle: Middle
    file: Path
    prompt: Path

    def infer(self, url: str, *more: object, file: Path | None = None, code: int = 0) -> Any:
        """Ask as the consumer does, and return the answer or the error."""
        words = ("--enclave", url, "--credential", file or self.file, "--input", self.prompt, *more, "--json")
        return json.loads(aigovtool("infer", MODEL, *words, code=code).stdout)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Every test leaves it whole."""
    directory = tmp_path_factory.mktemp("middle") / "world"
    with deployed(directory, budget=50, enclave=False) as world, tapping(world.custodian_port) as custodian:
        party = decode((directory / "borrower.json").read_bytes(), BorrowerFile)
        address = msgspec.structs.replace(party.custodian, url=f"https://127.0.0.1:{custodian.port}")
        world.private("borrower.json", msgspec.structs.replace(party, custodian=address))
        world.start_enclave()
        np.save(directory / "prompt.npy", PROMPT)
        with tapping(world.enclave_port) as enclave, between(world.connect) as middle:
            file = world.consumer_file()
            yield Site(world, custodian, enclave, middle, file, directory / "prompt.npy")


@pytest.fixture
def middle(site: Site) -> Iterator[Middle]:
    """The middle, which begins anew with each test."""
    site.middle.asked.clear()
    site.middle.read = b""
    usual = site.middle.connect, site.middle.forge
    yield site.middle
    site.middle.connect, site.middle.forge = usual


def its_own_key_in_the_claims(middle: Middle) -> Callable[[SessionEvidence], SessionEvidence]:
    """Claims such as the consumer would have to see over the middle's connection."""

    def swap(session: SessionEvidence) -> SessionEvidence:
        return msgspec.structs.replace(session, claims=msgspec.structs.replace(session.claims, tls_spki=middle.spki))

    return swap


@pytest.mark.attack(2, 4)
@pytest.mark.fault(18)
def test_whoever_ends_tls_before_a_genuine_enclave_gets_no_prompt(
    site: Site, middle: Middle, observed: Observed
) -> None:
    """Evidence as it is, with the middle's own key in the claims, or made for a colleague: exit code 5 each time."""
    told = [observed.refusal(site.infer(middle.url, "--allow-simulated", code=5)["error"])]
    middle.forge = reading(its_own_key_in_the_claims(middle))
    told.append(observed.refusal(site.infer(middle.url, "--allow-simulated", code=5)["error"]))
    middle.connect, middle.forge = site.world.add_consumer("mallory").connect, lambda body: body
    told.append(observed.refusal(site.infer(middle.url, "--allow-simulated", code=5)["error"]))
    assert told == [
        "evidence_not_genuine: binding_tls_spki",
        "evidence_not_genuine: channel_binding",
        "evidence_not_genuine: binding_audience",
    ]
    assert middle.asked == [ATTESTATION_PATH] * 3
    assert PROMPT.tobytes() not in middle.read


@pytest.mark.attack(1, 2)
@pytest.mark.fault(17)
def test_no_field_of_relayed_evidence_can_be_swapped(site: Site, middle: Middle, observed: Observed) -> None:
    """Each claim in turn, and evidence that answered another nonce: nothing more is sent to such an enclave."""
    own = SigningKey.generate().public
    swaps: dict[str, object] = {
        "role": "boot",
        "audience": "consumer:mallory",
        "nonce": Nonce("00" * 32),
        "tls_spki": middle.spki,
        "hpke_key": HpkePublicKey(bytes(32)),
        "identity_key": IdentityPublicKey(own.raw),
        "instance": "00" * 32,
        "custodian_root": own.key_id,
        "configuration": digest_of(b"another configuration"),
        "appraisal_policy": digest_of(b"another policy"),
        "manifests": (),
    }
    assert set(swaps) == set(Binding.__struct_fields__)
    for name, value in swaps.items():
        change = {name: value, **({"manifests": ()} if name == "role" else {})}
        middle.forge = with_claims(change)
        assert refused(site, middle) == "evidence_not_genuine: channel_binding", name
    asked = site.world.connect().request("POST", ATTESTATION_PATH, encode(SessionChallenge(nonce=Nonce("ab" * 32))))
    middle.forge = lambda _: asked.body
    assert observed.refusal(refusal(site, middle)) == "evidence_not_genuine: binding_nonce"
    assert set(middle.asked) == {ATTESTATION_PATH}
    observed.figure("claims swapped", len(swaps))


def with_claims(change: dict[str, Any]) -> Forge:
    """Change claims after the evidence was made."""
    return reading(lambda one: msgspec.structs.replace(one, claims=msgspec.structs.replace(one.claims, **change)))


def labelled(tee: TeeType) -> Forge:
    """Call evidence that of another TEE."""
    return reading(lambda one: msgspec.structs.replace(one, evidence=msgspec.structs.replace(one.evidence, tee=tee)))


def refusal(site: Site, middle: Middle) -> VerificationError:
    """Return why the consumer's library refuses what is in the middle."""
    with pytest.raises(VerificationError) as caught:
        Client.connect(middle.url, site.file, allow_simulated=True)
    return caught.value


def refused(site: Site, middle: Middle) -> str:
    """Return the same in words."""
    error = refusal(site, middle)
    return f"{error.code}: {error.reason}"


@pytest.mark.attack(8)
@pytest.mark.fault(22)
def test_a_consumer_is_not_talked_into_a_simulated_tee(
    site: Site, middle: Middle, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real simulated enclave, its evidence under other labels, and every variable that might loosen something."""
    url = f"https://127.0.0.1:{site.world.enclave_port}"
    strict = site.world.consumer_file(
        "strict.json", msgspec.structs.replace(development_policy(), allow_simulated=False)
    )
    for name in LOOSE:
        monkeypatch.setenv(name, "1")
    told = {
        observed.refusal(site.infer(url, code=5)["error"]),
        observed.refusal(site.infer(url, "--allow-simulated", file=strict, code=5)["error"]),
    }
    assert told == {"evidence_unacceptable: simulated"}
    for label in TeeType:
        if label is not TeeType.SIMULATED:
            middle.forge = labelled(label)
            assert refusal(site, middle).code == "evidence_not_genuine"
    middle.forge = without_a_label
    assert refused(site, middle) == "evidence_not_genuine: bad_session"
    assert set(middle.asked) == {ATTESTATION_PATH}


def without_a_label(body: bytes) -> bytes:
    """Evidence that does not say of which TEE it is."""
    document = json.loads(body)
    del document["evidence"]["tee"]
    return json.dumps(document).encode()


@pytest.mark.fault(18)
def test_whoever_listens_to_all_connections_reads_nothing(site: Site, observed: Observed) -> None:
    """Boot, key release, leases, orders and an inference are tapped; after the first hello all of it is encrypted."""
    world = site.world
    operator = msgspec.structs.replace(
        world.operator,
        custodian=msgspec.structs.replace(world.operator.custodian, url=f"https://127.0.0.1:{site.custodian.port}"),
    )
    path = world.private("tapped.json", operator)
    aigovtool("usage", operator=path)
    answer = site.infer(f"https://127.0.0.1:{site.enclave.port}", "--allow-simulated", "--request-id", REQUEST_ID)
    tapped = [*site.custodian.connections, *site.enclave.connections]
    secret = secrets_of(site, answer)
    for connection in tapped:
        hidden = encrypted(connection)
        assert [word for word in secret if word in hidden or word in connection.sent + connection.answered] == []
        assert not any(word in hidden.lower() for word in (b"http/1.1", b"content-", b"post /"))
    observed.figure("connections tapped", len(tapped))
    observed.figure("bytes tapped", sum(len(one.sent) + len(one.answered) for one in tapped))
    assert len(site.custodian.connections) >= 3
    assert len(site.enclave.connections) >= 2


def secrets_of(site: Site, answer: Any) -> list[bytes]:
    """What must not be on the wire: keys, the prompt, its answer's receipt, names of things."""
    party = decode((site.world.directory / "borrower.json").read_bytes(), BorrowerFile)
    words = [party.enrolment_key, site.world.operator.key, site.world.consumer_key.to_secret().reveal()]
    words += [PROMPT.tobytes(), REQUEST_ID.encode(), answer["instance"].encode(), answer["manifest"].encode()]
    return [*words, b"/v1/boot", b"/v2/models", b"inferences", BORROWER.encode()]


def encrypted(connection: Tapped) -> bytes:
    """Return what follows the hellos, after making sure that it is nothing but encrypted records of TLS 1.3."""
    found = b""
    for stream in (connection.sent, connection.answered):
        if not stream:  # just opened
            continue
        (first, _), *rest = records(bytes(stream))
        assert first == HANDSHAKE
        assert {kind for kind, _ in rest} <= {CHANGE_CIPHER_SPEC, APPLICATION_DATA}
        assert [content for kind, content in rest if kind == CHANGE_CIPHER_SPEC] in ([], [b"\1"])
        found += b"".join(content for _, content in rest)
    return found
