"""One model of several that is refused, damaged, or ends the engine: the enclave serves the others, and says so.

One enclave is started for nine models. Its custodian never heard of one, has stopped two, and keeps a damaged package
of another; one can be downloaded up to a certain byte and no further; one is refused by ONNX Runtime; the engine ends
by SIGSEGV each time it is about to load one. What remains is a model that will end the engine while it runs, and a good
one.
"""

import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.between import Between, Message, Reply
from tests.attacks.deployments import Around
from tests.attacks.hostile_models import HOSTILE
from tests.attacks.hostile_sealing import HostileDeployment
from tests.attacks.laborious import asked, echo_model, laborious_model, to_echo
from tests.attacks.refusals import refusal_of
from tests.e2e.commandline import aigovtool
from tests.e2e.model import digits_model, one_digit
from tests.e2e.world import MODEL, Answer
from tests.observations import Observed

from aigovtool.codec import decode
from aigovtool.crypto.sign import Envelope
from aigovtool.enclave.roster import DEATHS, TRIES
from aigovtool.ids import ModelId
from aigovtool.ledger.budget import Scope, Window
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands
from aigovtool.protocol.release import ReleaseRequest
from aigovtool.protocol.session import ATTESTATION_PATH

UNKNOWN, STOPPED, DAMAGED, CUT, REFUSED, KILLER, PAUSED, POISON = map(
    ModelId, ("unknown", "stopped", "damaged", "cut", "refused", "killer", "paused", "poison")
)
#: The enclave as its engineer starts it.
_ENCLAVE = "from aigovtool.cli import main; main()"
X = bytes(8)
#: What whoever asks for a model that is not there is told.
TOLD = {
    UNKNOWN: (503, "model_not_served: no_such_model"),
    STOPPED: (423, "stopped"),
    DAMAGED: (503, "model_not_served: download_digest"),
    CUT: (503, "model_not_served: download_stuck"),
    REFUSED: (503, "model_not_served: engine_refused"),
    KILLER: (503, "model_not_served: engine_died"),
}
#: Who says so, and in which words.
SEEN = {
    UNKNOWN: ("custodian", "not_found", "no_such_model"),
    STOPPED: ("custodian", "stopped", ""),
    DAMAGED: ("enclave", "package_invalid", "download_digest"),
    CUT: ("enclave", "unreachable", "download_stuck"),
    REFUSED: ("enclave", "model_refused", "engine_refused"),
    KILLER: ("enclave", "engine_failed", "engine_died"),
}


