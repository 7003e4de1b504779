"""Loads a model once in ONNX Runtime, in a process of its own, before it is sealed.

A model can crash ONNX Runtime, loop or take all memory while it loads. So the parent never imports it: it starts
`python -I -m aigovtool.package.loadcheck`, which limits itself (memory, CPU time, no core, no files beyond its
answer), loads the model and answers in strict JSON. A crash, a timeout or an error is a `ModelError` with ONNX
Runtime's reason.

Call it after `inspect_onnx`, which refuses external data outside the model's folder: ONNX Runtime would open it.
It is no sandbox against a model that takes over the process: whoever seals a model has its maker's trust.
"""

import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from aigovtool.codec import Message, decode, encode
from aigovtool.errors import FaultError, InputError, ModelError
from aigovtool.package.inspect import OnnxModel

_MAX_ANSWER_BYTES: Final = 256 << 10
_MAX_REASON_CHARS: Final = 400
_ARGUMENTS: Final = 4
_EXIT_NO_ENGINE: Final = 78
# 1: Python itself did not get as far as `main`, which never returns 1. 2: wrong usage.
_EXITS_BEFORE_LOADING: Final = (1, 2, _EXIT_NO_ENGINE)
_LOAD_FIX: Final = "load it with onnxruntime.InferenceSession(path) and export it again until that works"


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """What one load may take. Defaults fit a model of 2 GiB with its prepacked copy."""

    timeout_s: float = 300.0
    cpu_s: int = 600
    memory_bytes: int = 16 << 30


class LoadReport(Message):
    """What the child answers: the names that ONNX Runtime sees, or its reason for refusing the model."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    error: str


def check_loads(path: Path, model: OnnxModel, limits: LoadLimits | None = None) -> None:
    """Load the model at `path` in a separate process, and compare its inputs and outputs with `model`.

    Raises:
        ModelError: with reason `load_failed`, `load_crashed`, `load_timeout` or `load_differs`.
        FaultError: the process cannot be started, or ONNX Runtime is not installed.
    """
    limits = limits or LoadLimits()
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as noise:
        status = _run_child(path.resolve(), limits, answer, noise)
        if status != 0:
            raise _crashed(status, _tail(noise, path))
        answer.seek(0)
        try:
            report = decode(answer.read(_MAX_ANSWER_BYTES + 1), LoadReport, max_bytes=_MAX_ANSWER_BYTES)
        except InputError:
            raise ModelError(
                "the process that loads the model gave no readable answer", reason="load_crashed", fix=_LOAD_FIX
            ) from None
    if report.error:
        raise ModelError(
            f"ONNX Runtime refuses the model: {sanitise(report.error, path)}", reason="load_failed", fix=_LOAD_FIX
        )
    if set(report.inputs) != {t.name for t in model.inputs} or report.outputs != tuple(t.name for t in model.outputs):
        raise ModelError(
            "ONNX Runtime sees other inputs or outputs than this program",
            reason="load_differs",
            fix="export the model again; two readers must agree on what it is",
        )


def sanitise(text: str, path: Path) -> str:
    """Return `text` as one bounded line without folders or characters that could deceive a terminal."""
    for folder in {str(path.parent), str(path.resolve().parent)} - {"/", "."}:
        text = text.replace(folder + "/", "")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_REASON_CHARS else line[:_MAX_REASON_CHARS] + "..."


def _run_child(path: Path, limits: LoadLimits, answer: IO[bytes], noise: IO[bytes]) -> int:
    """Return the exit status; negative: the signal that ended it."""
    command = [sys.executable, "-I", *["-O"] * sys.flags.optimize, "-m", "aigovtool.package.loadcheck"]
    command += [str(path), str(limits.memory_bytes), str(limits.cpu_s)]
    try:
        return subprocess.run(  # noqa: S603 - our own module, no shell, no environment
            command,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=noise,
            env={"ORT_DISABLE_TELEMETRY": "1"},
            cwd="/",
            timeout=limits.timeout_s,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"the model was not loaded within {limits.timeout_s:g} s",
            reason="load_timeout",
            fix="allow more time, or simplify the model: constants may be computed while it loads",
        ) from None
    except OSError as error:
        raise FaultError(f"the load check cannot be started: {error.strerror}", reason="load_check") from None


def _crashed(status: int, noise: str) -> ModelError | FaultError:
    if status in _EXITS_BEFORE_LOADING:
        return FaultError(
            f"the load check cannot run: {noise}",
            reason="load_check",
            fix="install aigovtool and onnxruntime into this Python (PYTHONPATH is not read)",
        )
    how = f"exit status {status}"
    if status < 0:
        how = signal.Signals(-status).name if -status in signal.valid_signals() else f"signal {-status}"
    return ModelError(
        f"the process that loads the model crashed ({how}){': ' + noise if noise else ''}",
        reason="load_crashed",
        fix=_LOAD_FIX,
    )


def _tail(noise: IO[bytes], path: Path) -> str:
    size = noise.seek(0, 2)
    noise.seek(max(0, size - _MAX_REASON_CHARS))
    return sanitise(noise.read(_MAX_REASON_CHARS).decode("utf-8", "replace"), path)


# --- The child -----------------------------------------------------------------------------------


def limit_self(memory_bytes: int, cpu_s: int) -> None:
    """Limit this process for good."""
    for what, bound in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _MAX_ANSWER_BYTES),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        _, hard = resource.getrlimit(what)
        allowed = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(what, (allowed, allowed))


def load(path: str) -> LoadReport:
    """Load the model at `path` in this process; ONNX Runtime is imported here and nowhere else."""
    import onnxruntime  # noqa: PLC0415 - only the child may load it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")  # as the enclave reads it
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return LoadReport(
        inputs=tuple(node.name for node in session.get_inputs()),
        outputs=tuple(node.name for node in session.get_outputs()),
        error="",
    )


def main(arguments: list[str]) -> int:
    """Run the child: `PATH MEMORY_BYTES CPU_S`; return its exit status."""
    if len(arguments) != _ARGUMENTS:
        sys.stderr.write("usage: python -I -m aigovtool.package.loadcheck PATH MEMORY_BYTES CPU_S\n")
        return 2
    limit_self(int(arguments[2]), int(arguments[3]))
    try:
        report = load(arguments[1])
    except ImportError as error:
        sys.stderr.write(str(error)[-_MAX_REASON_CHARS:])
        return _EXIT_NO_ENGINE
    # ONNX Runtime's errors share no base class but this; whatever it is, it is the answer.
    except Exception as error:  # noqa: BLE001
        report = LoadReport(inputs=(), outputs=(), error=str(error)[:4096] or type(error).__name__)
    sys.stdout.buffer.write(encode(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
