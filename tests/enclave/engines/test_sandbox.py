import errno
import os
import signal
import socket
import subprocess
import sys
from typing import Final

import pytest

from aigovtool.enclave.engines import sandbox

# Enters the sandbox with descriptor 0 as its channel, tries one thing, and says there what came of it.
PROBE: Final = """
import ctypes, errno, fcntl, mmap, os, resource, signal, socket, sys, threading
from aigovtool.enclave.engines import sandbox

channel = socket.socket(fileno=os.dup(0))
parent = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
held = os.open("/etc/passwd", os.O_RDONLY)
null = os.open("/dev/null", os.O_WRONLY)
packed = ctypes.create_string_buffer(64)

def checked(result):
    if result in (-1, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "")

def thread():
    started = threading.Thread(target=lambda: None)
    started.start()
    started.join()

ACTIONS = {
    "read_file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "create_file": lambda: os.open("/tmp/aigovtool-probe", os.O_CREAT | os.O_WRONLY),
    "stat": lambda: os.stat("/etc/passwd"),
    "list": lambda: os.listdir("/"),
    "unlink": lambda: os.unlink("/nonexistent/x"),
    "write": lambda: os.write(null, b"x"),
    "memfd": lambda: os.memfd_create("x"),
    "socket": lambda: socket.socket(socket.AF_INET),
    "socketpair": lambda: socket.socketpair(),
    "connect": lambda: channel.connect("/run/x"),
    "other_socket": lambda: socket.socket(fileno=other).send(b"x"),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "ptrace_parent": lambda: checked(libc.ptrace(16, parent, None, None)),
    "read_parent": lambda: checked(libc.process_vm_readv(parent, packed, 1, packed, 1, 0)),
    "kill_parent": lambda: os.kill(parent, 0),
    "executable_memory": lambda: checked(libc.mmap(None, 4096, 5, 0x22, -1, 0)),
    "plain_memory": lambda: checked(libc.mmap(None, 4096, 3, 0x22, -1, 0)),
    "bpf": lambda: checked(libc.syscall(321 if os.uname().machine == "x86_64" else 280, 0, 0, 0)),
    "unshare": lambda: checked(libc.unshare(0x10000000)),
    "io_uring": lambda: checked(libc.syscall(425, 1, 0)),
    "prctl": lambda: checked(libc.prctl(4, 1, 0, 0, 0)),
    "raise_limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    "read_held": lambda: os.read(held, 1),
    "thread": thread,
    "create_at_root": lambda: os.close(os.open("/x", os.O_CREAT | os.O_RDWR)),
    "open_held_by_link": lambda: os.open(f"/proc/self/fd/{held}", os.O_RDONLY),
    "write_held_by_link": lambda: os.open(f"/proc/self/fd/{held}", os.O_RDWR),
    "leave_the_root": lambda: os.open("/../../etc/passwd", os.O_RDONLY),
    "symlink": lambda: os.symlink("/x", "/y"),
    "hard_link": lambda: os.link("/proc/self/maps", "/y"),
    "rename": lambda: os.rename("/proc", "/y"),
    "device": lambda: os.mknod("/y", 0o20600, os.makedev(1, 1)),
    "mode": lambda: os.chmod("/proc", 0o777),
    "duplicate": lambda: fcntl.fcntl(held, fcntl.F_DUPFD_CLOEXEC),
    "signal_owner": lambda: fcntl.fcntl(held, fcntl.F_SETOWN, parent),
}
other = 9
a, b = socket.socketpair()
os.dup2(a.fileno(), other)
action = ACTIONS[sys.argv[1]]
if sys.argv[2:] == ["no_landlock"]:
    sandbox._landlock_abi = lambda: 2
if sys.argv[2:] == ["buffers"]:
    sandbox.private_files.enter = lambda *_, **__: False
if (sandbox.Layer.PRIVATE_FILES in sandbox.enter(channel.fileno())) != (sys.argv[2:] == ["files"]):
    channel.send(b"skipped")
    os._exit(0)
try:
    action()
except OSError as error:
    channel.send(b"errno %d" % error.errno)
except ValueError:  # what Python makes of EPERM from setrlimit
    channel.send(b"errno %d" % errno.EPERM)
else:
    channel.send(b"done")
os._exit(0)
"""


