"""What an enclave leaves with its host: no state that could be put back, and after a wipe no weights and no key."""

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.attacks.deployments import Around, Deployment, answered_until_refused, deployed
from tests.attacks.engine_root import of_the_machine
from tests.attacks.memory import lying_in
from tests.e2e import world as world_module
from tests.e2e.model import digits_model
from tests.observations import Observed

from aigovtool.crypto.secret import ModelKey, Secret

_WRITING = re.compile(r'open(?:at2?)?\([^"]*"([^"]*)", [^)]*O_(?:WRONLY|RDWR|CREAT|TRUNC|APPEND)|creat\("([^"]*)"')


def opened_for_writing(trace: Path) -> set[Path]:
    """Return the files that were opened so, or made, by any thread or child."""
    found = [
        match for line in trace.read_text().splitlines() if " = -1 " not in line for match in _WRITING.findall(line)
    ]
    return {Path(one or other) for one, other in found}


@pytest.mark.attack(13)
@pytest.mark.needs("strace")
def test_an_enclave_writes_ciphertext_and_nothing_else(tmp_path: Path, body: bytes, observed: Observed) -> None:
    """From its start over inferences and a stop to its end, both of its processes: there is no state to roll back."""
    trace = tmp_path / "trace"
    words = (
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-s",
        "4096",
        "-o",
        str(trace),
        "-e",
        "trace=open,openat,openat2,creat",
    )

    def prepare(world: Deployment) -> None:
        # Python's own cache of compiled modules is none of the enclave's.
        world.around = {"enclave": Around(words=words, environment={"PYTHONDONTWRITEBYTECODE": "1"})}

    with deployed(tmp_path / "world", ttl_ms=1_000, prepare=prepare) as world:
        consumer = world.add_consumer("ann", 50)
        connection = consumer.connect()
        assert answered_until_refused(connection, body, 20) == (20, None)
        world.stop()
        world.wait_for(lambda: world.view("/v1/enclaves")["enclaves"][0]["state"] == "wiped", "it is wiped")
        connection.close()
        world.end("enclave")
        written = {path for path in opened_for_writing(trace) - {Path(os.devnull)} if of_the_machine(str(path))}
        cache = world.directory / "cache"
        assert written
        assert {path.parent for path in written} == {cache}
        (kept,) = cache.iterdir()
        assert kept.read_bytes() == (world.directory / "model.aigov").read_bytes()
    observed.figure("files written outside the cache of ciphertext", 0)


def some_weights() -> bytes:
    """Return a dozen weights of the model as they lie in the memory of whatever computes with them."""
    (layer,) = [node for node in onnx.load_from_string(digits_model()).graph.node if node.op_type == "LinearClassifier"]
    (found,) = [attribute.floats for attribute in layer.attribute if attribute.name == "coefficients"]
    return np.array(found, np.float32)[10:22].tobytes()


@pytest.fixture
def model_keys(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys of all models that are sealed in this test."""
    made: list[bytes] = []

    def remembered(secret: Secret) -> ModelKey:
        made.append(secret.reveal())
        return ModelKey(secret)

    monkeypatch.setattr(world_module, "ModelKey", remembered)
    return made


@pytest.mark.fault(10)
@pytest.mark.needs("root")
def test_after_a_wipe_no_memory_holds_weights_or_key(
    tmp_path: Path, body: bytes, model_keys: list[bytes], observed: Observed
) -> None:
    """The engine's process had the weights, and is gone; the enclave's own process never had them, nor the key."""
    weights = some_weights()
    with deployed(tmp_path / "world", ttl_ms=1_000) as world:
        (key,) = model_keys
        assert world.connect().infer(body).status == 200
        engine, enclave = world.engine_pid(), world.processes["enclave"].pid
        assert lying_in(engine, weights)
        assert lying_in(os.getpid(), key)
        world.stop()
        world.wait_for(lambda: world.view("/v1/enclaves")["enclaves"][0]["state"] == "wiped", "it is wiped")
        assert not Path(f"/proc/{engine}").exists()
        assert lying_in(enclave, weights, key) == set()
    observed.figure("copies of weights and key in memory after a wipe", 0)
