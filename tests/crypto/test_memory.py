"""What a process holds leaves no core file, and is not seen by others of the same user."""

import subprocess
import sys

import pytest

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
