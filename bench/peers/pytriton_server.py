"""A model behind Triton, through pytriton's Python backend, with Triton's dynamic batching."""

import socket
import sys

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

MODEL, PORT, THREADS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def free_port() -> int:
    """Return a port for what is not asked here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


options = onnxruntime.SessionOptions()
options.intra_op_num_threads = THREADS
session = onnxruntime.InferenceSession(MODEL, options)


def _tensor(one: onnxruntime.NodeArg) -> Tensor:
    kind = np.int64 if "int64" in one.type else np.float32
    return Tensor(name=one.name, dtype=kind, shape=tuple(one.shape[1:]))


@batch
def run(**given: np.ndarray) -> list[np.ndarray]:
    """Run it on a batch."""
    return session.run(["y"], given)


with Triton(
    config=TritonConfig(http_port=PORT, grpc_port=free_port(), metrics_port=free_port(), http_address="127.0.0.1")
) as triton:
    triton.bind(
        model_name="m",
        infer_func=run,
        inputs=[_tensor(one) for one in session.get_inputs()],
        outputs=[_tensor(one) for one in session.get_outputs()],
        config=ModelConfig(max_batch_size=128, batcher=DynamicBatcher(max_queue_delay_microseconds=1000)),
    )
    triton.serve()
