"""The scenes of the demo. Each scene checks what it tells: the demo ends with 0 only if all of it is true."""

import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any, Final

from aigovtool.cli.demo.digits import Digits, picture, train
from aigovtool.cli.demo.stage import Stage, free_port, until
from aigovtool.codec import Message, decode
from aigovtool.errors import FaultError

MODEL: Final = "digits"
BUDGET: Final = 10
RECEIPTS: Final = "receipts"
#: Where a question lies, as any program would send it.
QUESTION: Final = "question.json"
_MORE: Final = 1_000
_TTL_S: Final = 3


class Summary(Message):
    """What happened, in numbers; the last line of `aigovtool demo --json`."""

    ok: bool
    accuracy_percent: int
    answers: int
    right: int
    refused_402: int
    refused_423: int
    stop_to_refusal_ms: int
    ledger_used: int
    enclave_used: int
    receipts: int
    log_entries: int
    seconds: int


@dataclass
class Story:
    """One performance. `tell` prints a line of narration, `draw` a line as it is."""

    stage: Stage
    tell: Callable[[str], None]
    draw: Callable[[str], None]
    enclave: str = ""
    answers: int = 0
    right: int = 0
    refused_402: int = 0
    refused_423: int = 0
    stop_ms: int = 0
    receipts: list[Path] = field(default_factory=list)

    def play(self) -> Summary:
        """Play every scene."""
        began = time.monotonic()
        digits = self._model()
        self._custodian(digits)
        self._enclave()
        self._use(digits)
        self._run_out(digits)
        self._supply(digits)
        self._stop(digits)
        log, enclave_used, ledger_used = self._audit()
        return Summary(
            ok=True,
            accuracy_percent=round(digits.accuracy * 100),
            answers=self.answers,
            right=self.right,
            refused_402=self.refused_402,
            refused_423=self.refused_423,
            stop_to_refusal_ms=self.stop_ms,
            ledger_used=ledger_used,
            enclave_used=enclave_used,
            receipts=len(self.receipts),
            log_entries=log,
            seconds=round(time.monotonic() - began),
        )

    # -- Scenes ---------------------------------------------------------------------------------

    def _model(self) -> Digits:
        self.tell("A lab trains a model that reads handwritten digits. It wants to lend it, not to give it away.")
        digits = train(self.stage.directory)
        self.tell(f"It is right on {digits.accuracy:.0%} of pictures that it has never seen.")
        return digits

    def _custodian(self, digits: Digits) -> None:
        self.tell("The lab becomes a custodian: keys, a ledger, an operator. The simulated TEE is allowed on purpose.")
        run, port = self.stage.run, free_port()
        url = f"https://127.0.0.1:{port}"
        run("custodian", "init", "custodian", "--url", url, "--name", "alice", "--allow-simulated")
        self.stage.start("custodian-serve", "custodian", "serve", "custodian", "--listen", f"127.0.0.1:{port}")
        until(lambda: self.stage.says("custodian-serve", "serving on"), "the custodian serves")
        self.tell("A hospital will host the model, a ward will use it. Each gets one file with all that it needs.")
        run("borrower", "add", "hospital", "-o", "hospital.json")
        run("consumer", "add", "ward7", "--borrower", "hospital", "-o", "ward7.json", "--allow-simulated")
        self.tell("The model is sealed: encrypted and signed. Its key is wrapped; only the custodian can open it.")
        run("model", "seal", str(digits.model), "--name", MODEL, "-o", "digits.aigov")
        self._require(b"onnx" not in self.stage.path("digits.aigov").read_bytes()[8192:], "the package is ciphertext")
        run("model", "add", "digits.aigov", "--borrower", "hospital", "--ttl", str(_TTL_S))
        run("budget", "grant", str(BUDGET), "--model", MODEL)

    def _enclave(self) -> None:
        self.tell("The hospital starts the enclave: it proves what it is, gets the key, decrypts in memory only.")
        listen = f"127.0.0.1:{free_port()}"
        self.enclave = f"https://{listen}"
        words = ("--tee", "simulated", "--allow-simulated", "--borrower-file", "hospital.json", "--model", MODEL)
        self.stage.start("enclave", "enclave", "serve", *words, "--listen", listen, "--cache", "cache")
        until(lambda: self.stage.says("enclave", "serving"), "the enclave is ready")
        shown = self.stage.run("enclaves").document["enclaves"][0]
        self._require(shown["state"] == "live" and shown["simulated"], "the custodian sees the enclave as simulated")

    def _use(self, digits: Digits) -> None:
        self.tell(f"The ward sends pictures. {BUDGET} answers are in the budget; each comes with a signed receipt.")
        self.stage.path(RECEIPTS).mkdir()
        for number in range(BUDGET):
            self._ask(digits, number, drawn=number == 0)
        self._require(self.answers == BUDGET, f"{BUDGET} answers")

    def _ask(self, digits: Digits, number: int, *, drawn: bool = False) -> None:
        source = self._input(digits, number)
        receipt = self.stage.path(RECEIPTS) / f"{number}.json"
        if drawn:
            for line in picture(digits.images[number]):
                self.draw(f"      {line}")
        words = self._infer_words(source, receipt)
        self._answered(digits, number, self.stage.run(*words, quiet=not drawn).document, receipt)

    def _infer_words(self, source: Path, receipt: Path) -> tuple[str, ...]:
        fixed = ("infer", MODEL, "--enclave", self.enclave, "--credential", "ward7.json", "--allow-simulated")
        return (*fixed, "--input", str(source), "--save-receipt", str(receipt))

    def _input(self, digits: Digits, number: int) -> Path:
        path = self.stage.path(f"picture-{number}.json")
        path.write_text(json.dumps([[float(value) for value in digits.images[number]]]))
        return path

    def _answered(self, digits: Digits, number: int, document: dict[str, Any], receipt: Path) -> None:
        outputs = {output["name"]: output["data"] for output in document["outputs"]}
        label = int(outputs["label"][0])
        probability = max(outputs["probabilities"])
        truth = int(digits.labels[number])
        self.answers += 1
        self.right += label == truth
        self.receipts.append(receipt)
        left = document["units_remaining"]
        self.draw(f"      it reads {label} ({probability:.0%} sure; it is a {truth}); {left} units left")

    def _run_out(self, digits: Digits) -> None:
        self.tell("The budget is used up. The enclave refuses, whatever the client does.")
        words = self._infer_words(self._input(digits, BUDGET), self.stage.path("none.json"))
        refused = self.stage.run(*words, expect=6).document["error"]
        self._require(refused["code"] == "budget_exhausted", "the refusal says that the budget is exhausted")
        statuses = self._cheat(digits, 20)
        self.refused_402 = 1 + statuses.count(402)
        self._require(statuses == [402] * 20, f"20 requests of a client that does not play fair get 402: {statuses}")
        self.draw("      20 raw requests by a client that ignores the refusal: 20 x 402, no answer, nothing charged")

    def _cheat(self, digits: Digits, times: int) -> list[int]:
        """Send raw requests past our own client, with the ward's credential."""
        data = [float(value) for value in digits.images[0]]
        tensor = {"name": "X", "shape": [1, 64], "datatype": "FP32", "data": data}
        body = json.dumps({"inputs": [tensor]})
        self.stage.path(QUESTION).write_text(body)
        host, port = self.enclave.removeprefix("https://").split(":")
        connection = HTTPSConnection(host, int(port), context=self._ward_context(), timeout=30)
        statuses = []
        for _ in range(times):
            connection.request(
                "POST", f"/v2/models/{MODEL}/infer", body=body, headers={"content-type": "application/json"}
            )
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        connection.close()
        return statuses

    def _ward_context(self) -> ssl.SSLContext:
        from aigovtool.crypto.secret import Secret  # noqa: PLC0415 - only the cheating client needs these
        from aigovtool.crypto.sign import SigningKey  # noqa: PLC0415
        from aigovtool.crypto.x509 import from_pem  # noqa: PLC0415
        from aigovtool.protocol.party import ConsumerFile  # noqa: PLC0415
        from aigovtool.transport.tls import unverified_context_for_attestation_only  # noqa: PLC0415

        ward = decode(self.stage.path("ward7.json").read_bytes(), ConsumerFile)
        return unverified_context_for_attestation_only(
            credential=from_pem(ward.certificate.encode()), key=SigningKey.from_secret(Secret(ward.key))
        )

    def _supply(self, digits: Digits) -> None:
        self.tell("A patient client waits. The enclave has asked for more; an operator sees the request and approves.")
        receipt = self.stage.path(RECEIPTS) / f"{BUDGET}.json"
        words = self._infer_words(self._input(digits, BUDGET), receipt)
        self.stage.start("waiting", *words, "--wait", "--json")
        until(lambda: bool(self._asks()), "the enclave's request is filed")
        (ask,) = self._asks()
        self.stage.run("budget", "approve", ask["ask_id"], "--units", str(BUDGET))
        waited = self.stage.finish("waiting")
        self._require(waited.code == 0, f"the waiting client gets its answer: {waited.document}")
        self._answered(digits, BUDGET, waited.document, receipt)
        for number in range(BUDGET + 1, BUDGET + 4):
            self._ask(digits, number)

    def _asks(self) -> list[dict[str, Any]]:
        found = self.stage.run("budget", "requests", quiet=True).document["asks"]
        return [ask for ask in found if ask["state"] == "open"]

    def _stop(self, digits: Digits) -> None:
        self.tell("The custodian stops the model. The very next request fails, and the enclave proves the wipe.")
        began = time.monotonic()
        self.stage.run("stop", "--model", MODEL, "--reason", "demo", "--wait", "0")
        statuses = self._cheat(digits, 1)
        self.stop_ms = round((time.monotonic() - began) * 1000)
        self._require(statuses == [423], f"the next request is refused with 423: {statuses}")
        self.refused_423 = 1
        until(lambda: self._enclave_state() == "wiped", "the wipe is acknowledged")
        self.draw("      423 stopped; the process that held the weights is gone, and the enclave has signed that it is")

    def stay(self) -> None:
        """Lift the stop, grant more, and write down a question: from here on the audience plays."""
        self.tell("The stop is lifted and more is granted: the enclave boots anew, and the model is yours to ask.")
        self.stage.run("resume", "--model", MODEL, "--reason", "demo", "--yes")
        self.stage.run("budget", "grant", str(_MORE), "--model", MODEL)
        until(lambda: self._enclave_state() == "live", "the enclave serves again")

    def _enclave_state(self) -> str:
        return str(self.stage.run("enclaves", quiet=True).document["enclaves"][0]["state"])

    def _audit(self) -> tuple[int, int, int]:
        self.tell("An auditor checks the log and the receipts without trusting anybody.")
        self.stage.run("audit", "export", "-o", "audit.jsonl")
        entries = int(self.stage.run("audit", "verify", "audit.jsonl").document["entries"])
        words = ("--credential", "ward7.json", "--allow-simulated")
        self.stage.run("receipt", "verify", str(self.receipts[0]), *words)
        reconcile = ("audit", "reconcile", "audit.jsonl", "--receipts", RECEIPTS, *words, "--strict")
        found = self.stage.run(*reconcile).document
        (total,) = found["totals"]
        ledger_used, enclave_used, receipted = (int(total[name]) for name in ("charged", "reported", "receipted"))
        self._require(
            ledger_used == enclave_used == receipted == len(self.receipts) == self.answers and not found["findings"],
            f"ledger {ledger_used} = enclave {enclave_used} = receipts {receipted}, of {self.answers} answers",
        )
        self.draw(f"      ledger = enclave = receipts = {ledger_used}; {entries} log entries verify")
        return entries, enclave_used, ledger_used

    def _require(self, condition: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
        if not condition:
            raise FaultError(f"this did not hold: {what}", reason="demo_check")