def probe(code: str, *arguments: str) -> tuple[int, bytes]:
    """Run `code`; return its exit status and what it said on its channel."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            command = [sys.executable, "-I", "-c", code, *arguments]
            finished = subprocess.run(
                command, stdin=theirs.fileno(), stderr=subprocess.PIPE, check=False, timeout=60, cwd="/"
            )
        return finished.returncode, ours.recv(4096)


#: What an engine never does, whatever its root is.
FORBIDDEN: Final = (
    "write",
    "memfd",
    "socket",
    "socketpair",
    "connect",
    "other_socket",
    "fork",
    "kill_parent",
    "executable_memory",
    "prctl",
    "raise_limit",
    "symlink",
    "hard_link",
    "rename",
    "device",
    "mode",
    "signal_owner",
)
FILES: Final = (
    "read_file",
    "create_file",
    "stat",
    "list",
    "unlink",
    "create_at_root",
    "open_held_by_link",
    "duplicate",
)


@pytest.mark.parametrize("action", [*FORBIDDEN, *FILES])
def test_forbidden_acts_are_refused(action: str) -> None:
    """What an engine never does answers EPERM, and the child lives on. Without a root of its own it opens no file."""
    assert probe(PROBE, action, "buffers") == (0, b"errno %d" % errno.EPERM)


@pytest.mark.needs("root")
@pytest.mark.parametrize("action", FORBIDDEN)
def test_with_files_of_its_own_the_same_is_refused(action: str) -> None:
    """Plain files and nothing else: no write to a descriptor, no link, no device, no name changed."""
    assert probe(PROBE, action, "files") == (0, b"errno %d" % errno.EPERM)


@pytest.mark.needs("root")
@pytest.mark.parametrize("action", ["read_file", "create_file", "stat", "unlink", "leave_the_root"])
def test_with_files_of_its_own_there_are_no_others(action: str) -> None:
    """Its root is empty: no path leads to a file of the machine."""
    assert probe(PROBE, action, "files") == (0, b"errno %d" % errno.ENOENT)


@pytest.mark.needs("root")
@pytest.mark.parametrize("action", ["list", "open_held_by_link", "write_held_by_link"])
def test_landlock_refuses_what_the_root_does_not_hide(action: str) -> None:
    """A link of a descriptor leads out of the root; and what is where is nothing that an engine asks."""
    assert probe(PROBE, action, "files") == (0, b"errno %d" % errno.EACCES)


@pytest.mark.parametrize("action", FILES)
def test_without_landlock_there_are_no_files(action: str) -> None:
    """A link of a descriptor leads to what it was opened from: ABI 2 would let that be truncated."""
    assert probe(PROBE, action, "no_landlock") == (0, b"errno %d" % errno.EPERM)


@pytest.mark.needs("root")
@pytest.mark.parametrize("action", ["create_at_root", "read_held", "thread", "plain_memory", "duplicate"])
def test_with_files_of_its_own_it_can_work(action: str) -> None:
    """It makes files at its root, and does all else that an engine does."""
    assert probe(PROBE, action, "files") == (0, b"done")


@pytest.mark.parametrize("action", ["exec", "ptrace_parent", "read_parent", "bpf", "unshare", "io_uring"])
def test_hostile_acts_kill(action: str) -> None:
    """What only an attacker does ends the process at once."""
    assert probe(PROBE, action, "buffers") == (-signal.SIGSYS, b"")


@pytest.mark.parametrize("action", ["read_held", "thread", "plain_memory"])
def test_an_engine_can_still_work(action: str) -> None:
    """Descriptors that it holds, threads and memory are left to it."""
    assert probe(PROBE, action, "buffers") == (0, b"done")


def test_landlock_alone_refuses_files() -> None:
    """Landlock does not rely on the system call filter: a path is refused by it alone (EACCES)."""
    code = """
import os, socket
from aigovtool.enclave.engines import sandbox
channel = socket.socket(fileno=os.dup(0))
sandbox._prctl("no_new_privs", 38, 1)
present = sandbox._restrict_by_landlock(files=False)
try:
    os.open("/etc/passwd", os.O_RDONLY)
    channel.send(b"opened %d" % present)
except OSError as error:
    channel.send(b"errno %d" % error.errno)
"""
    assert probe(code)[1] in {b"errno %d" % errno.EACCES, b"opened 0"}


def test_landlock_alone_refuses_connections_and_signals() -> None:
    """As far as this kernel's landlock goes: no TCP port is bound or connected (ABI 4), no other process signalled (6).

    The test listens, and is there to be signalled, so that nothing but landlock refuses it.
    """
    code = """
import os, socket, sys
from aigovtool.enclave.engines import sandbox
channel = socket.socket(fileno=os.dup(0))
sandbox._prctl("no_new_privs", 38, 1)
abi = sandbox._libc.syscall(444, None, 0, 1)
sandbox._restrict_by_landlock(files=False)
acts = {
    "connect": (4, lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])))),
    "bind": (4, lambda: socket.socket().bind(("127.0.0.1", 0))),
    "signal": (6, lambda: os.kill(os.getppid(), 0)),
}
said = []
for name, (since, act) in acts.items():
    try:
        act()
        said.append(name + (" done" if abi >= since else " unknown"))
    except OSError as error:
        said.append(name + (" refused" if abi >= since and isinstance(error, PermissionError) else repr(error)))
channel.send(",".join(said).encode())
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _, said = probe(code, str(listener.getsockname()[1]))
    assert {one.split()[1] for one in said.decode().split(",")} <= {"refused", "unknown"}, said


