"""The seccomp filter of the engine child, as classic BPF: pure bytes, no system call is made here.

Rules, in the order of the program:

1. Another architecture's call, and the x32 numbers of x86_64, kill the process: their numbers mean other things.
2. `_HOSTILE` calls kill: no library makes one by accident, and an exploit must not get to try the next thing.
3. `_ALLOWED` calls pass. There is none that opens, creates or writes a file, makes a socket, or names another
   process. `_FILES` pass for a process whose root is a file system of its own: plain files, and no links or devices.
4. Messages pass on the channel's descriptor only; mapped memory passes unless it is to be executable; `clone`
   passes if it makes a thread of this process and no namespace.
5. `clone3` answers ENOSYS, as on an old kernel: its flags are in memory, where a filter cannot see them, and
   the C library then falls back to `clone`.
6. Everything else answers EPERM.

Arguments are compared by their low 32 bits: descriptors, protections and the clone flags used here are 32-bit
values for the kernel too. Little-endian machines only.
"""

import errno
import struct
from typing import Final

KNOWN_MACHINES: Final = frozenset({"x86_64", "aarch64"})

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT: Final = 0x40000000

# name: (x86_64, aarch64). None where the architecture has no such call.
_Numbers = tuple[int | None, int | None]

_ALLOWED: Final[dict[str, _Numbers]] = {
    # descriptors that it holds: the package (read-only) and the channel
    "read": (0, 63),
    "readv": (19, 65),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "close": (3, 57),
    # memory (mmap and mprotect are below)
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "mlock": (149, 228),
    "munlock": (150, 229),
    # threads
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "gettid": (186, 178),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # signals to itself
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    # clocks, randomness, sizes
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "getrandom": (318, 278),
    "sysinfo": (99, 179),
    "uname": (63, 160),
}
_FILES: Final[dict[str, _Numbers]] = {
    "open": (2, None),
    "openat": (257, 56),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "fallocate": (285, 47),
}
_FCNTL: Final[_Numbers] = (72, 25)
_F_DUPFD_CLOEXEC: Final = 1030
_ON_CHANNEL: Final[dict[str, _Numbers]] = {
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
}
_NOT_EXECUTABLE: Final[dict[str, _Numbers]] = {"mmap": (9, 222), "mprotect": (10, 226)}
_CLONE: Final[_Numbers] = (56, 220)
_CLONE3: Final[_Numbers] = (435, 435)
_HOSTILE: Final[dict[str, _Numbers]] = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}

_PROT_EXEC: Final = 4
_CLONE_THREAD_FLAGS: Final = 0x00010900  # CLONE_THREAD | CLONE_SIGHAND | CLONE_VM
_CLONE_NAMESPACES: Final = 0x7E020080  # every CLONE_NEW*

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000

# Offsets in struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6].
_NR_OFFSET: Final = 0
_ARCH_OFFSET: Final = 4
_ARGS_OFFSET: Final = 16

_INSTRUCTION: Final = struct.Struct("<HBBI")  # struct sock_filter
_Block = list[tuple[int, int, int, int]]


def filter_program(machine: str, channel_fd: int, *, files: bool) -> bytes:
    """Return the program, 8 bytes per instruction, for `machine` (one of `KNOWN_MACHINES`), with `_FILES` or not."""
    column = 0 if machine == "x86_64" else 1
    block: _Block = [
        (_LOAD, 0, 0, _ARCH_OFFSET),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NR_OFFSET),
    ]
    if machine == "x86_64":
        block += [(_JUMP_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL_PROCESS)]
    for numbers in _HOSTILE.values():
        block += _when(numbers[column], [(_RETURN, 0, 0, _KILL_PROCESS)])
    for numbers in (*_ALLOWED.values(), *(_FILES.values() if files else ())):
        block += _when(numbers[column], [(_RETURN, 0, 0, _ALLOW)])
    for numbers in _ON_CHANNEL.values():
        block += _when(numbers[column], _if_equal(0, channel_fd))
    for numbers in _NOT_EXECUTABLE.values():
        block += _when(numbers[column], _if_no_bit(2, _PROT_EXEC))
    if files:
        block += _when(_FCNTL[column], _if_equal(1, _F_DUPFD_CLOEXEC))
    block += _when(_CLONE[column], _if_thread())
    block += _when(_CLONE3[column], [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)])
    block += [(_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in block)


def _when(number: int | None, body: _Block) -> _Block:
    """Return `body`, which always returns, behind a test for the call `number`; nothing for None."""
    return [] if number is None else [(_JUMP_EQUAL, 0, len(body), number), *body]


def _argument(index: int) -> tuple[int, int, int, int]:
    return (_LOAD, 0, 0, _ARGS_OFFSET + 8 * index)


def _verdict(jump: int, value: int, *, allow_if: bool) -> _Block:
    yes, no = (_ALLOW, _ERRNO | errno.EPERM) if allow_if else (_ERRNO | errno.EPERM, _ALLOW)
    return [(jump, 0, 1, value), (_RETURN, 0, 0, yes), (_RETURN, 0, 0, no)]


def _if_equal(index: int, value: int) -> _Block:
    return [_argument(index), *_verdict(_JUMP_EQUAL, value, allow_if=True)]


def _if_no_bit(index: int, bits: int) -> _Block:
    return [_argument(index), *_verdict(_JUMP_ANY_BIT, bits, allow_if=False)]


def _if_thread() -> _Block:
    return [
        _argument(0),
        (_JUMP_ANY_BIT, 0, 1, _CLONE_NAMESPACES),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_AND, 0, 0, _CLONE_THREAD_FLAGS),
        *_verdict(_JUMP_EQUAL, _CLONE_THREAD_FLAGS, allow_if=True),
    ]
