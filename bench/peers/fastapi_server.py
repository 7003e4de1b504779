"""A model behind FastAPI: the endpoint that a careful engineer writes in an hour."""

import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

MODEL, PORT, THREADS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
_TYPES = {"FP32": np.float32, "INT64": np.int64}


class Tensor(BaseModel):
    """One tensor."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Request(BaseModel):
    """What comes in."""

    inputs: list[Tensor]


options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(MODEL, options)
application = FastAPI()


def answer(request: Request) -> dict[str, object]:
    """Run the model."""
    given = {one.name: np.array(one.data, _TYPES[one.datatype]).reshape(one.shape) for one in request.inputs}
    (found,) = session.run(["y"], given)
    made = {"name": "y", "shape": list(found.shape), "datatype": "FP32", "data": found.ravel().tolist()}
    return {"model_name": "m", "outputs": [made]}


if THREADS > 1:  # in the pool of threads
    application.post("/v2/models/m/infer")(answer)
else:  # a run takes less than the way to another thread

    @application.post("/v2/models/m/infer")
    async def infer(request: Request) -> dict[str, object]:
        """Run the model on the event loop."""
        return answer(request)


uvicorn.run(application, host="127.0.0.1", port=PORT, log_level="warning", access_log=False)
