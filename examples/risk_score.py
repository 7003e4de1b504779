"""A table of patients, and a client that knows nothing of this project: tritonclient, through the gateway."""

import json
from pathlib import Path

import numpy as np
import tritonclient.http as http
from on_one_machine import Machine, machine
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def ask(client: http.InferenceServerClient, rows: np.ndarray) -> np.ndarray:
    """Return the risk of each row, as any program with tritonclient does it."""
    patients = http.InferInput("X", list(rows.shape), "FP32")
    patients.set_data_from_numpy(rows)
    answer = client.infer("risk", [patients], outputs=[http.InferRequestedOutput("probabilities")])
    probabilities: np.ndarray = answer.as_numpy("probabilities")
    return probabilities[:, 0]


def patients_of() -> tuple[np.ndarray, np.ndarray]:
    """Return the table, and what became of each patient."""
    patients, outcome = load_breast_cancer(return_X_y=True)
    return patients.astype(np.float32), outcome


def trained(here: Machine) -> tuple[Path, str]:
    """Train a model on most of the table; return it, and a request for one patient in JSON."""
    patients, outcome = patients_of()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)).fit(patients[:400], outcome[:400])
    path = here.path("risk.onnx")
    path.write_bytes(to_onnx(model, patients[:1], options={"zipmap": False}).SerializeToString())
    one = {"name": "X", "shape": [1, 30], "datatype": "FP32", "data": patients[400].tolist()}
    return path, json.dumps({"inputs": [one]})


def main() -> None:
    """Train, lend, and ask."""
    patients, outcome = patients_of()
    with machine() as here:
        model, _ = trained(here)
        here.lend(model, "risk", budget=1_000)
        gateway = here.connect(here.consumer("oncology"))

        with http.InferenceServerClient(gateway) as client:
            inputs = client.get_model_metadata("risk")["inputs"]
            print(f"the model takes {inputs[0]['name']}, {inputs[0]['datatype']}, {inputs[0]['shape']}")
            one_by_one = np.array([ask(client, patients[row : row + 1])[0] for row in range(400, 410)])
            together = ask(client, patients[400:])

        assert np.allclose(one_by_one, together[:10], atol=1e-6)
        right = float(np.mean((together < 0.5) == (outcome[400:] == 1)))
        print(f"{len(together)} patients asked for; {right:.0%} as they turned out")
        left = here.run("connect", "status", "--gateway", gateway)["enclaves"][0]["models"][0]["remaining"]
        print(f"a patient is a unit: {left['inferences']} of 1000 are left")


if __name__ == "__main__":
    main()
