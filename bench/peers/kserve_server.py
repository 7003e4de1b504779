"""A model behind KServe's Python server."""

import sys

import kserve
import onnxruntime
from kserve import InferRequest, InferResponse

MODEL, PORT, THREADS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Onnx(kserve.Model):
    """The predictor."""

    def __init__(self) -> None:
        super().__init__("m")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self._session = onnxruntime.InferenceSession(MODEL, options)
        self.ready = True

    async def predict(self, payload: InferRequest, headers: dict[str, str] | None = None, **_: object) -> InferResponse:
        """Run it."""
        given = {one.name: one.as_numpy() for one in payload.inputs}
        (found,) = self._session.run(["y"], given)
        output = kserve.InferOutput(name="y", shape=list(found.shape), datatype="FP32")
        output.set_data_from_numpy(found, binary_data=bool(headers and "inference-header-content-length" in headers))
        return InferResponse(response_id="1", model_name="m", infer_outputs=[output])


kserve.ModelServer(http_port=PORT, enable_grpc=False, workers=1, access_log_format=None).start([Onnx()])
