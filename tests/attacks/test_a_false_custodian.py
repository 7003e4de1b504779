"""A borrower that is its own custodian, and one that exchanges what lies on its disk.

The borrower owns the network and the disk of its host: it answers at the custodian's address, with the custodian's own
TLS key where somebody gave it away, lends a model of its own under the name of the lent one, and puts other packages
into the enclave's cache.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from tests.attacks.deployments import Deployment, deployed
from tests.attacks.middle import between, reading
from tests.e2e.commandline import aigovtool
from tests.e2e.world import MODEL, free_port, wait_for
from tests.observations import Observed

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import Envelope
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import Nonce
from aigovtool.protocol.party import BorrowerFile
from aigovtool.protocol.session import ATTESTATION_PATH, SessionChallenge, SessionEvidence
from aigovtool.transport.tls import client_context

ENCLAVE = """
import sys
from aigovtool.cli import main
_, borrower, port, cache, model = sys.argv
sys.argv = ["aigovtool", "enclave", "serve", "--tee", "simulated", "--allow-simulated", "--borrower-file", borrower,
            "--model", model, "--listen", f"127.0.0.1:{port}", "--cache", cache]
main()
"""


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Who owns the model. Its enclave has served, so that the package lies in the borrower's cache."""
    with deployed(tmp_path_factory.mktemp("lender") / "world", budget=50) as made:
        yield made


@pytest.fixture(scope="module")
def pretender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The borrower's own custodian and enclave, with the same names for everything."""
    with deployed(tmp_path_factory.mktemp("pretender") / "world", budget=50) as made:
        yield made


def borrower_of(world: Deployment) -> BorrowerFile:
    """The borrower's file of a deployment."""
    return decode((world.directory / "borrower.json").read_bytes(), BorrowerFile)


def start(world: Deployment, name: str, party: Path, cache: Path, port: int) -> None:
    """Start an enclave as its borrower types it, which tells in its log why it does not boot."""
    world.spawn(name, ENCLAVE, str(party), str(port), str(cache), MODEL)


def first_failure(world: Deployment, name: str) -> str:
    """Wait until an enclave could not boot, and return why."""
    wait_for(lambda: "boot_failed" in world.log_of(name), "a boot fails")
    line = next(json.loads(one) for one in world.log_of(name).splitlines() if '"boot_failed"' in one)
    return f"{line['code']}: {line['reason']}"


@pytest.mark.fault(19)
def test_an_enclave_obeys_no_custodian_but_the_one_whose_root_it_was_given(
    lender: Deployment, pretender: Deployment, observed: Observed
) -> None:
    """At the custodian's address, with a TLS key of its own; then with the custodian's, which somebody gave away."""
    address = msgspec.structs.replace(lender.operator.custodian, url=f"https://127.0.0.1:{pretender.custodian_port}")
    path = pretender.private("believing.json", msgspec.structs.replace(borrower_of(pretender), custodian=address))
    told = []
    start(pretender, "believing1", path, pretender.directory / "cache1", free_port())
    told.append(first_failure(pretender, "believing1"))
    pretender.kill("believing1")
    give_away(lender, pretender)
    start(pretender, "believing2", path, pretender.directory / "cache2", free_port())
    told.append(first_failure(pretender, "believing2"))
    pretender.kill("believing2")
    assert told == ["unreachable: custodian", "bad_signature: wrong_key"]
    observed.refusal({"code": "bad_signature", "reason": "wrong_key"})


def give_away(lender: Deployment, pretender: Deployment) -> None:
    """Have the pretender serve with the lender's TLS key and certificate."""
    pretender.end("custodian")
    for name in ("tls.pem", "tls.key"):
        kept = pretender.directory / "custodian" / "keys" / name
        kept.unlink()
        shutil.copy2(lender.directory / "custodian" / "keys" / name, kept)
    where = (str(pretender.directory / "custodian"), str(pretender.custodian_port))
    pretender.spawn("custodian", pretender.custodian_code, *where)
    context = client_context(from_pem(lender.operator.custodian.tls_ca.encode()))
    url = f"https://127.0.0.1:{pretender.custodian_port}"
    with httpx.Client(base_url=url, verify=context, trust_env=False) as client:
        wait_for(lambda: lender.answers(client), "the pretender answers with the lender's certificate")


@pytest.mark.fault(19, 20)
def test_a_consumer_is_not_served_by_the_borrowers_own_model_of_the_same_name(
    lender: Deployment, pretender: Deployment, observed: Observed
) -> None:
    """The borrower's whole own deployment answers, and shows the key set of its own root, or the lender's."""
    prompt = lender.directory / "prompt.npy"
    np.save(prompt, np.zeros((1, 64), np.float32))
    file = lender.consumer_file()
    words = ("--credential", file, "--input", prompt, "--allow-simulated", "--json")
    with between(pretender.connect) as middle:
        told = [aigovtool("infer", MODEL, "--enclave", middle.url, *words, code=5)]
        key_set = genuine_key_set(lender)
        middle.forge = reading(lambda one: msgspec.structs.replace(one, key_set=key_set))
        told.append(aigovtool("infer", MODEL, "--enclave", middle.url, *words, code=5))
        assert middle.asked == [ATTESTATION_PATH] * 2
    errors = [json.loads(one.stdout)["error"] for one in told]
    assert observed.refusal(errors[0]) == "bad_signature: wrong_key"
    assert "custodian_root" in errors[1]["message"]


def genuine_key_set(lender: Deployment) -> Envelope:
    """The key set that the lender's root signed, as the lender's enclave shows it to everybody."""
    asked = lender.connect().request("POST", ATTESTATION_PATH, encode(SessionChallenge(nonce=Nonce("ab" * 32))))
    return decode(asked.body, SessionEvidence).key_set


@pytest.mark.fault(20)
def test_another_package_in_the_cache_is_not_served(
    lender: Deployment, pretender: Deployment, observed: Observed
) -> None:
    """A package of the same name that another custodian sealed, then the right one with one flipped bit."""
    cache = lender.directory / "cache"
    (package,) = cache.glob("*.aigov")
    genuine = package.read_bytes()
    flipped = bytearray(genuine)
    flipped[len(flipped) // 2] ^= 1
    foreign = (pretender.directory / "model.aigov").read_bytes()
    told = []
    for number, content in enumerate((foreign, bytes(flipped))):
        lender.kill("enclave" if number == 0 else "swapped0")
        package.write_bytes(content)
        start(lender, f"swapped{number}", lender.directory / "borrower.json", cache, lender.enclave_port)
        told.append(first_failure(lender, f"swapped{number}"))
        lender.wait_ready()
        assert package.read_bytes() == genuine
    lender.kill("swapped1")
    lender.start_enclave()
    assert told == ["bad_signature: wrong_key", "package_invalid: segment"]
    observed.refusal({"code": "package_invalid", "reason": "segment"})
