"""`aigovtool connect` and its verbs, as a user runs them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
from tests.clients.deployment import Gateway, connecting
from tests.clients.programs import in_json
from tests.e2e.commandline import aigovtool
from tests.e2e.world import MODEL, free_port
from tests.product_process import environment

ONE = np.ones((1, 2), np.float32)


def ask(url: str, request_id: str) -> requests.Response:
    """Ask once, as any program."""
    fields = {"aigovtool-request-id": request_id}
    return requests.post(f"{url}/v2/models/{MODEL}/infer", data=in_json(ONE, ["a"]), headers=fields, timeout=60)


def test_the_status_says_what_the_gateway_knows(gateway: Gateway) -> None:
    """For people and for programs."""
    ask(gateway.url, "for-the-status").raise_for_status()
    told = aigovtool("connect", "status", "--gateway", gateway.address)
    for words in ("ward7", gateway.enclave, "verified", "SIMULATED", MODEL, "left", "receipts kept"):
        assert words in told.stdout
    assert "SIMULATED TEE" in told.stderr
    found = json.loads(aigovtool("connect", "status", "--gateway", gateway.address, "--json").stdout)
    assert found["enclaves"][0]["models"][0]["remaining"]["inferences"] > 0


def test_no_gateway_is_said_to_be_none(gateway: Gateway) -> None:
    """Neither where nobody listens, nor where somebody else does."""
    for port in (free_port(), gateway.world.custodian_port):
        failed = aigovtool("connect", "status", "--gateway", f"127.0.0.1:{port}", code=7)
        assert "gateway" in failed.stderr


def test_the_log_shows_and_checks_what_was_seen(gateway: Gateway) -> None:
    """The digest of the last line is what to keep."""
    told = aigovtool("connect", "log", "--home", gateway.home)
    for words in (gateway.enclave, "verified", "simulated", "started", "sha256:"):
        assert words in told.stdout
    found = json.loads(aigovtool("connect", "log", "--home", gateway.home, "--json").stdout)
    assert found["last"] in told.stdout
    assert [line["event"] for line in found["lines"]][:2] == ["verified", "started"]


def test_a_log_that_was_changed_ends_with_the_code_of_verification(gateway: Gateway, tmp_path: Path) -> None:
    """Attack: the line that tells which policy was in force is written anew."""
    content = (gateway.home / "evidence.jsonl").read_bytes()
    (tmp_path / "evidence.jsonl").write_bytes(content.replace(b"simulated", b"sev_snp") + b'{"at_ms":1}\n')
    failed = aigovtool("connect", "log", "--home", tmp_path, code=5)
    assert "line" in failed.stderr


def test_a_kept_receipt_is_taken_out_and_verifies(gateway: Gateway, tmp_path: Path) -> None:
    """With the two bodies as the program had them."""
    answer = ask(gateway.url, "patient-7")
    answer.raise_for_status()
    receipt, request, response = (tmp_path / name for name in ("receipt.json", "request", "response"))
    request.write_bytes(in_json(ONE, ["a"]))
    response.write_bytes(answer.content)
    aigovtool("connect", "receipt", "patient-7", "--home", gateway.home, "--save", receipt)
    bodies = ("--request", request, "--response", response)
    verify = ("receipt", "verify", receipt, "--credential", gateway.credential, "--allow-simulated", *bodies)
    assert json.loads(aigovtool(*verify, "--json").stdout)["bodies_checked"] == ["request", "response"]
    aigovtool("connect", "receipt", "nobody", "--home", gateway.home, "--save", tmp_path / "other", code=3)


def test_it_says_where_it_serves_and_ends_in_good_order(gateway: Gateway, tmp_path: Path) -> None:
    """With the address to use, what was verified, and exit code 0 at the end."""
    port, log = free_port(), tmp_path / "log"
    command = [
        *(sys.executable, "-m", "aigovtool", "connect", "--enclave", gateway.enclave),
        *("--credential", str(gateway.credential), "--listen", f"127.0.0.1:{port}"),
        *("--home", str(tmp_path / "home"), "--allow-simulated", "--json"),
    ]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, env=environment()) as process,
    ):
        assert process.stdout is not None
        text = b""
        while not text.endswith(b"\n}\n"):
            text += process.stdout.readline()
        serving = json.loads(text)
        assert (serving["url"], serving["simulated"]) == (f"http://127.0.0.1:{port}", True)
        assert serving["enclaves"][0]["models"].keys() == {MODEL}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "Traceback" not in log.read_text()
    found = json.loads(aigovtool("connect", "log", "--home", tmp_path / "home", "--json").stdout)
    assert found["lines"][-1]["event"] == "stopped"


def test_what_is_wrong_at_the_start_is_said_with_its_exit_code(gateway: Gateway, tmp_path: Path) -> None:
    """Each in words, and nothing is served."""
    base = ("connect", "--enclave", gateway.enclave, "--credential", gateway.credential, "--home", tmp_path / "home")
    simulated = (*base, "--allow-simulated")
    assert "simulated" in aigovtool(*base, "--listen", "127.0.0.1:0", code=5).stderr
    assert "loopback" in aigovtool(*simulated, "--listen", "0.0.0.0:0", code=2).stderr
    assert "NAME=DIGEST" in aigovtool(*simulated, "--model", "digits", code=2).stderr
    assert "--policy" in aigovtool(*simulated, "--policy-key", "ab", code=2).stderr
    aigovtool(*simulated, "--model", f"{MODEL}=sha256:{'0' * 64}", "--listen", "127.0.0.1:0", code=5)
    nobody = ("connect", "--enclave", f"https://127.0.0.1:{free_port()}", *base[3:], "--allow-simulated")
    assert "reach" in aigovtool(*nobody, "--listen", "127.0.0.1:0", code=7).stderr


@pytest.mark.needs("root", "curl")
def test_another_user_of_the_machine_gets_nothing(gateway: Gateway) -> None:
    """Attack: another user connects to the port of loopback, and asks in the name of whoever started the gateway."""
    asked = ["curl", "-s", "-m", "20", f"{gateway.url}/aigovtool/status"]
    ours, others = (
        subprocess.run(asked, capture_output=True, text=True, check=True, user=user) for user in (None, 65534)
    )
    assert json.loads(ours.stdout)["consumer"] == "ward7"
    assert json.loads(others.stdout)["reason"] == "foreign_user"


def test_a_gateway_survives_its_enclaves_restart(gateway: Gateway, tmp_path: Path) -> None:
    """A new instance with a new key: the program is answered again as soon as the enclave is, and the log says so."""
    with connecting(gateway.world, gateway.credential, tmp_path / "home") as url:
        ask(url, "before").raise_for_status()
        gateway.world.kill_engine()
        gateway.world.wait_ready()
        gateway.world.wait_for(lambda: ask(url, "after").status_code == 200, "answered again", 60)
        found = json.loads(aigovtool("connect", "log", "--home", tmp_path / "home", "--json").stdout)
    instances = [line["seen"]["instance"] for line in found["lines"] if line["event"] == "verified"]
    assert len(set(instances)) == 2
