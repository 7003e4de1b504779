"""What a process holds leaves no core file, is not seen by others of the same user, and is not swapped out."""

import subprocess
import sys

import pytest

from aigovtool.crypto.memory import LOCK_FIX

_SHOW = """
import ctypes, resource
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
_CUSTODIAN = """
from pathlib import Path
from aigovtool.custodian.app import serve
from aigovtool.errors import ConfigurationError
try:
    serve(Path("/nowhere"), host="127.0.0.1", port=0)
except ConfigurationError:
    pass
"""
_ENCLAVE = """
from pathlib import Path
from aigovtool.enclave.app import EnclaveOptions, serve
from aigovtool.errors import ConfigurationError
try:
    serve(EnclaveOptions(tee="simulated", allow_simulated=True, borrower_file=Path("/nowhere"), models=("m",),
          host="127.0.0.1", port=0, cache=Path("/nowhere")))
except ConfigurationError:
    pass
"""
_COMMAND_LINE = """
import io, sys
from contextlib import redirect_stdout
from aigovtool.cli import main
sys.argv = ["aigovtool", "version"]
try:
    with redirect_stdout(io.StringIO()):
        main()
except SystemExit:
    pass
"""
_PLAIN = "from aigovtool.crypto.memory import keep_private\nkeep_private()\n"


def shown(code: str) -> str:
    """Return the limit of core files, and whether the process may be dumped (PR_GET_DUMPABLE), after some code."""
    done = subprocess.run([sys.executable, "-c", code + _SHOW], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code", [_PLAIN, _CUSTODIAN, _ENCLAVE, _COMMAND_LINE], ids=["itself", "custodian", "enclave", "command-line"]
)
def test_no_core_file_is_written_and_nobody_looks_in(code: str) -> None:
    """Before the first key is read: whoever serves, and every verb of the command line."""
    assert shown(code) == "(0, 0) 0"


def test_it_is_not_so_by_itself() -> None:
    """What is tested above is not a property of the machine."""
    assert shown("").endswith(" 1")


#: Locks, or tries to; then takes 32 MiB more, and tells what was answered and how much is locked (KiB).
_LOCKED = """
import logging, os, re, sys
from pathlib import Path
logging.basicConfig(format="%(message)s: %(what)s: %(fix)s", stream=sys.stdout)
from aigovtool.crypto import memory
{before}
memory.keep_to_itself()
before = int(re.search(r"VmLck:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
more = bytearray(os.urandom(32 << 20))
print(before, int(re.search(r"VmLck:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
"""
_AS_NOBODY = """
import resource
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
os.setuid(65534)
"""


def locked(before: str) -> str:
    """Return what a process says that keeps its memory to itself after `before`."""
    done = subprocess.run(
        [sys.executable, "-c", _LOCKED.format(before=before)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.needs("root")
def test_what_a_server_holds_and_will_hold_is_locked_in_memory() -> None:
    """What is taken later as well: 32 MiB of it count."""
    at_first, later = map(int, locked("").split())
    assert at_first > 0
    assert later - at_first >= 32 << 10


@pytest.mark.needs("root")
def test_who_may_lock_little_locks_nothing_and_says_so() -> None:
    """Under a limit, later allocations would fail: it works as before, and tells what to change."""
    said, numbers = locked(_AS_NOBODY).splitlines()
    assert said == f"memory_not_locked: this process: {LOCK_FIX}"
    assert numbers == "0 0"