def test_the_other_layers_hold_without_the_filter() -> None:
    """Without the system call filter, `enter` still leaves no file to open, no privilege to use, no core to dump."""
    code = """
import os, resource, socket
from aigovtool.enclave.engines import sandbox
channel = socket.socket(fileno=os.dup(0))
sandbox._filter_system_calls = lambda *_, **__: None
sandbox.private_files.enter = lambda *_, **__: False
null = os.open("/dev/null", os.O_RDONLY)
layers = sandbox.enter(channel.fileno())
said = []
try:
    os.open("/etc/passwd", os.O_RDONLY)
    said.append("opened")
except OSError as error:
    said.append("errno %d" % error.errno)
try:
    os.setgroups([])
    said.append("privileged")
except OSError as error:
    said.append("errno %d" % error.errno)
said.append(str(resource.getrlimit(resource.RLIMIT_CORE)[1] + resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
said.append("dumpable %d" % sandbox._libc.prctl(3, 0, 0, 0, 0))
channel.send(("landlock" in layers and "|".join(said) or "none").encode())
"""
    assert probe(code)[1] in {b"errno %d|errno %d|0|dumpable 0" % (errno.EACCES, errno.EPERM), b"none"}


def test_a_second_thread_is_refused() -> None:
    """Landlock would not cover a thread that exists already, so the sandbox is not entered at all."""
    code = """
import os, socket, threading
from aigovtool.enclave.engines import sandbox
from aigovtool.errors import ConfigurationError
channel = socket.socket(fileno=os.dup(0))
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    sandbox.enter(channel.fileno())
except ConfigurationError as error:
    channel.send(error.reason.encode())
os._exit(0)
"""
    assert probe(code) == (0, b"sandbox_threads")


def test_all_layers_hold_at_once() -> None:
    """What `enter` reports, the kernel confirms: no privileges, no capabilities, a filter."""
    code = """
import os, resource, socket, ctypes
from aigovtool.enclave.engines import sandbox
channel = socket.socket(fileno=os.dup(0))
status = os.open("/proc/self/status", os.O_RDONLY)
layers = sandbox.enter(channel.fileno())
text = os.read(status, 8192).decode()
kept = dict(line.split(":\\t", 1) for line in text.splitlines() if ":\\t" in line)
said = [",".join(layers), kept["NoNewPrivs"], kept["Seccomp"], kept["CapPrm"].strip("0"), kept["CapEff"].strip("0")]
channel.send("|".join(said).encode())
os._exit(0)
"""
    status, said = probe(code)
    assert status == 0
    layers, *kernel = said.decode().split("|")
    assert set(layers.split(",")) >= {str(layer) for layer in sandbox.ALWAYS_REQUIRED}
    assert kernel == ["1", "2", "", ""]


@pytest.mark.needs("root")
@pytest.mark.parametrize("limit", ["infinite", "small"])
def test_what_it_holds_is_locked_in_memory_where_any_amount_may_be(limit: str) -> None:
    """It says so if and only if the kernel does; the limit is what the machine gives, so the test answers for it."""
    code = f"""
import os, resource, socket
from aigovtool.enclave.engines import sandbox
resource.setrlimit = lambda *_: None
resource.getrlimit = lambda _: (resource.RLIM_INFINITY,) * 2 if {limit!r} == "infinite" else (8 << 20,) * 2
channel = socket.socket(fileno=os.dup(0))
status = os.open("/proc/self/status", os.O_RDONLY)
layers = sandbox.enter(channel.fileno())
locked = [line.split()[1] for line in os.read(status, 8192).decode().splitlines() if line.startswith("VmLck")]
channel.send(f"{{sandbox.Layer.MEMORY_LOCKED in layers}} {{int(locked[0]) > 0}}".encode())
os._exit(0)
"""
    assert probe(code) == (0, b"True True" if limit == "infinite" else b"False False")


def test_memory_is_bounded_when_asked() -> None:
    """A bound on the address space turns a greedy model into a MemoryError instead of a dead machine."""
    code = """
import os, socket
from aigovtool.enclave.engines import sandbox
channel = socket.socket(fileno=os.dup(0))
sandbox.enter(channel.fileno(), memory_bytes=1 << 30)
try:
    bytearray(2 << 30)
except MemoryError:
    channel.send(b"bounded")
os._exit(0)
"""
    assert probe(code) == (0, b"bounded")


@pytest.mark.parametrize(("files", "said"), [(True, "100 100"), (False, "100 0")])
def test_files_have_a_share_of_the_bound(said: str, *, files: bool) -> None:
    """They are memory as well: without a share of their own, a child would have the bound twice."""
    code = f"""
import os, resource, socket
from aigovtool.enclave.engines import sandbox
channel = socket.socket(fileno=os.dup(0))
asked = []
sandbox.private_files.enter = lambda size: asked.append(size) or {files}
sandbox._landlock_abi = lambda: 3
sandbox._restrict_by_landlock = sandbox._filter_system_calls = lambda *_, **__: True
sandbox.enter(channel.fileno(), memory_bytes=300 << 20)
channel.send(b"%d %d" % (asked[0] >> 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1] >> 20))
"""
    assert probe(code) == (0, said.encode())


def test_this_process_is_not_sandboxed() -> None:
    """The probes must not leak: the test runner itself can still open files."""
    os.close(os.open(os.devnull, os.O_RDONLY))