@dataclass
class Several(HostileDeployment):
    """A deployment with an enclave for several models."""

    served: tuple[ModelId, ...] = (*TOLD, PAUSED, POISON, MODEL)
    released: list[ModelId] = field(default_factory=list)

    def start_enclave(self, *, wait: bool = True) -> None:
        """Start the enclave for all models, and wait until it is ready."""
        options = {
            "--tee": "simulated",
            "--borrower-file": self.directory / "borrower.json",
            "--listen": f"127.0.0.1:{self.enclave_port}",
            "--cache": self.directory / "cache",
        }
        words_ = [str(word) for option in options.items() for word in option]
        models = [word for model in self.served for word in ("--model", model)]
        self.spawn("enclave", _ENCLAVE, "enclave", "serve", "--allow-simulated", *words_, *models)
        if wait:
            self.wait_ready()

    def ask(self, model: ModelId) -> Answer:
        """Ask for one inference of a model, on a connection of its own."""
        body, headers = {MODEL: (one_digit(), {}), POISON: asked(X)}.get(model, to_echo(X))
        with closing(self.connect()) as link:
            return link.request("POST", f"/v2/models/{model}/infer", body, **headers)

    def serves(self, model: ModelId) -> bool:
        """Return whether an inference of a model is answered now."""
        with suppress(OSError, http.client.HTTPException):  # the enclave may be between two boots
            return self.ask(model).status == 200
        return False

    def charged_for(self, model: ModelId) -> int:
        """Return the units of a model that are spent or held."""
        rows = [row for row in self.view("/v1/budgets")["budgets"] if row["key"]["scope"]["model"] == model]
        return sum(row["posted"] + row["pending"] for row in rows)

    def newest(self) -> dict[str, Any]:
        """Return what operators see of the instance that booted last."""
        enclaves: list[dict[str, Any]] = self.view("/v1/enclaves")["enclaves"]
        return enclaves[0]

    def said(self) -> list[dict[str, Any]]:
        """Return the lines of the enclave's log."""
        lines = (self.directory / "enclave.log").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def words(problem: dict[str, Any]) -> str:
    """Return a problem document's code and reason."""
    return ": ".join(word for word in (problem["code"], problem.get("reason")) if word)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    """The enclave, which serves two of its eight models."""
    directory = tmp_path_factory.mktemp("several") / "world"
    directory.mkdir(mode=0o700)
    world = Several(directory)
    policy = default_policy(Dial.BALANCED, ttl_ms=3_000)

    def killing(message: Message) -> Reply:
        """End the engine whenever it is about to be given the one model."""
        reply = message.forward()
        request = decode(decode(message.body, Envelope).payload, ReleaseRequest)
        world.released.append(request.model)
        if request.model == KILLER:
            os.kill(world.engine_pid(), signal.SIGSEGV)
        return reply

    with Between(directory / "custodian", world.custodian_port) as between:
        world.custodian_seen_at = between.port
        between.on("/v1/release", killing)
        try:
            world.prepare(digits_model(), policy)
            damaged = world.lend(DAMAGED, echo_model(), policy)
            hostile = HOSTILE["a path"](str(directory / "canary"))
            cut = world.lend(CUT, echo_model(), policy)
            between.on(f"/v1/packages/sha256:{cut.stem}", cut_off)
            world.lend(REFUSED, bytes(hostile.SerializeToString()), policy)
            for name in (STOPPED, KILLER, PAUSED):
                world.lend(name, echo_model(), policy)
            world.lend(POISON, laborious_model(), policy)
            for name in (MODEL, DAMAGED, CUT, REFUSED, STOPPED, KILLER, PAUSED, POISON):
                world.command(
                    commands.GrantBudget(
                        scope=Scope(model=name), dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=1_000
                    )
                )
            spoil(damaged)
            for name in (STOPPED, PAUSED):
                world.stop(StopTarget.MODEL, name)
            world.start_enclave()
            yield world
        finally:
            world.close()


