import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigovtool.enclave.engines import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OPENAT = {"x86_64": 257, "aarch64": 56}
CHANNEL = 3


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Run classic BPF over a struct seccomp_data, as the kernel does."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    position, accumulator = 0, 0
    while True:
        code, yes, no, k = struct.unpack_from("<HBBI", program, 8 * position)
        position += 1
        if code == 0x06:
            return int(k)
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code == 0x54:
            accumulator &= k
        else:
            taken = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            position += yes if taken else no


def call(machine: str, number: int, *arguments: int, files: bool = False) -> int:
    return verdict(seccomp.filter_program(machine, CHANNEL, files=files), ARCHITECTURES[machine], number, *arguments)


machines = pytest.mark.parametrize("machine", sorted(ARCHITECTURES))


@machines
def test_another_architectures_call_kills(machine: str) -> None:
    """A 32-bit call (i386) is another table of numbers: it kills, whatever its number."""
    assert verdict(seccomp.filter_program(machine, CHANNEL, files=True), 0x40000003, 0) == KILL


def test_x32_numbers_kill() -> None:
    """The x32 numbers share the architecture of x86_64: without a check `openat` would pass as unknown."""
    assert call("x86_64", 0x40000000 | 257) == KILL


@machines
def test_files_cannot_be_opened_or_written(machine: str) -> None:
    """No call opens a path, and none writes a descriptor: answers leave as messages."""
    for number in (OPENAT[machine], {"x86_64": 1, "aarch64": 64}[machine], 437):
        assert call(machine, number) == EPERM
    for numbers in (*seccomp._FILES.values(), seccomp._FCNTL):
        other = numbers[0 if machine == "x86_64" else 1]
        if other is not None:
            assert call(machine, other, 3, seccomp._F_DUPFD_CLOEXEC) == EPERM


@machines
def test_plain_files_pass_where_the_root_is_its_own(machine: str) -> None:
    """They are opened, mapped and unlinked; nothing is written to a descriptor, and of `fcntl` only the copy passes."""
    for numbers in seccomp._FILES.values():
        number = numbers[0 if machine == "x86_64" else 1]
        if number is not None:
            assert call(machine, number, files=True) == ALLOW
    for number in ({"x86_64": 1, "aarch64": 64}[machine], 437):
        assert call(machine, number, files=True) == EPERM
    fcntl = seccomp._FCNTL[0 if machine == "x86_64" else 1]
    assert fcntl is not None
    assert call(machine, fcntl, 3, seccomp._F_DUPFD_CLOEXEC, files=True) == ALLOW
    for command in (0, 2, 4, 6, 8, 1024, 1031, 1033):
        assert call(machine, fcntl, 3, command, files=True) == EPERM


@machines
def test_messages_pass_on_the_channel_only(machine: str) -> None:
    """Each message call passes with the channel's descriptor and with no other."""
    for numbers in seccomp._ON_CHANNEL.values():
        number = numbers[0 if machine == "x86_64" else 1]
        assert number is not None
        assert call(machine, number, CHANNEL) == ALLOW
        assert call(machine, number, 4) == EPERM


@machines
def test_memory_is_never_executable(machine: str) -> None:
    """Neither a new mapping nor a changed one may be executed."""
    for numbers in seccomp._NOT_EXECUTABLE.values():
        number = numbers[0 if machine == "x86_64" else 1]
        assert number is not None
        assert call(machine, number, 0, 4096, 0b011) == ALLOW
        assert call(machine, number, 0, 4096, 0b101) == EPERM


@machines
def test_clone_makes_threads_only(machine: str) -> None:
    """The flags of pthread_create pass; those of fork, vfork and of a new namespace do not."""
    number = {"x86_64": 56, "aarch64": 220}[machine]
    assert call(machine, number, 0x003D0F00) == ALLOW
    assert call(machine, number, 0x01200011) == EPERM
    assert call(machine, number, 0x00004111) == EPERM
    assert call(machine, number, 0x003D0F00 | 0x10000000) == EPERM


@machines
def test_clone3_looks_absent(machine: str) -> None:
    """Its flags cannot be seen by a filter; ENOSYS makes the C library use clone."""
    assert call(machine, 435) == ENOSYS


@machines
def test_hostile_calls_kill(machine: str) -> None:
    """Exec, ptrace, other processes' memory, namespaces, kernel modules: the process ends at the first try."""
    for numbers in seccomp._HOSTILE.values():
        number = numbers[0 if machine == "x86_64" else 1]
        assert number is not None
        assert call(machine, number) == KILL


@machines
@settings(max_examples=50, derandomize=True, deadline=None)
@given(number=st.integers(0, 600), files=st.booleans())
def test_what_is_not_named_is_refused(machine: str, number: int, *, files: bool) -> None:
    """The filter is an allow-list: a number that no table names answers EPERM."""
    tables = (
        seccomp._ALLOWED,
        seccomp._ON_CHANNEL,
        seccomp._NOT_EXECUTABLE,
        seccomp._HOSTILE,
        seccomp._FILES if files else {},
    )
    column = 0 if machine == "x86_64" else 1
    known = {numbers[column] for table in tables for numbers in table.values()}
    known |= {seccomp._CLONE[column], seccomp._CLONE3[column]}
    if number not in known:
        assert call(machine, number, CHANNEL, files=files) == EPERM
