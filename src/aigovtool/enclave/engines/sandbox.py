"""What the engine child may still do once it has its libraries: compute, and talk over one socket.

The child loads a model that only its sealer vouches for, with a C++ library that has had memory bugs. So it
gives up, before it makes a key or sees a model, what it never needs, in layers that do not trust each other:

1. `no_new_privs`, `not_dumpable`: no privilege by exec; no core file; no ptrace by the same user.
2. `limits`: no core, no file ever grows (but its own, to their share), at most `MAX_OPEN_FILES` descriptors, optionally
   bounded memory. RLIMIT_NPROC is left alone: it counts the user's threads in all processes and does not bind root.
   Files in memory have a third of that bound: what is honest has each byte of them twice in its addresses. What is not
   can take that third more; then the kernel ends it before anybody else (`first`).
3. `capabilities`: all of them are dropped, which matters where the enclave runs as root.
4. `private_files`: its root is an empty file system in memory of its own (`private_files`), so that no path leads
   anywhere else. Absent where neither privilege nor a user namespace is to be had, and without landlock of ABI 3:
   descriptors that it holds have links there, and what is opened through a link is outside. Then it uses no files.
5. `landlock`: with no rule but for the files of that root, so that nothing else can be opened, no TCP port bound
   or connected, and (ABI 6) no signal or abstract socket reaches outside. Absent on kernels without it: the parent
   decides.
6. `memory_locked`: nothing of it is swapped out. Only where any amount may be locked without the capability for it,
   which is dropped: the parent decides.
7. `seccomp`: an allow-list. Memory without execute permission, threads (never processes), clocks, randomness,
   reading descriptors that it holds, messages on the one channel, and with `private_files` plain files. Any other call
   fails with EPERM; calls that only an attacker makes, or another architecture's, kill the process.

`enter` refuses to run in a process that has a second thread: landlock covers only the thread that asks. (This
also catches libraries that start a thread on import; ONNX Runtime's telemetry does.) seccomp is set with TSYNC.

It does not hide the processor's side channels or bound CPU time; the parent's deadline and SIGKILL do that.

Sources: Linux Documentation/userspace-api/{landlock,seccomp_filter,no_new_privs}.rst; system call numbers from
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (aarch64) of Linux 6.18.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from enum import StrEnum
from pathlib import Path
from typing import Final

from aigovtool.crypto import memory
from aigovtool.enclave.engines import private_files
from aigovtool.enclave.engines.seccomp import KNOWN_MACHINES, filter_program
from aigovtool.errors import ConfigurationError

MAX_OPEN_FILES: Final = 16


class Layer(StrEnum):
    """A layer of the sandbox, as the child reports it."""

    NO_NEW_PRIVS = "no_new_privs"
    NOT_DUMPABLE = "not_dumpable"
    LIMITS = "limits"
    CAPABILITIES = "capabilities"
    PRIVATE_FILES = "private_files"
    LANDLOCK = "landlock"
    MEMORY_LOCKED = "memory_locked"
    SECCOMP = "seccomp"


#: Layers that not every machine can give.
_MAY_LACK: Final = frozenset({Layer.PRIVATE_FILES, Layer.LANDLOCK, Layer.MEMORY_LOCKED})
#: Without one of these no child is used; `Layer.LANDLOCK` joins them unless the configuration says otherwise.
ALWAYS_REQUIRED: Final = frozenset(Layer) - _MAY_LACK

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_ADD_RULE: Final = 445
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
_LANDLOCK_RULE_PATH_BENEATH: Final = 1
#: The first that keeps a file outside from being truncated through the link of a descriptor (Linux 6.2).
_LANDLOCK_FOR_FILES: Final = 3
#: WRITE_FILE, READ_FILE, REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG.
_LANDLOCK_FILES: Final = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8
#: Of the bound of memory: a model lies in files, is mapped, and is copied by the library in the layout that it uses.
_SHARE_OF_FILES: Final = 3
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_TSYNC: Final = 1
_SECCOMP_CALL: Final = {"x86_64": 317, "aarch64": 277}

_libc: Final = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the thread that started this process ends.

    The caller must compare `os.getppid()` afterwards: a parent that died before this call is never reported.

    Raises:
        ConfigurationError: `sandbox_failed`.
    """
    _prctl("parent death signal", _PR_SET_PDEATHSIG, signal.SIGKILL)


