"""A model behind BentoML; started by `bentoml serve`, with its settings in the environment."""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, traffic={"timeout": 60})
class Onnx:
    """The service."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        self._session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options)

    @bentoml.api(route="/infer", batchable=True, max_batch_size=32, max_latency_ms=60_000)
    def infer(self, x: np.ndarray) -> np.ndarray:
        """Run it on a batch."""
        return self._session.run(["y"], {"x": x.astype(np.float32, copy=False)})[0]
