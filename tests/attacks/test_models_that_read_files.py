"""Attacks 25 and 26: models that are malformed, or after files, code or memory of the enclave that loads them."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.attacks.deployments import deployed
from tests.attacks.hostile_models import HOSTILE
from tests.attacks.hostile_sealing import HostileDeployment
from tests.attacks.refusals import refusal_of
from tests.e2e.commandline import aigovtool
from tests.e2e.model import one_digit
from tests.e2e.world import MODEL, Answer, World
from tests.observations import Observed
from tests.product_process import environment

ROOT = Path(__file__).parents[2]
#: Loads packages in an engine child, as an enclave does, and says what came of each.
LOADER = """
import asyncio, json, sys
from pathlib import Path
from assurance.models.sealing import seal_model
from tests.attacks.hostile_models import HOSTILE
from aigovtool.enclave.engines.process import EngineProcess
from aigovtool.errors import AIGovToolError

async def main(folder):
    engine = await EngineProcess.start()
    print(json.dumps(["pid", engine.pid, ""]), flush=True)
    for name, make in HOSTILE.items():
        model = make(str(folder / "canary"))
        sealed = seal_model(folder / "package", model.SerializeToString(), model)
        try:
            await sealed.load(engine, 60_000)
            print(json.dumps([name, "loaded", ""]), flush=True)
        except AIGovToolError as error:
            print(json.dumps([name, error.code, error.reason]), flush=True)
    if engine.died.is_set():
        raise SystemExit("the child died")
    await engine.kill_and_wait()

asyncio.run(main(Path(sys.argv[1])))
"""
#: Loads the same in the library itself, outside any sandbox: it shows that strace would have seen it.
PLAIN = """
import sys
import onnxruntime
from tests.attacks.hostile_models import HOSTILE
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
try:
    onnxruntime.InferenceSession(HOSTILE["a path that climbs"](sys.argv[1]).SerializeToString(), options)
