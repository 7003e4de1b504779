"""Where secrets lie: in pages that are locked, not dumped, not inherited, and empty afterwards."""

import ctypes
import gc
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from tests.attacks.looking import found_in

from aigovtool.crypto import locked
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.wrap import WrapKey, wrap
from aigovtool.errors import SignatureInvalidError

CANARY = bytes(range(100, 132))


def address(memory: memoryview) -> int:
    """Return where memory lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def ranges(pid: int | str, *wanted: str) -> list[tuple[int, int]]:
    """Return a process's ranges of memory that have all of these flags (proc_pid_smaps(5))."""
    found, at = [], (0, 0)
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="ascii", errors="replace").splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            at = int(match[1], 16), int(match[2], 16)
        elif line.startswith("VmFlags:") and set(wanted) <= set(line.split()[1:]):
            found.append(at)
    return found


@pytest.mark.parametrize("size", [1, 32, 64, 65, 16 << 10, (16 << 10) + 1, 100_000])
def test_a_secret_lies_in_locked_pages(size: int) -> None:
    """No swap ("lo"), no core ("dd"), no copy in a child ("wf"), says the kernel of where it begins and ends."""
    secret = Secret(os.urandom(size))
    start = address(secret._data)
    for place in (start, start + size - 1):
        assert any(first <= place < last for first, last in ranges("self", "lo", "dd", "wf"))


def test_a_secret_is_overwritten_when_nobody_has_it_any_more() -> None:
    """Also one that nobody wiped; and what lies there next begins with zeros."""
    secret = Secret(CANARY * 3)
    place = address(secret._data)
    assert ctypes.string_at(place, 96) == CANARY * 3
    del secret
    gc.collect()
    assert ctypes.string_at(place, 96) == bytes(96)
    assert {bytes(locked.take(96)) for _ in range(300)} == {bytes(128)}


def test_a_child_that_was_forked_finds_nothing() -> None:
    """Memory of the parent is copied by fork, and these pages are zeros there."""
    secret = Secret(CANARY)
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:
        os.write(theirs, secret.reveal())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(ours, 100) == bytes(len(CANARY))
    assert secret.reveal() == CANARY
    os.close(ours)
    os.close(theirs)


def test_no_two_secrets_share_memory() -> None:
    """Many of all sizes at once in several threads, made and dropped: each keeps what was put into it."""

    def hammer(seed: int) -> int:
        chance, held, seen = Random(seed), list[tuple[bytes, Secret]](), 0
        for _ in range(3_000):
            data = chance.randbytes(chance.choice((1, 32, 33, 64, 200, 5_000)))
            held.append((data, Secret(data)))
            if len(held) > 40:
                old, secret = held.pop(chance.randrange(40))
                seen += secret.reveal() == old
        return seen + sum(secret.reveal() == data for data, secret in held)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(hammer, range(4))) == [3_000] * 4


def test_fresh_bytes_are_fresh() -> None:
    """They are random, as many as were asked for, and never the same."""
    made = {Secret.random(32).reveal() for _ in range(100)}
    assert len(made) == 100
    assert {len(one) for one in made} == {32}
    assert Secret.random(0).reveal() == b""


_UNLOCKED = """
import resource
from aigovtool.crypto.secret import Secret
from aigovtool.enclave.engines import sandbox
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
sandbox._drop_capabilities()
print(Secret(b"x" * 20_000).reveal() == b"x" * 20_000)
"""


def test_where_nothing_may_be_locked_secrets_work() -> None:
    """A limit of nothing, and no right to exceed it."""
    done = subprocess.run([sys.executable, "-c", _UNLOCKED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


#: Makes a key, opens something with it, and says each of its bytes turned round, so that no copy is left in saying it.
_KEY = """
import sys
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.wrap import WrapKey, wrap
key = WrapKey.generate()
with Secret(b"m" * 32) as model:
    key.unwrap(wrap(model, key.public, b"context"), b"context").wipe()
for one in key._secret.view():
    sys.stdout.write("%02x" % (255 - one))
print(flush=True)
input()
"""


@pytest.mark.needs("root")
def test_a_key_that_opens_model_keys_lies_in_locked_memory_alone() -> None:
    """Nowhere else in the process, before and after it has opened something: neither Python nor OpenSSL keeps it."""
    words, pipe = [sys.executable, "-c", _KEY], subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        key = bytes(255 - one for one in bytes.fromhex(process.stdout.readline().decode()))
        found = set()
        with open(f"/proc/{process.pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123 - no path, a window
            for first, last in ranges(process.pid, "rd"):
                try:
                    memory.seek(first)
                    piece = memory.read(last - first)
                except (OSError, OverflowError):  # pages of the kernel's
                    continue
                if found_in(piece, {"key": [key[:16], key[16:], key.hex().encode()]}):
                    found.add((first, last))
        assert len(found) == 1
        assert found <= set(ranges(process.pid, "lo", "dd", "wf"))
        process.communicate(b"\n")
        assert process.returncode == 0


def test_a_copy_of_a_key_is_its_callers() -> None:
    """Whoever wipes what it gave or got does not take the key away."""
    given = Secret.random(32)
    key = WrapKey.from_secret(given)
    given.wipe()
    key.to_secret().wipe()
    with Secret(CANARY) as model:
        assert key.unwrap(wrap(model, key.public, b"c"), b"c").reveal() == CANARY
    with pytest.raises(SignatureInvalidError):
        WrapKey.from_secret(Secret(bytes(31)))
