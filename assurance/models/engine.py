"""Loads malformed models in the enclave's engine child, runs those that load, and says what came of each.

The child is the product's: sandboxed, with the real ONNX Runtime. What is wrong: anything but a typed error where a
model is refused; a child that ends in another way than by a signal, or that says what it should not; one that lives on
and computes wrongly, or cannot open what it could before; and a parent that keeps descriptors or memory.
"""

import math
import signal
import struct
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from onnx import ModelProto, helper

from aigovtool.enclave.engines.process import EngineConfig, EngineProcess, LoadedModel
from aigovtool.errors import AIGovToolError, EngineError
from aigovtool.ids import ConsumerId
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.tensor import Datatype, Tensor, frame_bytes
from assurance.models.own_graphs import model
from assurance.models.sealing import seal_model

#: One model may be loaded for so long here (ten minutes in the product), and computed for so long.
LOAD_MS: Final = 20_000
RUN_MS: Final = 1_000
_AS_BEFORE: Final = "as before"
_MEMORY_BYTES: Final = 4 << 30
_MOST_INPUT_BYTES: Final = 1 << 20
_ASKER: Final = ConsumerId("trial")
#: What a parent says of a child that did not simply end: a bug of ours on one of the two sides.
_OUT_OF_ORDER: Final = ("broke the protocol", "answered", "hello", "malformed", "other outputs", "another datatype")


@dataclass(frozen=True)
class Outcome:
    """What came of one model; `wrong` says what should not be, if anything is."""

    came: str
    seconds: float
    wrong: str | None = None


class Trial:
    """One engine child after another, each until it dies; what is wrong with a parent is for `kept` to say."""

    def __init__(self, folder: Path) -> None:
        """Keep packages in `folder`."""
        self._folder: Final = folder
        self._engine: EngineProcess | None = None
        self._good: LoadedModel | None = None

    async def judge(self, data: bytes, made_of: ModelProto) -> Outcome:
        """Load a model, and run it if it loads; and see that the child, if it lives, is as good as before."""
        await self._child()
        sealed = seal_model(self._folder / "malformed", data, made_of)
        began_s = time.monotonic()
        came, wrong = await self._received(self._use(sealed.load(self._living(), LOAD_MS)))
        seconds = time.monotonic() - began_s
        if wrong is None and not self._living().died.is_set():
            later, wrong = await self._received(self._still_doubles())
            came = came if later == _AS_BEFORE else f"{came}, then {later}"
        return Outcome(came, seconds, wrong)

    async def end(self) -> None:
        """End the child."""
        if self._engine is not None:
            await self._engine.kill_and_wait()
            self._engine = None

    async def _child(self) -> None:
        if self._engine is not None and not self._engine.died.is_set():
            return
        self._engine = await EngineProcess.start(EngineConfig(memory_bytes=_MEMORY_BYTES))
        good = model([helper.make_node("Add", ["x", "x"], ["y"])])
        sealed = seal_model(self._folder / "good", bytes(good.SerializeToString()), good)
        self._good = await sealed.load(self._engine, 60_000)

    def _living(self) -> EngineProcess:
        if self._engine is None:
            raise RuntimeError("no child was started")
        return self._engine

    async def _received(self, doing: Awaitable[str]) -> tuple[str, str | None]:
        """Return what came of it, and what is wrong with that."""
        try:
            return await doing, None
        except EngineError as error:
            if error.reason in {"engine_died", "bad_answer"}:
                return await self._death(error)
            return f"refused: {error.code}: {error.reason}", None
        except AIGovToolError as error:
            if error.reason == "engine_overdue":
                await self.end()
                return "computed without an end", None
            return f"refused: {error.code}: {error.reason}", None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not typed
            return "another error", f"not a typed error: {error!r}"

    async def _death(self, error: EngineError) -> tuple[str, str | None]:
        child = self._living()
        await child.died.wait()
        status = child.exit_status
        if "in time" in error.message:
            return "was not loaded in time", None
        if any(words in error.message for words in _OUT_OF_ORDER):
            return "another end", error.message
        if status is None or status >= 0:
            return "another end", f"the child ended by itself with {status}: {error.message}"
        return f"died: {signal.Signals(-status).name}", None

    async def _use(self, loading: Awaitable[LoadedModel]) -> str:
        loaded = await loading
        inputs = _inputs(loaded.interface.inputs)
        if inputs is None:
            return "loaded"
        engine = self._living()
        try:
            await engine.run(loaded, inputs, [], RUN_MS, consumer=_ASKER)
        except (EngineError, AIGovToolError) as error:
            if error.reason in {"engine_died", "bad_answer", "engine_overdue"}:
                raise
            came = f"loaded, run refused: {error.code}"
        else:
            came = "loaded and answered"
        await engine.unload(loaded)
        return came

    async def _still_doubles(self) -> str:
        if self._good is None:
            raise RuntimeError("no child was started")
        x = Tensor("x", Datatype.FP32, (1, 2), struct.pack("<2f", 1.5, -2.0))
        ran = await self._living().run(self._good, [x], [], 60_000, consumer=_ASKER)
        if bytes(ran.outputs[0].data) != struct.pack("<2f", 3.0, -4.0):
            raise ValueError("what was loaded before computes something else")
        return _AS_BEFORE


def _inputs(specs: Sequence[TensorSpec]) -> list[Tensor] | None:
    """Return something that fits, unless it would be large."""
    found = []
    for spec in specs:
        shape = tuple(2 if isinstance(axis, str) or axis < 0 else axis for axis in spec.shape or ())
        count, datatype = math.prod(shape), Datatype(spec.datatype.value)
        if count * 8 > _MOST_INPUT_BYTES:
            return None
        one = frame_bytes([b"a"]) if datatype is Datatype.BYTES else b"\1".ljust(datatype.size_bytes, b"\0")
        found.append(Tensor(spec.name, datatype, shape, one * count))
    return found