def spoil(path: Path) -> None:
    """Change one bit in the middle of a package that the custodian keeps."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(bytes(content))


def cut_off(message: Message) -> Reply:
    """Send the first half of a package, and none of the rest: as a disk would that cannot be read from there on."""
    reply = message.forward()
    begins = int(message.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    half = max(0, (begins + len(reply.body)) // 2 - begins)
    return Reply(reply.status, reply.body[:half], reply.headers, lacks=len(reply.body) - half)


@pytest.mark.attack(25)
@pytest.mark.fault(38)
def test_the_others_are_served_and_charged_alone(several: Several, observed: Observed) -> None:
    """Each bad model was tried as often as it is worth; none of them has cost a unit, nor the others their service."""
    several.wait_for(lambda: several.serves(MODEL), "the good model answers")
    several.wait_for(lambda: several.charged_for(MODEL) > 0, "it is charged")
    assert {name: several.charged_for(name) for name in TOLD} == dict.fromkeys(TOLD, 0)
    assert several.processes["enclave"].poll() is None
    assert several.released.count(KILLER) == TRIES
    assert several.released.count(REFUSED) == 1
    assert not {UNKNOWN, DAMAGED, CUT} & set(several.released)
    observed.figure("models of nine that were not served", len(TOLD) + 1)


@pytest.mark.parametrize("model", TOLD)
@pytest.mark.parametrize(("method", "path"), [("POST", "infer"), ("GET", "ready"), ("GET", "")])
def test_whoever_asks_for_one_that_is_not_there_is_told_why(
    several: Several, model: ModelId, method: str, path: str
) -> None:
    """For an inference, for readiness and for metadata the same typed refusal."""
    several.wait_ready()
    status, told = TOLD[model]
    if method == "POST":
        answer = several.ask(model)
    else:
        answer = several.connect().request(method, f"/v2/models/{model}/{path}".rstrip("/"))
    assert words(refusal_of(answer, status)) == told


def test_a_model_that_it_was_not_started_for_does_not_exist(several: Several) -> None:
    """As ever: only what was named can be missing."""
    several.wait_ready()
    assert words(refusal_of(several.ask(ModelId("nothing")), 404)) == "not_found: no_such_model"


def test_a_program_of_a_consumer_is_told_as_well(several: Several) -> None:
    """The enclave that was attested says why, not somebody between."""
    several.wait_ready()
    row = several.directory / "row.json"
    row.write_text(json.dumps([0.0, 0.0]))
    enclave = f"https://127.0.0.1:{several.enclave_port}"
    credential = several.consumer_file()
    given_ = ("--enclave", enclave, "--credential", credential, "--input", row, "--allow-simulated", "--json")
    refused = aigovtool("infer", KILLER, *given_, code=7)
    assert words(json.loads(refused.stdout)["error"]) == "model_not_served: engine_died"


def test_it_is_ready_for_what_it_serves_and_shows_nothing_else(several: Several) -> None:
    """A balancer goes on sending to it; its evidence names the manifests that are loaded, and no other."""
    several.wait_ready()
    link = several.connect()
    assert link.request("GET", "/v2/health/ready").json() == {"ready": True}
    assert link.request("GET", f"/v2/models/{MODEL}/ready").json() == {"name": MODEL, "ready": True}
    shown = link.request("POST", ATTESTATION_PATH, json.dumps({"nonce": "ab" * 32}).encode()).json()
    models = {one["model"]: one["manifest"] for one in shown["models"]}
    assert MODEL in models
    assert not models.keys() & TOLD.keys()
    assert sorted(shown["claims"]["manifests"]) == sorted(models.values())


def test_operators_and_engineers_see_what_is_not_served(several: Several) -> None:
    """In the list of enclaves, in the audit log, and in the enclave's own log, with the reason."""
    several.wait_ready()
    newest = several.newest()
    assert MODEL in newest["models"]
    assert not set(newest["models"]) & TOLD.keys()
    seen = {one["model"]: (one["by"], one["code"], one["reason"]) for one in newest["not_served"]}
    assert {name: seen[name] for name in SEEN} == SEEN
    table = " ".join(aigovtool("enclaves", operator=several.operator_file).stdout.split())
    assert "does not serve killer: set aside by the enclave (engine_failed: engine_died)" in table
    assert "does not serve stopped: refused here (stopped)" in table
    kinds = [json.loads(entry)["body"] for entry in several.log_entries()]
    refused = {body["code"] for body in kinds if body["kind"] == "attestation_refused"}
    assert {"stopped", "not_found"} <= refused
    released = {body["model"] for body in kinds if body["kind"] == "key_released"}
    assert {MODEL, REFUSED, KILLER} <= released
    assert not {UNKNOWN, STOPPED, DAMAGED, CUT} & released
    said = several.said()
    aside = {line["model"]: (line["code"], line["reason"]) for line in said if line["event"] == "model_set_aside"}
    of_enclave = (DAMAGED, CUT, REFUSED, KILLER)
    assert {name: aside[name] for name in of_enclave} == {name: SEEN[name][1:] for name in of_enclave}
    assert "NOT serving damaged (package_invalid: download_digest)" in {line["event"] for line in said}


