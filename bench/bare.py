"""`python -m bench.bare`: a model alone in a process, run as fast as it goes: what serving it is compared with."""

import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime

from aigovtool.codec import Message, decode, encode
from bench.load import Seen, processor_s, say


class Runs(Message):
    """A model in a file, its inputs (`.npz`), and how many threads run it, each with one request of its own."""

    model: str
    inputs: str
    threads: int
    #: Threads of ONNX Runtime within one run.
    within: int
    seconds: float


def _session(runs: Runs) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = runs.within
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(runs.model, options, providers=["CPUExecutionProvider"])


def run(runs: Runs) -> Seen:
    """Run for a while, after some runs that are not counted."""
    session = _session(runs)
    with np.load(Path(runs.inputs)) as held:
        inputs = dict(held)
    for _ in range(3):
        session.run(None, inputs)
    say(b"ready")
    sys.stdin.buffer.readline()
    took: list[float] = []
    began, cpu_s = time.perf_counter(), processor_s()
    until = began + runs.seconds

    def go_on() -> None:
        now = time.perf_counter()
        while now < until:
            session.run(None, inputs)
            then, now = now, time.perf_counter()
            took.append(now - then)

    others = [threading.Thread(target=go_on) for _ in range(runs.threads - 1)]
    for other in others:
        other.start()
    go_on()
    for other in others:
        other.join()
    return Seen.of(took, seconds=time.perf_counter() - began, cpu_s=processor_s() - cpu_s)


def main() -> None:
    """Run."""
    say(encode(run(decode(sys.stdin.buffer.readline().strip(), Runs))))


if __name__ == "__main__":
    main()
