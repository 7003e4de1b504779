"""What is secret stays with whom it belongs: not in others' files, logs, arguments, environments, memory, or traffic.

A custodian, an enclave and a consumer live once from `init` to a wipe, by the command line. Then the numbers that are
the model's weights, a prompt and an answer, the model's key and everybody's own keys are looked for wherever somebody
else could find them; and, so that finding nothing means something, also where they must be.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.attacks.lent import Lent, lent, numbers
from tests.attacks.looking import (
    Onlooker,
    found_in,
    found_in_files,
    found_in_memory,
    looking,
    only,
    spellings,
    spelt_numbers,
)
from tests.e2e.world import wait_for
from tests.observations import Observed

from aigovtool.codec import decode
from aigovtool.crypto.keyfile import read_secret_file
from aigovtool.crypto.wrap import WrapKey
from aigovtool.ids import key_id_of
from aigovtool.operator.deposit import KeyDeposit
from aigovtool.protocol.party import BorrowerFile, ConsumerFile, OperatorFile
from aigovtool.protocol.release import deposit_context

_PROMPT = numbers(2)
#: Starts a program that may write core files as large as it likes.
_UNLIMITED = ("bash", "-c", 'ulimit -c unlimited; exec "$@"', "-")


@dataclass
class Life:
    """One deployment, after it has answered; what was secret in it; what its processes showed meanwhile."""

    lent: Lent
    secrets: dict[str, list[bytes]]
    shown: Onlooker
    #: What each process had in its memory while all was up: the secrets, and how many bytes were looked at.
    memory: dict[str, tuple[set[str], int]] = field(default_factory=dict)
    #: Which of them left a core file when they crashed, at the end.
    cores: dict[str, bool] = field(default_factory=dict)


def secrets_of(made: Lent) -> dict[str, list[bytes]]:
    """Return how all that is secret may be spelt."""
    operator = decode(made.path("custodian/operator.json").read_bytes(), OperatorFile)
    deposit = decode(made.path("adder.aigov.key").read_bytes(), KeyDeposit)
    keystore = WrapKey.from_secret(read_secret_file(made.path("custodian/keys/keystore.key")))
    context = deposit_context(key_id_of(operator.custodian.root), deposit.manifest)
    return {
        "weights": spelt_numbers(made.weights),
        "prompt": spelt_numbers(_PROMPT),
        "output": spelt_numbers(_PROMPT + made.weights),
        "model key": spellings(keystore.unwrap(deposit.wrapped_key, context).reveal()),
        "operator's key": spellings(operator.key),
        "consumer's key": spellings(decode(made.path("ward7.json").read_bytes(), ConsumerFile).key),
        "borrower's key": spellings(decode(made.path("hospital.json").read_bytes(), BorrowerFile).enrolment_key),
    }


def in_memory(pid: int, secrets: dict[str, list[bytes]]) -> tuple[set[str], int]:
    """Look into a process: as root, whom nothing forbids it; anybody else must be refused."""
    if os.geteuid() == 0:
        return found_in_memory(pid, secrets)
    with pytest.raises(PermissionError):
        found_in_memory(pid, secrets)
    return set(), 0


def left_a_core(process: "subprocess.Popen[bytes]") -> bool:
    """Have a process crash; return whether the kernel wrote its memory to a file."""
    process.send_signal(signal.SIGSEGV)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == -signal.SIGSEGV
    return os.WCOREDUMP(status)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """A deployment from its beginning to a stop with a wipe."""
    with lent(tmp_path_factory.mktemp("secrets"), before=_UNLIMITED) as made, looking() as shown:
        secrets = secrets_of(made)
        made.start_enclave()
        answer = made.infer(_PROMPT)["outputs"][0]["data"]
        assert answer == (_PROMPT + made.weights).ravel().tolist()
        lived = Life(made, secrets, shown)
        pids = {"custodian": made.processes["custodian"].pid, "enclave": made.processes["enclave"].pid}
        engine = made.engine()
        lived.memory = {name: in_memory(pid, secrets) for name, pid in {**pids, "engine": engine}.items()}
        made.run("stop", "--model", "adder", "--reason", "drill", "--wait", 5)
        wait_for(lambda: not Path(f"/proc/{engine}").exists(), "the engine is gone")
        lived.memory["enclave after the wipe"] = in_memory(pids["enclave"], secrets)
        lived.cores = {name: left_a_core(made.processes[name]) for name in ("enclave", "custodian")}
        yield lived


@pytest.mark.attack(33, 44)
@pytest.mark.fault(32)
def test_files_hold_nothing_that_is_not_their_owners(life: Life, observed: Observed) -> None:
    """Custodian's directory, enclave's cache, logs, temporary files, homes: each secret is in its owner's file only."""
    made = life.lent
    own = {
        "adder.onnx": {"weights"},
        "given.json": {"prompt"},
        "custodian/operator.json": {"operator's key"},
        "ward7.json": {"consumer's key"},
        "hospital.json": {"borrower's key"},
    }
    assert found_in_files(made.directory, life.secrets) == own
    assert len(list(made.path("cache").iterdir())) == 1
    assert list(made.path("tmpdir").iterdir()) == []
    observed.figure("files that were looked at", sum(path.is_file() for path in made.directory.rglob("*")))


