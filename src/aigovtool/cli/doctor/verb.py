"""`aigovtool doctor`: what this machine offers, what is missing, and whether a custodian's ledger is safe on it."""

import ctypes
import os
import platform
import resource
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import click
from msgspec import Struct

from aigovtool import __version__
from aigovtool.cli.doctor import sqlite as doctor_sqlite
from aigovtool.cli.doctor.check import WRONG, Check
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import DIRECTORY, Verb
from aigovtool.crypto.memory import LOCK_FIX

_TEE_DEVICES: Final = (
    ("sev-snp", "/dev/sev-guest"),
    ("tdx", "/dev/tdx_guest"),
    ("sgx", "/dev/sgx_enclave"),
    ("nitro", "/dev/nsm"),
    ("tpm", "/dev/tpmrm0"),
)
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_VERSION_FLAG: Final = 1
_LANDLOCK_FOR_FILES: Final = 3  # as in the sandbox of engines, which an operator's program does not load
_TRY_FILES: Final = ("-m", "aigovtool.enclave.engines.files_trial")
#: By what the trial says: where models are loaded from, and what to do about it.
_FROM_FILES: Final = "engines load models from files of their own"
_FROM_BUFFERS: Final = "engines load models from buffers, which takes more time and memory"
_NOWHERE: Final = (_FROM_BUFFERS, "allow user and mount namespaces, and leave root CAP_SETFCAP")
_FILES: Final = {
    b"yes": (_FROM_FILES, ""),
    b"here": (f"{_FROM_FILES} where they have all capabilities of this user", "allow user namespaces"),
}


class Findings(Struct, frozen=True, kw_only=True):
    """Everything that was looked at."""

    checks: list[Check]
    tees: list[str]


@click.command(cls=Verb, example="aigovtool doctor ./custodian")
@click.argument("directory", type=DIRECTORY, required=False)
@click.pass_obj
def doctor(screen: Screen, directory: Path | None) -> None:
    """Show versions, TEE devices and what the kernel offers for the sandbox of engines.

    With the DIRECTORY of a custodian, which may be serving, also its ledger: how it is kept, whether that is safe with
    the SQLite that is loaded here, or what its PostgreSQL server is; and until when its TLS certificate is good.
    """
    from aigovtool.cli.doctor.custodian import custodian  # noqa: PLC0415

    tees = [name for name, device in _TEE_DEVICES if Path(device).exists()]
    checks = [*_versions(), *_kernel(), *(_device(name, device) for name, device in _TEE_DEVICES)]
    if directory is not None:
        checks += custodian(directory)
    findings = Findings(checks=checks, tees=tees)

    def render() -> None:
        screen.table(("what", "standing", "found"), [(c.name, c.standing, c.found) for c in checks], "")
        if not tees:
            screen.line("No TEE device: enclaves on this host can only be simulated, which protects nothing.")
        wrong = [check.name for check in checks if check.standing == WRONG]
        if wrong:
            screen.line(f"To be mended: {', '.join(wrong)}.", style="bold red")

    screen.show(findings, render)


def _versions() -> list[Check]:
    return [
        Check(name="aigovtool", standing="ok", found=__version__),
        Check(name="python", standing="ok", found=platform.python_version()),
        Check(name="openssl", standing="ok" if ssl.HAS_TLSv1_3 else "missing", found=ssl.OPENSSL_VERSION),
        doctor_sqlite.loaded(),
    ]


def _kernel() -> list[Check]:
    landlock = _landlock_abi()
    memfd = hasattr(os, "memfd_create")
    return [
        Check(name="kernel", standing="ok", found=f"{platform.system()} {platform.release()} {platform.machine()}"),
        Check(
            name="landlock",
            standing="ok" if landlock > 0 else "missing",
            found=f"ABI {landlock}" if landlock > 0 else "not available",
        ),
        Check(name="memfd", standing="ok" if memfd else "missing", found="available" if memfd else "not available"),
        Check(
            name="seccomp",
            standing="ok" if Path("/proc/sys/kernel/seccomp").exists() else "missing",
            found="available" if Path("/proc/sys/kernel/seccomp").exists() else "not available",
        ),
        _files_in_memory(),
        _locked_memory(),
        _memory(),
    ]


def _files_in_memory() -> Check:
    """Whether engines that this user starts here have a file system of their own: it is tried, in a process."""
    command = [sys.executable, "-I", "-B", *_TRY_FILES]
    said = b""
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False).stdout  # noqa: S603
    found, lacking = _FILES.get(said, _NOWHERE)
    if _landlock_abi() < _LANDLOCK_FOR_FILES:
        found, lacking = _FROM_BUFFERS, "it takes landlock of ABI 3, Linux 6.2"
    text = f"{found}: {lacking}" if lacking else found
    return Check(name="files in memory", standing="note" if lacking else "ok", found=text)


def _memory() -> Check:
    """Whether an enclave may hold here for consumers what it does on a large machine."""
    from aigovtool.enclave.memory import AMPLE_BYTES, LEAST_BYTES, memory_bounds  # noqa: PLC0415

    memory, found = memory_bounds(), "any enclave is served by it"
    if not memory.is_ample:
        found = f"an enclave holds less at a time for consumers than with {AMPLE_BYTES / 2**30:.1f} GiB"
    if not memory.is_enough:
        found = f"too little for the largest requests to an enclave, which takes {LEAST_BYTES / 2**30:.1f} GiB"
    standing = "ok" if memory.is_enough else "note"
    return Check(name="memory", standing=standing, found=f"{memory.has / 2**30:.1f} GiB: {found}")


def _locked_memory() -> Check:
    """Whether servers that this user starts here can keep their memory from being swapped out."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    unlimited = limit == resource.RLIM_INFINITY
    found = "any amount" if unlimited else f"{limit >> 10} KiB: {LOCK_FIX}"
    return Check(name="locked memory", standing="ok" if unlimited else "note", found=found)


def _device(name: str, device: str) -> Check:
    if not Path(device).exists():
        return Check(name=f"tee {name}", standing="missing", found=f"no {device}")
    usable = os.access(device, os.R_OK | os.W_OK)
    found = device if usable else f"{device}, but this user may not open it"
    return Check(name=f"tee {name}", standing="ok" if usable else "note", found=found)


def _landlock_abi() -> int:
    """Return the version of landlock that the kernel offers; 0 for none. Makes no ruleset."""
    if platform.system() != "Linux":
        return 0
    library = ctypes.CDLL(None, use_errno=True)
    version: int = library.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION_FLAG)
    return max(0, version)
