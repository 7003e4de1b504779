"""A model behind MLServer, by a runtime of its own as its documentation shows it."""

import asyncio
import socket
import sys

import numpy as np
import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse

MODEL, PORT, THREADS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def free_port() -> int:
    """Return a port for what is not asked here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Onnx(MLModel):
    """The runtime."""

    async def load(self) -> bool:
        """Load the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self._session = onnxruntime.InferenceSession(MODEL, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run it."""
        given = {one.name: self.decode(one, default_codec=NumpyCodec) for one in payload.inputs}
        types = {one.name: np.int64 if "int64" in one.type else np.float32 for one in self._session.get_inputs()}
        (found,) = self._session.run(["y"], {name: one.astype(types[name], copy=False) for name, one in given.items()})
        return InferenceResponse(model_name="m", outputs=[NumpyCodec.encode_output("y", found)])


async def main() -> None:
    """Serve."""
    settings = Settings(
        host="127.0.0.1",
        http_port=PORT,
        grpc_port=free_port(),
        metrics_port=free_port(),
        parallel_workers=0,
        debug=False,
        access_log_enabled=False,
        cache_enabled=False,
        load_models_at_startup=False,
    )
    server = MLServer(settings)
    batch = {"max_batch_size": 32, "max_batch_time": 0.001} if THREADS == 1 else {}
    model = ModelSettings(name="m", implementation=Onnx, parameters=ModelParameters(version="1"), **batch)
    await server.start([model])


asyncio.run(main())
