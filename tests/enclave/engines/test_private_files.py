"""The engine child's own files: nobody else sees them, they are bounded memory, and privilege is not needed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from aigovtool.enclave.engines import private_files

# Runs as root, or as nobody: then within a user namespace. It says what it sees.
PROBE: Final = """
import ctypes, os, resource, sys
from pathlib import Path
from aigovtool.crypto.aead import new_model_key
from aigovtool.enclave.engines import private_files
from aigovtool.enclave.engines.private_files import ModelFolder
from aigovtool.errors import EngineError

if sys.argv[1] == "nobody":
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as a program that was started by this user
said = [private_files.enter(64 << 20)]
"""


def probed(code: str, user: str = "root") -> list[str]:
    """Run more code after the probe's; return what it has said, line by line."""
    finished = subprocess.run(
        [sys.executable, "-I", "-c", f"{PROBE}{code}\nprint(*said, sep=chr(10))", user],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not finished.returncode, finished.stderr
    return finished.stdout.splitlines()


TRIAL: Final = "aigovtool.enclave.engines.files_trial"
USERS: Final = pytest.mark.parametrize("user", ["root", "nobody"])


@pytest.mark.needs("root")
@USERS
def test_its_root_has_nothing_but_what_the_kernel_says_of_itself(user: str) -> None:
    """No file of the machine is there, and nothing of another process."""
    seen = probed(
        """
said += [sorted(os.listdir("/")), sorted(os.listdir("/proc")), sorted(os.listdir("/proc/self"))]
said += [os.path.exists("/../../etc/passwd"), os.readlink("/proc/self/fd/1").split(":")[0]]
said += [b"[heap]" in Path("/proc/self/maps").read_bytes()]
""",
        user,
    )
    assert seen == ["True", "['proc']", "['self']", "['fd', 'maps']", "False", "pipe", "True"]


@pytest.mark.needs("root")
@USERS
def test_nobody_else_sees_its_files(user: str) -> None:
    """What it writes is in no directory of the machine, and gone with it."""
    name = f"aigovtool-{os.getpid()}"
    assert probed(f"Path('/{name}').write_text('x'); said.append(Path('/{name}').read_text())", user) == ["True", "x"]
    assert not any(Path(place, name).exists() for place in ("/", *private_files._PLACES))


@pytest.mark.needs("root")
@USERS
def test_it_is_mounted_nowhere(user: str) -> None:
    """Whoever enters its namespace of mounts finds nothing of it in any place."""
    code = f"{PROBE}\nprint('there', flush=True); sys.stdin.read()"
    command = [sys.executable, "-I", "-c", code, user]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        place = f"--mount=/proc/{process.pid}/ns/mnt"
        entered = ["nsenter", place, "grep", "-c", "size=65536k", "/proc/mounts"]
        found = subprocess.run(entered, capture_output=True, text=True, check=False, timeout=60)
        assert (found.returncode, found.stdout) == (1, "0\n"), found
        process.communicate("")


@pytest.mark.needs("root")
@USERS
def test_a_file_for_which_there_is_no_room_is_refused(user: str) -> None:
    """Of 64 MiB, 40 fit once; after they are removed, again."""
    seen = probed(
        """
for number in range(3):
    folder = ModelFolder(str(number))
    with folder.file(".graph", 40 << 20) as place:
        place[-1:] = b"x"
    try:
        with folder.file("more", 40 << 20):
            said.append("more")
    except EngineError as error:
        said.append(error.reason)
    folder.remove()
said.append(os.listdir("/"))
""",
        user,
    )
    assert seen == ["True", *["out_of_memory"] * 3, "['proc']"]


@pytest.mark.needs("root")
def test_files_and_memory_have_one_bound() -> None:
    """While a file lies there, as many addresses are taken: a model does not get the bound twice."""
    seen = probed("""
resource.setrlimit(resource.RLIMIT_AS, (512 << 20,) * 2)
folder = ModelFolder("1")
with folder.file("weights", 60 << 20):
    pass
def fits(mib):
    try:
        bytearray(mib << 20)
    except MemoryError:
        return False
    return True
low, high = 0, 512
while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if fits(middle) else (low, middle)
folder.remove()
said += [fits(low + 50), fits(low + 80)]
""")
    assert seen == ["True", "True", "False"]


def test_without_privilege_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither is allowed, it says so, and nothing has changed."""

    class Libc:
        """Of a container that forbids it."""

        @staticmethod
        def unshare(_: int) -> int:
            return -1

    monkeypatch.setattr(private_files, "_libc", Libc)
    assert private_files.enter(None) is False
    assert Path("/etc").is_dir()


def test_it_is_made_with_what_the_kernel_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept out of swap and in large pages, where that can be had: options are tried in turn."""
    tried: list[bytes] = []

    class Libc:
        """Of a kernel that knows no option."""

        @staticmethod
        def mount(_source: object, _place: object, _kind: object, _flags: object, options: bytes) -> int:
            tried.append(options)
            return -1

    monkeypatch.setattr(private_files, "_libc", Libc)
    with pytest.raises(OSError, match="tmpfs"):
        private_files._mount(1 << 30)
    size = b"mode=0700,size=1073741824,nr_inodes=16384"
    assert tried == [size + more for more in (b",huge=within_size,noswap", b",noswap", b",huge=within_size", b"")]


@pytest.mark.needs("root")
@pytest.mark.parametrize(("kept", "said"), [("-all,+setfcap", "yes"), ("-all", "no"), ("+all", "yes")])
def test_root_gets_them_with_one_capability(kept: str, said: str) -> None:
    """As units run an enclave (docs/deploy.md); what doctor tries is just that, whatever it has itself."""
    command = ["setpriv", "--bounding-set", kept, "--no-new-privs", sys.executable, "-I", "-B", "-m", TRIAL]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == said


@pytest.mark.needs("root")
def test_nobody_looks_in_afterwards() -> None:
    """It had to be dumpable for a moment, to say who it is in its own namespace; it is no more."""
    assert probed("said.append(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))", "nobody") == ["True", "0"]