except Exception:
    pass
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that nobody has any business with."""
    path = tmp_path / "canary"
    path.write_bytes(b"what the machine keeps for itself")
    return path


def traced(log: Path, *command: str) -> list[str]:
    """Return the command that does the same under the eyes of strace, children included."""
    quick = ["--seccomp-bpf"] if command else []  # which can only be where a process is started
    return ["strace", "-f", *quick, "-e", "trace=%file,%network", "-o", str(log), *command]


def python(code: str, *arguments: object) -> list[str]:
    """Return the command that runs a program of a test."""
    return [sys.executable, "-c", code, *(str(one) for one in arguments)]


@pytest.mark.attack(26)
@pytest.mark.needs("strace")
def test_nothing_of_the_machine_is_opened_for_a_model(tmp_path: Path, canary: Path, observed: Observed) -> None:
    """Whatever a model refers to, neither parent nor child so much as looks whether it is there.

    The child may look in its own root, which is empty: there is nothing under any name.
    """
    log = tmp_path / "strace"
    here = environment(PYTHONPATH=str(ROOT))
    command = traced(log, *python(LOADER, tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=here)
    assert done.returncode == 0, done.stderr
    (_, child, _), *came = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(name, code) for name, code, _ in came] == [(name, "model_refused") for name in HOSTILE]
    for _, code, reason in came:
        observed.refusal({"code": code, "reason": reason})
    lines = log.read_text().splitlines()
    assert len([line for line in lines if line.split()[0] == str(child)]) > 100, "the child was not looked at"
    roots = [number for number, line in enumerate(lines) if 'chroot(".")' in line and line.endswith(" = 0")]
    looked = [number for number, line in enumerate(lines) if "canary" in line]
    assert len(roots) <= 1
    assert all(roots and number > roots[0] for number in looked)
    assert [lines[number] for number in looked if re.search(r" = -1 (ENOENT|ENOTDIR) ", lines[number]) is None] == []
    subprocess.run(traced(log, *python(PLAIN, canary)), check=True, cwd=ROOT, env=here)
    assert "canary" in log.read_text(), "strace would not have seen it"
    observed.figure("models that are after something", len(came))


@pytest.mark.attack(26)
def test_the_sealing_tool_refuses_what_refers_to_anything_outside(
    tmp_path: Path, canary: Path, observed: Observed
) -> None:
    """Whoever seals with the product is told what is wrong with the model, and no package is made."""
    aigovtool("custodian", "init", tmp_path / "custodian")
    wanted = {
        "a path": "external_location",
        "a path that climbs": "external_location",
        "in a function": "external_location",
        "members of the reader": "external_key",
        "a library": "custom_operator",
        "a compiled model": "operator_refused",
    }
    for name, reason in wanted.items():
        (tmp_path / "model.onnx").write_bytes(HOSTILE[name](str(canary)).SerializeToString())
        words = ("model", "seal", tmp_path / "model.onnx", "--name", MODEL, "-o", tmp_path / "sealed", "--json")
        refused = aigovtool(*words, operator=tmp_path / "custodian" / "operator.json", code=5)
        assert observed.refusal(json.loads(refused.stdout)["error"]) == f"model_refused: {reason}", name
        assert not (tmp_path / "sealed").exists()


@pytest.mark.attack(25, 26)
@pytest.mark.fault(38)
@pytest.mark.needs("strace")
def test_an_enclave_that_is_lent_a_hostile_model_says_so_and_opens_nothing(
    tmp_path: Path, canary: Path, observed: Observed
) -> None:
    """A custodian that seals by itself: the enclave tries to boot, and ends with a typed error; no unit moves."""
    log, hostile = tmp_path / "strace", bytes(HOSTILE["a path"](str(canary)).SerializeToString())
    with deployed(tmp_path / "world", model=hostile, enclave=False, kind=HostileDeployment) as world:
        world.start_enclave(wait=False)
        enclave = world.processes["enclave"]
        eyes = subprocess.Popen([*traced(log), "-p", str(enclave.pid)], stderr=subprocess.DEVNULL)
        assert enclave.wait(90) == 1
        assert eyes.wait(20) == 0
        said = world.log_of("enclave")
        assert said.count("boot_failed") == 4, said[-2000:]
        assert said.rstrip().endswith("ModelError: ONNX Runtime refuses the model (Fail)"), said[-500:]
        observed.refusal({"code": "model_refused", "reason": "engine_refused"})
        lines = log.read_text()
        assert lines.count("aigovtool.enclave.engines.first") >= 4
        assert "canary" not in lines
        assert world.charged() == 0


@pytest.mark.attack(25)
@pytest.mark.fault(38)
def test_an_engine_that_crashes_costs_a_moment_and_no_unit(tmp_path: Path, observed: Observed) -> None:
    """As if a model had made it crash in the middle of runs: the enclave lives on, attests anew, and serves again.

    What was answered was charged, and nothing else: the enclave counts, not its engine.
    """
    charged = 0
    with deployed(tmp_path) as world:
        enclave = world.processes["enclave"]
        for number in (signal.SIGSEGV, signal.SIGKILL):
            engine = world.engine_pid()
            answers = crash(world, engine, number)
            for answer in answers:
                if answer.status != 200:
                    observed.refusal(refusal_of(answer, 423, 500, 503))
            begun = time.monotonic()
            world.wait_for(lambda: serves(world), "it serves again")
            observed.figure("s until it served again", round(time.monotonic() - begun, 1))
            assert enclave.poll() is None
            assert world.engine_pid() != engine
            charged += sum(answer.status == 200 for answer in answers)
            world.wait_for(lambda: world.posted() == charged, f"{charged} units are charged")  # noqa: B023 - at once
            charged += 1


def crash(world: World, engine: int, number: int) -> list[Answer]:
    """End the engine with a signal while it computes for others; return what these were answered."""
    answers: list[Answer] = []

    def ask() -> None:
        link = world.connect()
        with suppress(OSError, http.client.HTTPException):  # the enclave has a new key then: old connections end
            while not answers or answers[-1].status == 200:
                answers.append(link.infer(one_digit()))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for one in asking:
        one.start()
    world.wait_for(lambda: len(answers) > 20, "runs are under way")
    os.kill(engine, number)
    for one in asking:
        one.join()
    return answers


def serves(world: World) -> bool:
    """Return whether an inference is answered now."""
    try:
        return world.connect().infer(one_digit()).status == 200
    except (OSError, http.client.HTTPException):
        return False
