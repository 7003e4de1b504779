"""Starts the child's interpreter, and looks at what is handed to it.

A fresh interpreter in isolated mode (no PYTHON* variables, no user site), an empty environment but for what
keeps libraries from starting threads and from calling home, no descriptor but the socket and the standard ones.
"""

import fcntl
import os
import socket
import stat
import subprocess
import sys
from typing import Final

from aigovtool.errors import ConfigurationError

WORKER_MODULE: Final = "aigovtool.enclave.engines.first"

_MAX_START_LOG_BYTES: Final = 4096
# ORT_DISABLE_TELEMETRY: see `onnx`. One thread each: these libraries start a pool on import otherwise.
_CHILD_ENVIRONMENT: Final = {"ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start a child whose descriptor 0 is `theirs`.

    Raises:
        ConfigurationError: `engine_start`.
    """
    optimized = ["-O"] * sys.flags.optimize  # as this process is: isolated mode does not take it from the environment
    command = [sys.executable, "-I", "-B", *optimized, "-X", "utf8", "-m", WORKER_MODULE]
    try:
        return subprocess.Popen(  # noqa: S603 - a constant command
            command,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            close_fds=True,
            cwd="/",
            env=_CHILD_ENVIRONMENT,
            # Ctrl-C in a terminal is for the parent, which ends the child in order.
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigurationError(f"the engine child cannot be started: {error}", reason="engine_start") from None


def last_words(popen: subprocess.Popen[bytes]) -> str:
    """Return the last line that a child wrote before it had any secret."""
    if popen.stderr is None:
        return ""
    os.set_blocking(popen.stderr.fileno(), False)
    text = (popen.stderr.read(_MAX_START_LOG_BYTES * 16) or b"")[-_MAX_START_LOG_BYTES:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def check_descriptor(descriptor: int) -> None:
    """Refuse a descriptor that would let the child write, or that is no file.

    Raises:
        ConfigurationError: `package_descriptor`.
    """
    try:
        writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        writable, regular = False, False
    if writable or not regular:
        raise ConfigurationError(
            "a package is handed to the engine as a regular file that is open for reading only",
            reason="package_descriptor",
        )
