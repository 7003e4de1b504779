"""Memory is what a process holds that no disk has, as another process sees it."""

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from bench.memory import held_bytes, watched

_SIZE = 64 << 20
_MANY = f"import sys; sys.stdin.readline(); held = bytes(range(256)) * {_SIZE >> 8}; print('held', flush=True); input()"


@contextmanager
def holding() -> Iterator[subprocess.Popen[str]]:
    """Start a process that takes memory when it is told to."""
    with subprocess.Popen(
        [sys.executable, "-c", _MANY], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as one:
        yield one
        one.kill()


def test_what_another_process_takes_is_seen() -> None:
    """The first figure is from before, and none of the later ones is from after the block."""
    with holding() as process, watched([process.pid], 0.001) as seen:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "held\n"
        before = len(seen)
        while len(seen) < before + 2:
            pass
    assert _SIZE <= max(seen) - seen[0] < 2 * _SIZE


def test_a_file_in_memory_counts_once_and_even_where_it_is_not_mapped() -> None:
    """Plaintext that is written into such a file takes memory as any other does."""
    before = held_bytes([os.getpid()])
    descriptor = os.memfd_create("weights")
    try:
        os.truncate(descriptor, _SIZE)
        for _ in range(_SIZE >> 20):
            os.write(descriptor, b"x" * (1 << 20))
        unmapped = held_bytes([os.getpid(), os.getpid()]) - 2 * before
        with mmap.mmap(descriptor, _SIZE) as view:
            touched = sum(view[::4096])
            mapped = held_bytes([os.getpid()]) - before
    finally:
        os.close(descriptor)
    assert touched > 0
    assert 0.9 * _SIZE < unmapped < 1.5 * _SIZE
    assert 0.9 * _SIZE < mapped < 1.5 * _SIZE


@pytest.mark.needs("root")
@pytest.mark.parametrize("times", [0, 1, 2])
def test_the_file_system_of_a_process_counts_once(times: int) -> None:
    """However often it has mapped what lies there: as the engine, which locks it so."""
    code = f"""
import mmap, os, sys
from aigovtool.enclave.engines import private_files
assert private_files.enter(None)
print("there", flush=True)
input()
file = os.open("/w", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(file, 0, {_SIZE})
views = [mmap.mmap(file, {_SIZE}) for _ in range({times})]
touched = [view[at] for view in views for at in range(0, {_SIZE}, 4096)]
print("held", flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        before = held_bytes([process.pid])
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"held\n"
        assert 0.9 * _SIZE < held_bytes([process.pid]) - before < 1.5 * _SIZE
        process.kill()


def test_looking_ends_with_the_process() -> None:
    """One that is gone is looked at no more, and nothing is left that looks."""
    with holding() as process, watched([process.pid], 0.001) as seen:
        process.kill()
        process.wait()
        assert seen
    assert not [thread for thread in threading.enumerate() if thread.name == "memory"]
