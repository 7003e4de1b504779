"""`python -m bench.loader`: a process that loads one model once: as an enclave does, or alone.

It is told what to load as `bench.load` is told what to ask. It is ready when all is done but this: libraries are loaded
and were used, the engine child is in its sandbox. When it has said how long it took it keeps the model until its
standard input ends, so that others can look at what it holds.

*As an enclave does* is the product's own code: the parent hands the package and its wrapped key to an engine child.
*Alone* is what one does without it: copy the model to where it is used, and have ONNX Runtime load the copy.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime

from aigovtool.codec import Message, decode, encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.wrap import wrap
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess
from aigovtool.enclave.memory import memory_bounds
from aigovtool.ids import Digest
from bench.load import say

_INFO = b"a model of a benchmark"


class Sealed(Message):
    """A package in a file, and what opens it."""

    path: str
    key: bytes
    sealer: bytes
    digest: Digest


class Order(Message):
    """What to load: a package, or else files in a folder, the graph first. `tiny` is for using the library once."""

    folder: str
    files: tuple[str, ...]
    tiny: str
    sealed: Sealed | None = None


class Took(Message):
    """How long it took until the model could be asked, of this for copying; and, before that, to start an engine."""

    seconds: float
    copied_s: float = 0.0
    started_s: float = 0.0


async def _as_an_enclave(sealed: Sealed) -> None:
    began = time.perf_counter()
    engine = await EngineProcess.start(EngineConfig(memory_bytes=memory_bounds().engine_addresses))
    try:
        started_s = time.perf_counter() - began
        _wait()
        began = time.perf_counter()
        descriptor = os.open(sealed.path, os.O_RDONLY)
        with Secret(sealed.key) as key:
            wrapped = wrap(key, engine.hpke_public_key, _INFO)
        await engine.load(
            descriptor, wrapped_key=wrapped, info=_INFO, manifest_digest=sealed.digest, sealer=sealed.sealer
        )
        _keep(Took(seconds=time.perf_counter() - began, started_s=started_s))
    finally:
        await engine.kill_and_wait()


def _alone(order: Order) -> None:
    _session(Path(order.tiny)).run(None, {"x": [[0.0] * 30]})
    copies = Path(order.folder) / "copies"
    copies.mkdir()
    _wait()
    began = time.perf_counter()
    # No copy that shares its blocks, as some file systems make: a model comes from elsewhere.
    originals = [str(Path(order.folder) / name) for name in order.files]
    subprocess.run(["cp", "--reflink=never", "--", *originals, str(copies)], check=True)
    copied = time.perf_counter()
    session = _session(copies / order.files[0])
    _keep(Took(seconds=time.perf_counter() - began, copied_s=copied - began))
    del session


def _session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _wait() -> None:
    say(b"ready")
    sys.stdin.buffer.readline()


def _keep(took: Took) -> None:
    say(encode(took))
    sys.stdin.buffer.read()


def main() -> None:
    """Run."""
    order = decode(sys.stdin.buffer.readline().strip(), Order)
    if order.sealed is None:
        _alone(order)
    else:
        asyncio.run(_as_an_enclave(order.sealed))


if __name__ == "__main__":
    main()
