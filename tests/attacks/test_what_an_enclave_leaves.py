"""What an enclave leaves with its host: no state that could be put back, and after a wipe no weights and no key."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.attacks.hosted import Around, Hosted, answered_until_refused, hosted
from tests.e2e import world as world_module
from tests.e2e.model import digits_model
from tests.observations import Observed

from aigovtool.crypto.secret import ModelKey, Secret

_WRITING = re.compile(r'open(?:at2?)?\([^"]*"([^"]*)", [^)]*O_(?:WRONLY|RDWR|CREAT|TRUNC|APPEND)|creat\("([^"]*)"')
_MAPPED = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r")
#: What a process may read at once of another's memory.
_PIECE = 16 << 20


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

    def prepare(world: Hosted) -> None:
        # Python's own cache of compiled modules is none of the enclave's.
        world.around = {"enclave": Around(words=words, environment={"PYTHONDONTWRITEBYTECODE": "1"})}

    with hosted(tmp_path / "world", prepare=prepare) as world:
        consumer = world.add_consumer("ann", 50)
        connection = consumer.connect(world.enclave_port)
        assert answered_until_refused(connection, body, 20) == (20, None)
        world.stop()
        world.wait_for(lambda: world.view("/v1/enclaves")["enclaves"][0]["state"] == "wiped", "it is wiped")
        world.kill("enclave", 15)
        world.processes["enclave"].wait(30)
        connection.close()
        written = opened_for_writing(trace) - {Path(os.devnull)}
        cache = world.directory / "cache"
        assert written
        assert {path.parent for path in written} == {cache}
        (kept,) = cache.iterdir()
        assert kept.read_bytes() == (world.directory / "model.aigov").read_bytes()
    observed.figure("files written outside the cache of ciphertext", 0)


def occurrences(pid: int, wanted: bytes) -> int:
    """Return how often some bytes lie in the memory of a process."""
    count = 0
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            if match := _MAPPED.match(line):
                start, end = (int(one, 16) for one in match.groups())
                count += sum(piece.count(wanted) for piece in _pieces(memory, start, end))
    return count


def _pieces(memory: object, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _PIECE):
        try:
            yield os.pread(memory.fileno(), min(_PIECE, end - at), at)  # type: ignore[attr-defined]
        except OSError:  # a part that the kernel keeps for itself
            return


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
    with hosted(tmp_path / "world") as world:
        (key,) = model_keys
        assert world.connect().infer(body).status == 200
        engine, enclave = world.engine_pid(), world.processes["enclave"].pid
        assert occurrences(engine, weights) > 0
        assert occurrences(os.getpid(), key) > 0
        world.stop()
        world.wait_for(lambda: world.view("/v1/enclaves")["enclaves"][0]["state"] == "wiped", "it is wiped")
        assert not Path(f"/proc/{engine}").exists()
        assert [occurrences(enclave, wanted) for wanted in (weights, key)] == [0, 0]
    observed.figure("copies of weights and key in memory after a wipe", 0)