def test_a_stop_of_one_model_stops_that_one_and_lifting_it_brings_it_back(several: Several) -> None:
    """The enclave wipes itself and boots without it; when an operator lifts the stop, it boots with it, by itself."""
    several.wait_ready()
    assert words(refusal_of(several.ask(PAUSED), 423)) == "stopped"
    several.resume(StopTarget.MODEL, PAUSED)
    several.wait_for(lambda: several.serves(PAUSED), "it is back")
    several.wait_for(lambda: several.serves(MODEL), "the others are still there")
    assert PAUSED in several.newest()["models"]
    several.stop(StopTarget.MODEL, PAUSED)
    several.wait_for(lambda: several.serves(MODEL), "the others go on without it")
    assert words(refusal_of(several.ask(PAUSED), 423)) == "stopped"
    assert PAUSED not in several.newest()["models"]


@pytest.mark.attack(25)
@pytest.mark.fault(38)
def test_a_model_that_ends_the_engine_each_time_it_runs_is_left_out(several: Several, observed: Observed) -> None:
    """After the third time within ten minutes; whoever asked for it was charged nothing, and the others are served."""
    several.wait_ready()
    for _ in range(DEATHS):
        several.wait_for(lambda: several.serves(MODEL), "the good model answers")
        end_the_engine_in_a_run(several)
    several.wait_for(lambda: several.serves(MODEL), "the good model answers")
    refused = refusal_of(several.ask(POISON), 503)
    assert observed.refusal(refused) == "model_not_served: engine_died"
    several.wait_for(lambda: several.charged_for(POISON) == 0, "nothing is charged for it")
    seen = {one["model"]: (one["by"], one["code"], one["reason"]) for one in several.newest()["not_served"]}
    assert seen[POISON] == ("enclave", "engine_failed", "engine_died")


def end_the_engine_in_a_run(several: Several) -> None:
    """End the engine by SIGSEGV, as an operator's fault would, while it computes for hours."""
    engine = several.engine_pid()
    begun_s = computed_s(engine)
    link = several.connect()
    body, headers = asked(X, count=1 << 40)

    def ask() -> None:
        with suppress(OSError, http.client.HTTPException):  # the enclave has a new key then: old connections end
            assert link.request("POST", f"/v2/models/{POISON}/infer", body, **headers).status != 200

    asking = threading.Thread(target=ask)
    asking.start()
    several.wait_for(lambda: computed_s(engine) > begun_s + 0.3, "it computes")
    os.kill(engine, signal.SIGSEGV)
    asking.join(60)
    assert not asking.is_alive()
    several.wait_for(lambda: not Path(f"/proc/{engine}").exists(), "the engine is gone")


def computed_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.attack(23)
@pytest.mark.needs("strace")
def test_a_package_that_the_custodians_disk_does_not_give_keeps_no_other_from_being_served(
    tmp_path: Path, observed: Observed
) -> None:
    """Each read of that one file fails with EIO: the custodian says so, and the enclave serves without that model."""
    world, trace = Several(tmp_path, served=(DAMAGED, MODEL)), tmp_path / "trace"
    try:
        world.prepare(digits_model(), default_policy(Dial.BALANCED, ttl_ms=3_000))
        world.grant(1_000)
        package = world.lend(DAMAGED, echo_model(), default_policy(Dial.BALANCED, ttl_ms=3_000))
        world.kill("custodian")
        failing = ("-e", "trace=read,pread64", "-e", "inject=read,pread64:error=EIO", "-P", str(package))
        words_ = ("strace", "-D", "-f", "--seccomp-bpf", "-qq", *failing, "-o", str(trace))
        world.around["custodian"] = Around(words_)
        world.start_custodian()
        refused = world.to_custodian().request("GET", f"/v1/packages/sha256:{package.stem}")
        assert observed.refusal(refusal_of(refused, 503)) == "storage_failed: package_unreadable"
        world.start_enclave()
        world.wait_for(lambda: world.serves(MODEL), "the good model answers")
        told = refusal_of(world.ask(DAMAGED), 503)
        assert words(told) == "model_not_served: package_unreadable"
        assert "EIO" in trace.read_text()
    finally:
        world.close()
