"""What ONNX Runtime alone, in this process, makes of a test: the measure for what an enclave makes of it."""

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the library is loaded
import onnxruntime

from assurance.nodes.cases import Case

_FATAL: Final = 4


class Came(StrEnum):
    """What came of a test."""

    NOT_LOADED = "not loaded"
    NOT_RUN = "not run"
    ANSWERED = "answered"


@dataclass(frozen=True)
class Bare:
    """What came of it, and the outputs by their names if it was run."""

    came: Came
    outputs: dict[str, Any]


def run_bare(case: Case) -> Bare:
    """Run a test as anybody would: default options, but one thread, which sums in the same order everywhere."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _FATAL  # what it cannot load, it would print
    try:
        session = onnxruntime.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - the library raises classes of its own that derive from Exception
        return Bare(Came.NOT_LOADED, {})
    names = [node.name for node in session.get_outputs()]
    try:
        outputs = session.run(names, dict(case.inputs))
    except Exception:  # noqa: BLE001 - see above
        return Bare(Came.NOT_RUN, {})
    return Bare(Came.ANSWERED, dict(zip(names, outputs, strict=True)))