@pytest.mark.attack(44)
def test_arguments_and_environments_show_nothing(life: Life, observed: Observed) -> None:
    """Of all processes of the run, seen every 20 ms; what a process is given there is seen."""
    planted = {"planted": spellings(os.urandom(32))}
    word = planted["planted"][1].decode()
    with looking() as shown:
        sleeping = subprocess.Popen([sys.executable, "-c", "input()", word], stdin=subprocess.PIPE)
        wait_for(lambda: shown.found(planted) == {"planted"}, "what is planted is seen")
        sleeping.communicate(b"\n")
    assert life.shown.found(life.secrets) == set()
    assert any(b"enclave\0serve" in seen for seen in life.shown.shown.values())
    observed.figure("command lines and environments that were looked at", len(life.shown.shown))


@pytest.mark.attack(33)
def test_traffic_shows_nothing(life: Life, observed: Observed) -> None:
    """Every byte between operator, enclave and custodian, and between consumer and enclave."""
    passed = {name: bytes(recorder.passed) for name, recorder in life.lent.recorders.items()}
    assert {name: found_in(data, life.secrets) for name, data in passed.items()} == {
        "custodian": set(),
        "enclave": set(),
    }
    assert all(len(data) > 4_096 for data in passed.values())
    observed.figure("bytes of traffic that were looked at", sum(map(len, passed.values())))


@pytest.mark.attack(33, 44)
def test_the_custodian_holds_no_prompt_no_output_and_no_weights(life: Life, observed: Observed) -> None:
    """Nor anybody's own key. It wraps the model's key to each enclave, so that may lie in its memory."""
    found, looked_at = life.memory["custodian"]
    assert found <= {"model key"}
    observed.figure("bytes of the custodian's memory that were looked at", looked_at)


@pytest.mark.attack(44)
def test_weights_and_the_models_key_are_with_the_engine_alone(life: Life, observed: Observed) -> None:
    """The enclave's other process, which speaks to the network, never had them; after a wipe there is no engine."""
    inner = only(life.secrets, ["weights", "model key", "operator's key", "consumer's key"])
    for name in ("enclave", "enclave after the wipe"):
        found, looked_at = life.memory[name]
        assert found & inner.keys() == set(), name
        observed.figure(f"bytes of the memory of the {name} that were looked at", looked_at)


def test_what_is_there_is_found(life: Life) -> None:
    """Where root looks, the weights are seen in the engine: otherwise finding nothing would mean nothing."""
    found, looked_at = life.memory["engine"]
    assert ("weights" in found, looked_at > 0) == ((True, True) if os.geteuid() == 0 else (False, False))


@pytest.mark.attack(44)
@pytest.mark.fault(32)
def test_a_crash_leaves_no_core(life: Life, tmp_path: Path) -> None:
    """With no limit on core files: a program that forbids none leaves one here, custodian and enclave do not."""
    code = "print('up', flush=True); input()"
    words, pipe = [*_UNLIMITED, sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(words, cwd=tmp_path, stdin=pipe, stdout=pipe) as plain:
        assert plain.stdout is not None
        assert plain.stdout.readline() == b"up\n"
        assert left_a_core(plain)
    assert life.cores == {"enclave": False, "custodian": False}
    assert [path.name for path in life.lent.directory.rglob("core*")] == []
