"""The model of the end-to-end tests and drills: a small classifier of handwritten digits, and one request to it."""

import json
from functools import cache

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression


@cache
def digits_model() -> bytes:
    """Return the model: 64 pixels in, label and probabilities out."""
    images, labels = load_digits(return_X_y=True)
    classifier = LogisticRegression(max_iter=200).fit(images[:500] / 16, labels[:500])
    graph = to_onnx(classifier, np.zeros((1, 64), np.float32), options={"zipmap": False})
    return bytes(graph.SerializeToString())


@cache
def one_digit() -> bytes:
    """Return one inference in JSON."""
    image = load_digits().images[0].reshape(64) / 16
    tensor = {"name": "X", "shape": [1, 64], "datatype": "FP32", "data": [float(np.float32(v)) for v in image]}
    return json.dumps({"inputs": [tensor]}).encode()
