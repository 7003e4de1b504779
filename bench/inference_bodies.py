"""One inference of the Open Inference Protocol in bytes: in JSON, or with the binary data extension."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

_DATATYPES: Final = {"float32": "FP32", "int64": "INT64"}


def _tensor(name: str, array: NDArray[np.generic]) -> dict[str, object]:
    return {"name": name, "shape": list(array.shape), "datatype": _DATATYPES[array.dtype.name]}


def in_json(inputs: Mapping[str, NDArray[np.generic]]) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a request in JSON."""
    tensors = [{**_tensor(name, array), "data": array.ravel().tolist()} for name, array in inputs.items()]
    return {"content-type": "application/json"}, json.dumps({"inputs": tensors}).encode()


def in_binary(inputs: Mapping[str, NDArray[np.generic]]) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a request whose tensors are bytes, and which wants its answer so."""
    tensors = [
        {**_tensor(name, array), "parameters": {"binary_data_size": array.nbytes}} for name, array in inputs.items()
    ]
    described = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(described))}
    return headers, described + b"".join(array.tobytes() for array in inputs.values())


def write(directory: Path, path: str, headers: Mapping[str, str], body: bytes) -> tuple[Path, Path]:
    """Write the head and the body of `POST path` into files."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head, content = directory / "head", directory / "body"
    head.write_bytes("\r\n".join([*lines, "", ""]).encode())
    content.write_bytes(body)
    return head, content
