"""A lab lends a model to a hospital. Two wards use it; one runs out, asks for more, and gets it. Then comes a stop."""

import threading
import time

import numpy as np
from on_one_machine import Machine, machine
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from aigovtool.consumer import Client
from aigovtool.errors import BudgetExhaustedError, BudgetReservedError, StoppedError


def approve(here: Machine) -> None:
    """Be the lab's operator, who looks after the requests."""
    while not (found := [one for one in here.run("budget", "requests")["asks"] if one["state"] == "open"]):
        pass
    print(f"alice reads: {found[0]['name']} asks for {found[0]['units']}: {found[0]['reason']}")
    here.run("budget", "approve", found[0]["ask_id"], "--units", "5")


def refusal(client: Client, rows: np.ndarray) -> BudgetExhaustedError:
    """Ask without a unit left. Until the custodian has heard of the last answer its unit is reserved, not yet spent."""
    while True:
        try:
            client.infer("digits", rows)
        except BudgetReservedError:
            time.sleep(0.1)
        except BudgetExhaustedError as error:
            return error
        else:
            raise SystemExit("an answer beyond the budget")


def main() -> None:
    """Play it."""
    images, labels = load_digits(return_X_y=True)
    pictures = (images / 16).astype(np.float32)
    classifier = LogisticRegression(max_iter=1_000).fit(pictures[:1200], labels[:1200])
    graph = to_onnx(classifier, pictures[:1], options={"zipmap": False})
    with machine() as here:
        here.path("digits.onnx").write_bytes(graph.SerializeToString())
        here.lend(here.path("digits.onnx"), "digits", budget=1_000)
        wards = {name: here.consumer(name) for name in ("radiology", "surgery")}
        for name, units in (("radiology", 3), ("surgery", 50)):
            here.run("budget", "grant", str(units), "--model", "digits", "--borrower", "hospital", "--consumer", name)

        with (
            Client.connect(here.enclave, wards["radiology"], allow_simulated=True) as radiology,
            Client.connect(here.enclave, wards["surgery"], allow_simulated=True) as surgery,
        ):
            for number in range(3):
                left = radiology.infer("digits", pictures[number : number + 1]).units_remaining
                print(f"radiology: an answer, {left} units left")
            print(f"radiology: refused ({refusal(radiology, pictures[:1]).code}); nothing was charged")
            print(f"surgery is not concerned: {surgery.infer('digits', pictures[:1]).units_remaining} units left")

            operator = threading.Thread(target=approve, args=(here,))
            operator.start()
            ask = radiology.request_budget(10, "three patients more this week")
            decided = radiology.decision(ask.ask_id, deadline_s=60)
            operator.join()
            print(f"radiology: {decided.state}, {decided.granted} units by {decided.decided_by}")
            result = radiology.infer("digits", pictures[:1], wait=True, deadline_s=60)
            print(f"radiology: an answer again, {result.units_remaining} units left")

            here.run("stop", "--model", "digits", "--reason", "the lab has found a fault", "--wait", "0")
            try:
                surgery.infer("digits", pictures[:1])
            except StoppedError as error:
                print(f"surgery: {error.message}")

        here.run("audit", "export", "-o", "audit.jsonl")
        verified = here.run("audit", "verify", "audit.jsonl")
        print(f"the log of {verified['entries']} entries verifies, with nobody's help")
        for row in here.run("usage")["usage"]:
            print(f"{row['consumer']}: {row['ok']} answers")


if __name__ == "__main__":
    main()
