"""The ONNX engine: ONNX Runtime on the processor, from buffers, or from files in memory that nobody else sees.

Rules:

1. No telemetry. The official builds of ONNX Runtime from 1.29 on open a database in the home directory, start a
   thread and upload events unless ORT_DISABLE_TELEMETRY is set before the library is loaded.
2. Only the CPU provider, no library of custom operators, no optimized model on disk, no profile, no log below
   "error"; external data only from the package's own files. Only ONNX: the library also reads a format of its own,
   which it trusts to have been checked when it was written.
3. A failure is reported by its kind, never in the library's words: they may quote an input or the graph. A model that
   was loaded fails because of what it is given, unless there was no memory, for which others may be the reason, or the
   library says something else than it says of inputs.
4. The session is compared with the manifest: same names, datatypes, ranks and fixed dimensions.
5. A deadline is enforced by `Watchdog`, which ends the run between two operators. A single operator that runs
   for long cannot be ended from inside; the parent kills the child for that.
6. A run gives back what it took. The library's own allocator keeps, for each model and for ever, the most that any run
   of it took: after one large run of one consumer there would be no memory for others and other models.

Denormals are flushed to zero: arithmetic on them can be a hundred times slower, which is a way to make a
machine busy. ONNX Runtime sets this once, in the thread that makes its first session; threads started from it
inherit the setting, so `warm_up` must come before any thread is started.

Source: onnxruntime 1.32, docs/Privacy.md, onnxruntime_session_options_config_keys.h.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # rule 1: read once, when the library is loaded
import onnxruntime as ort

from aigovtool.enclave.engines import stacks
from aigovtool.enclave.engines.engine import PlainModel
from aigovtool.enclave.engines.interface import ModelInterface, answer_too_large, check_output
from aigovtool.enclave.engines.watchdog import Guard, Watchdog
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    DeadlineError,
    EngineError,
    InvalidValueError,
    ModelError,
    TooLargeError,
)
from aigovtool.limits import MAX_INFER_BODY_BYTES
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.tensor import (
    Buffer,
    Datatype,
    Outline,
    Tensor,
    check_bytes_elements,
    frame_bytes,
    split_bytes,
)

_Array = npt.NDArray[np.generic]

_NUMPY: Final[dict[Datatype, np.dtype[np.generic]]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype("<u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("<i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
}
_DATATYPES: Final = {dtype: datatype for datatype, dtype in _NUMPY.items()}
_ONNX_TYPES: Final = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}

# Status codes of operators that check what they are given: of one failure they use the one or the other.
_OF_INPUTS: Final = frozenset({"Fail", "InvalidArgument", "RuntimeException"})
# What its allocators say; the status code is that of any failure.
_NO_MEMORY: Final = ("Failed to allocate memory", "bad_alloc", "bad allocation", "pthread_create failed")

# Identity on FP32 [n], ONNX IR 8, opset 13: what `warm_up` runs.
_IDENTITY: Final = (
    b'\x08\x08\x12\x00:9\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x10\n\x01x\x12\x0b\n\t\x08\x01\x12\x05\n\x03'
    b"\x12\x01nb\x10\n\x01y\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01nB\x04\n\x00\x10\r"
)


class OnnxEngine:
    """Loads ONNX models; one `Watchdog` serves all of them."""

    def __init__(self, intra_op_threads: int, watchdog: Watchdog) -> None:
        self._intra_op_threads: Final = intra_op_threads
        self._watchdog: Final = watchdog

    def warm_up(self) -> None:
        """See `Engine.warm_up`."""
        try:
            session = self._session(_IDENTITY, [])
            options = ort.RunOptions()
            session.run(["y"], {"x": np.zeros(1, np.float32)}, options)
            options.terminate = True
            session.run(["y"], {"x": np.zeros(1, np.float32)}, options)
        except Exception as error:  # noqa: BLE001 - the library raises classes of its own that derive from Exception
            if "terminate" not in str(error):
                raise ConfigurationError("ONNX Runtime does not work here", reason="engine_unusable") from None

    def load(self, model: PlainModel) -> "OnnxModel":
        """See `Engine.load`."""
        stacks.require_room(self._intra_op_threads - 1)
        graph = model.take_graph() if model.folder is None else str(model.folder.graph)
        try:
            session = self._session(graph, model.files)
        except Exception as error:  # noqa: BLE001 - see warm_up
            if _lacks_memory(error):
                raise EngineError("the engine has no memory for this model", reason="out_of_memory") from None
            raise ModelError(f"ONNX Runtime refuses the model ({_kind(error)})", reason="engine_refused") from None
        try:
            _check_session(session, model.interface)
        except UnicodeDecodeError:  # of a name of a tensor or of an axis, when it is read
            raise ModelError("a name in the model is not UTF-8", reason="not_utf8") from None
        return OnnxModel(session, model.interface, self._watchdog)

    def _session(self, graph: bytes | str, external: list[tuple[str, bytearray]]) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._intra_op_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # error; and its descriptor is /dev/null
        options.enable_profiling = False
        options.enable_cpu_mem_arena = False  # rule 6
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        # Spinning threads made a loaded machine several times slower than one thread.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if external:
            names, buffers = [name for name, _ in external], [data for _, data in external]
            options.add_external_initializers_from_files_in_memory(names, buffers, [len(data) for data in buffers])
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        # It keeps the plaintext for a fallback to other providers, which are not wanted.
        session.disable_fallback()
        session._model_bytes = None  # noqa: SLF001
        return session


class OnnxModel:
    """One session; `run` may be called by several threads at once."""

    def __init__(self, session: ort.InferenceSession, interface: ModelInterface, watchdog: Watchdog) -> None:
        self._session: Final = session
        self._outputs: Final = {spec.name: spec for spec in interface.outputs}
        self._watchdog: Final = watchdog

    def run(self, inputs: list[Tensor], outputs: tuple[str, ...], deadline_ns: int) -> list[Tensor]:
        """See `LoadedEngine.run`."""
        with self.until(outputs, deadline_ns) as run:
            return run(inputs)

    @contextmanager
    def until(self, outputs: tuple[str, ...], deadline_ns: int) -> Iterator[Callable[[list[Tensor]], list[Tensor]]]:
        """See `LoadedEngine.until`."""
        options = ort.RunOptions()
        guard = self._watchdog.guard(options, deadline_ns)
        try:
            yield partial(self._run, outputs or tuple(self._outputs), options, guard)
        finally:
            guard.release()

    def _run(self, names: tuple[str, ...], options: ort.RunOptions, guard: Guard, inputs: list[Tensor]) -> list[Tensor]:
        feed = {tensor.name: _to_array(tensor) for tensor in inputs}
        try:
            results = self._session.run(names, feed, options)
        except Exception as error:  # noqa: BLE001 - see OnnxEngine.warm_up
            if guard.expired or time.monotonic_ns() >= guard.deadline_ns:
                raise DeadlineError("the run was ended at its deadline") from None
            raise _refused(error) from None
        if guard.expired:  # it is told between operators only: the last one may end late, and in order
            raise DeadlineError("the run was ended at its deadline")
        return _to_tensors([self._outputs[name] for name in names], results)


def _refused(error: Exception) -> AIGovToolError:
    """Return whose fault it is that a run failed, as far as it can be told."""
    kind = _kind(error)
    if _lacks_memory(error):
        return EngineError("the engine has no memory for this run", reason="out_of_memory")
    if kind in _OF_INPUTS:
        return InvalidValueError(
            f"the model cannot be run on these inputs ({kind})",
            reason="model_refused_input",
            fix="compare values and shapes with what the model's owner says of them",
        )
    return EngineError(f"ONNX Runtime failed on this request ({kind})", reason="run_failed")


def _lacks_memory(error: Exception) -> bool:
    return any(sign in str(error) for sign in _NO_MEMORY)


def _kind(error: Exception) -> str:
    """Return the class of an ONNX Runtime error, which is its status code, and not one word of its message."""
    return type(error).__name__


def _check_session(session: ort.InferenceSession, interface: ModelInterface) -> None:
    pairs = ((session.get_inputs(), interface.inputs), (session.get_outputs(), interface.outputs))
    for nodes, specs in pairs:
        if [node.name for node in nodes] != [spec.name for spec in specs]:
            raise ModelError("inputs or outputs are not those of the manifest", reason="interface_mismatch")
        for node, spec in zip(nodes, specs, strict=True):
            _check_node(node, spec)


def _check_node(node: ort.NodeArg, spec: TensorSpec) -> None:
    datatype = _ONNX_TYPES.get(node.type)
    if datatype is None:
        raise ModelError(f"{spec.name!r} has a type that this engine does not serve", reason="unsupported_datatype")
    if datatype.value != spec.datatype.value:
        raise ModelError(f"{spec.name!r} is not of the manifest's datatype", reason="interface_mismatch")
    # The runtime may know more of an output's shape than the manifest (shape inference), but never less of both.
    if spec.shape is None or not node.shape:
        return
    known = [(mine, theirs) for mine, theirs in zip(node.shape, spec.shape, strict=False)]
    if len(node.shape) != len(spec.shape) or any(
        isinstance(mine, int) and isinstance(theirs, int) and theirs >= 0 and mine != theirs for mine, theirs in known
    ):
        raise ModelError(f"{spec.name!r} is not of the manifest's shape", reason="interface_mismatch")


def _to_array(tensor: Tensor) -> _Array:
    if tensor.datatype is Datatype.BYTES:
        return _to_strings(tensor)
    dtype = _NUMPY.get(tensor.datatype)
    if dtype is None:
        raise EngineError(f"this engine does not take {tensor.datatype}", reason="unsupported_datatype")
    array = np.frombuffer(tensor.data, dtype=dtype).reshape(tensor.shape)
    return array if array.flags.aligned else array.copy()


def _to_strings(tensor: Tensor) -> _Array:
    array = np.empty(len(items := split_bytes(tensor)), dtype=object)
    try:
        array[:] = [item.decode() for item in items]
    except UnicodeDecodeError:
        raise InvalidValueError(f"an element of {tensor.name!r} is not UTF-8", reason="not_utf8") from None
    return array.reshape(tensor.shape)


def _to_tensors(specs: list[TensorSpec], results: list[object]) -> list[Tensor]:
    """Return the answer, unless it is one for which the parent would have to take this for a child gone bad.

    ONNX Runtime only warns of an output that has another shape than the graph says: whoever asks may bring that about.
    """
    arrays = [_array_of(spec.name, result) for spec, result in zip(specs, results, strict=True)]
    outlines = [_outline(spec.name, array) for spec, array in zip(specs, arrays, strict=True)]
    for spec, outline in zip(specs, outlines, strict=True):
        check_output(spec, outline)
    try:
        check_bytes_elements(outlines)
    except TooLargeError as error:
        raise _too_large(error.message) from None
    tensors = [_to_tensor(outline, array) for outline, array in zip(outlines, arrays, strict=True)]
    if sum(len(tensor.data) for tensor in tensors) > MAX_INFER_BODY_BYTES:
        raise answer_too_large()
    return tensors


def _array_of(name: str, result: object) -> _Array:
    if not isinstance(result, np.ndarray):
        raise EngineError(f"output {name!r} is not a tensor", reason="unsupported_datatype")
    return result


def _outline(name: str, array: _Array) -> Outline:
    datatype = Datatype.BYTES if array.dtype == object else _DATATYPES.get(array.dtype)
    if datatype is None:
        raise EngineError(f"output {name!r} has a type that cannot be sent", reason="unsupported_datatype")
    try:
        return Outline.checked(name, datatype, array.shape)
    except TooLargeError as error:
        raise _too_large(f"output {name!r}: {error.message}") from None


def _too_large(message: str) -> EngineError:
    return EngineError(message, reason="output_too_large")


def _to_tensor(outline: Outline, array: _Array) -> Tensor:
    if outline.datatype is Datatype.BYTES:
        data: Buffer = frame_bytes([str(item).encode() for item in array.reshape(-1)])
    else:
        flat = np.ascontiguousarray(array).reshape(-1)
        data = flat.view(np.uint8).data if flat.size else b""
    return Tensor(outline.name, outline.datatype, outline.shape, data)