def enter(channel_fd: int, *, memory_bytes: int | None = None, own_files: bool = True) -> tuple[Layer, ...]:
    """Give up everything that the module's list names; there is no way back.

    Args:
        channel_fd: the only descriptor on which messages may be sent and received.
        memory_bytes: bound of the address space, or None.
        own_files: whether it shall have files of its own, where that can be.

    Returns:
        The layers that hold now. Those of `ALWAYS_REQUIRED` are among them: without one of them it raises. What
        `die_with_parent` asked for still holds; the caller must compare `os.getppid()` again.

    Raises:
        ConfigurationError: `sandbox_threads`, `sandbox_machine`, `sandbox_failed`.
    """
    machine = platform.machine()
    if machine not in KNOWN_MACHINES:
        raise ConfigurationError(f"no sandbox for {machine}", reason="sandbox_machine", fix="use x86_64 or aarch64")
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise ConfigurationError("the engine child has a second thread already", reason="sandbox_threads")
    locked = memory.lock(with_capability=False)
    files_bytes = memory_bytes and memory_bytes // _SHARE_OF_FILES
    files = own_files and _landlock_abi() >= _LANDLOCK_FOR_FILES and private_files.enter(files_bytes)
    die_with_parent()  # forgotten by the kernel where credentials change
    _prctl("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)
    _prctl("not_dumpable", _PR_SET_DUMPABLE, 0)
    _set_limits(memory_bytes, files_bytes if files else 0)
    _drop_capabilities()
    optional = {
        Layer.PRIVATE_FILES: files,
        Layer.LANDLOCK: _restrict_by_landlock(files=files),
        Layer.MEMORY_LOCKED: locked,
    }
    _filter_system_calls(machine, channel_fd, files=files)
    return tuple(layer for layer in Layer if optional.get(layer, True))


def _prctl(what: str, option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise _failed(what)


def _failed(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"the engine's sandbox could not be entered: {what}: {os.strerror(ctypes.get_errno())}",
        reason="sandbox_failed",
        fix="use a Linux kernel with seccomp filters, and do not forbid them in an outer sandbox",
    )


def _set_limits(memory_bytes: int | None, files_bytes: int | None) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_FSIZE: files_bytes,
        resource.RLIMIT_AS: memory_bytes,
    }
    for kind, value in ((kind, value) for kind, value in limits.items() if value is not None):
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"a resource limit could not be set: {error}", reason="sandbox_failed") from None


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)  # of this thread
    nothing = bytes(24)  # effective, permitted, inheritable: 64 bits each, in two halves
    if _libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(nothing)) != 0:
        raise _failed("capabilities")


def _restrict_by_landlock(*, files: bool) -> bool:
    """Handle every access that this kernel knows and allow none, or those of `files`. False where there is none."""
    abi = _landlock_abi()
    if not abi:
        return False
    attr = _landlock_attr(abi)
    ruleset = _libc.syscall(
        ctypes.c_long(_LANDLOCK_CREATE_RULESET), ctypes.c_char_p(attr), ctypes.c_size_t(len(attr)), ctypes.c_uint32(0)
    )
    if ruleset < 0:
        raise _failed("landlock")
    try:
        if files:
            _allow_files(ruleset)
        if _libc.syscall(ctypes.c_long(_LANDLOCK_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint32(0)) != 0:
            raise _failed("landlock")
    finally:
        os.close(ruleset)
    return True


def _landlock_abi() -> int:
    """Return which landlock this kernel has, 0 for none."""
    abi: int = _libc.syscall(
        ctypes.c_long(_LANDLOCK_CREATE_RULESET),
        None,
        ctypes.c_size_t(0),
        ctypes.c_uint32(_LANDLOCK_CREATE_RULESET_VERSION),
    )
    if abi < 0 and ctypes.get_errno() not in {errno.ENOSYS, errno.EOPNOTSUPP}:
        raise _failed("landlock")
    return max(0, abi)


def _allow_files(ruleset: int) -> None:
    """Allow what is done with plain files, beneath the root."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        rule = struct.pack("=Qi", _LANDLOCK_FILES, root)  # struct landlock_path_beneath_attr
        kind, none = ctypes.c_int(_LANDLOCK_RULE_PATH_BENEATH), ctypes.c_uint32(0)
        added = _libc.syscall(
            ctypes.c_long(_LANDLOCK_ADD_RULE), ctypes.c_int(ruleset), kind, ctypes.c_char_p(rule), none
        )
        if added != 0:
            raise _failed("landlock")
    finally:
        os.close(root)


def _landlock_attr(abi: int) -> bytes:
    """Return struct landlock_ruleset_attr with everything that `abi` knows: file rights, network rights, scopes."""
    # By the ABI that introduced them: 13 file rights in ABI 1, REFER in 2, TRUNCATE in 3, IOCTL_DEV in 5.
    rights = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)
    fields = [(1 << rights) - 1]
    if abi >= 4:
        fields.append(0b11)  # bind and connect TCP
    if abi >= 6:
        fields.append(0b11)  # abstract sockets and signals
    return struct.pack(f"={len(fields)}Q", *fields)


def _filter_system_calls(machine: str, channel_fd: int, *, files: bool) -> None:
    program = filter_program(machine, channel_fd, files=files)
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))  # struct sock_fprog
    # TSYNC answers with the id of a thread that could not follow: anything but 0 is a failure.
    result = _libc.syscall(
        ctypes.c_long(_SECCOMP_CALL[machine]),
        ctypes.c_uint(_SECCOMP_SET_MODE_FILTER),
        ctypes.c_uint(_SECCOMP_FILTER_FLAG_TSYNC),
        ctypes.c_char_p(fprog),
    )
    if result != 0:
        raise _failed("seccomp")
