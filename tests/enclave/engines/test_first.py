"""The child's first lines: nobody looks in, and it is the first to be ended, before anything of weight is imported."""

import subprocess
import sys
from typing import Final

from aigovtool.enclave.engines import spawn

PROBE: Final = """
import ctypes, sys
from aigovtool.enclave.engines import first
dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
before, light = dumpable(), not {"numpy", "onnxruntime", "cryptography", "msgspec", "typing"} & sys.modules.keys()
first.begin()
print(light, before, dumpable(), open("/proc/self/oom_score_adj").read().strip())
"""


def said(code: str) -> str:
    """Return what code prints in an interpreter as the child's is."""
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_nobody_looks_in_from_the_first_line_on() -> None:
    """No core, no ptrace by the same user, and the kernel ends it before others; no library was there yet."""
    assert said(PROBE) == "True 1 0 1000"


def test_it_begins_before_the_rest_is_imported() -> None:
    """What the child is started with is these lines, and the first of them that does anything is that."""
    code = """
from aigovtool.enclave.engines import first
first.begin = lambda: (print("aigovtool.enclave.engines.worker" in sys.modules), sys.exit(0))
first.main()
"""
    assert said(code) == "False"
    assert spawn.WORKER_MODULE == "aigovtool.enclave.engines.first"
