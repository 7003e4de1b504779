"""What malformed models are made of, most of which load: from three sources, each made only where it is drawn."""

import warnings
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from onnx import ModelProto

from assurance.models.own_graphs import own_graphs

#: Of the networks those whose weights are few: each is made in memory while it is loaded.
_NETWORKS: Final = ("light_squeezenet.onnx", "light_shufflenet.onnx")
_MOST_BYTES: Final = 64 << 10


@cache
def exported() -> tuple[ModelProto, ...]:
    """Return what the `onnx` distribution has as files, most of it exported by PyTorch, and our own."""
    found = [path for path in sorted(_data().rglob("*.onnx")) if path.stat().st_size < _MOST_BYTES]
    return (*(_read(path) for path in found if "light" not in path.parts), *own_graphs())


@cache
def operators() -> tuple[ModelProto, ...]:
    """Return the test cases of the ONNX standard: each operator, in all its forms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they compute infinities, and say so
        from onnx.backend.test.case.node import collect_testcases  # noqa: PLC0415 - takes seconds

        cases = collect_testcases()
    models = [case.model for case in cases if isinstance(case.model, ModelProto)]
    return tuple(one for one in models if one.ByteSize() < _MOST_BYTES)


@cache
def networks() -> tuple[ModelProto, ...]:
    """Return whole networks for images, with hundreds of nodes."""
    return tuple(_read(path) for path in sorted(_data().rglob("light_*.onnx")) if path.name in _NETWORKS)


#: Where the models of a seed are made of: its number says which.
SOURCES: Final[tuple[Callable[[], tuple[ModelProto, ...]], ...]] = (
    exported,
    operators,
    exported,
    operators,
    operators,
    exported,
    operators,
    operators,
    exported,
    networks,
)


def _data() -> Path:
    return Path(str(files("onnx"))) / "backend" / "test" / "data"


def _read(path: Path) -> ModelProto:
    model = ModelProto()
    model.ParseFromString(path.read_bytes())
    return model
