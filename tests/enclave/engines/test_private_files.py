"""The engine child's own files: nobody else sees them, they are bounded memory, and no more stays than is mapped."""

import errno
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from onnx import TensorProto, helper

from aigovtool.crypto.aead import new_model_key
from aigovtool.enclave.engines import private_files
from aigovtool.enclave.engines.engine import PlainModel
from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.enclave.engines.onnx import OnnxEngine
from aigovtool.enclave.engines.opening import open_model
from aigovtool.enclave.engines.private_files import GRAPH, ModelFolder
from aigovtool.enclave.engines.watchdog import Watchdog
from aigovtool.errors import EngineError, ModelError, PackageError
from aigovtool.ids import Digest
from aigovtool.protocol.tensor import Datatype, Tensor

PAGE: Final = mmap.PAGESIZE
FAR_NS: Final = 1 << 62

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
said = [private_files.enter(64 << 20, unswapped=False)]
"""


@pytest.fixture
def folder() -> Iterator[ModelFolder]:
    """A folder in memory, as in the child, but in a file system that is there already."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield ModelFolder("7", Path(place))


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
    assert private_files.enter(None, unswapped=False) is False
    assert Path("/etc").is_dir()


def test_what_must_not_be_swapped_lies_in_none_that_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is locked, only `noswap` will do; else large pages and others are tried in turn."""
    tried: list[bytes] = []

    class Libc:
        """Of a kernel that knows no option."""

        @staticmethod
        def mount(_source: object, _place: object, _kind: object, _flags: object, options: bytes) -> int:
            tried.append(options)
            return -1

    monkeypatch.setattr(private_files, "_libc", Libc)
    for unswapped in (True, False):
        with pytest.raises(OSError, match="tmpfs"):
            private_files._mount(1 << 30, unswapped=unswapped)
    size = b"mode=0700,size=1073741824,nr_inodes=16384"
    first, second, third, last = b",huge=within_size,noswap", b",noswap", b",huge=within_size", b""
    assert tried == [size + more for more in (first, second, first, second, third, last)]


@pytest.mark.parametrize(
    ("swaps", "has"), [("Filename Type\n", False), ("Filename Type\n/dev/sda2 p\n", True), (None, True)]
)
def test_whether_there_is_swap_is_asked_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: str | None, *, has: bool
) -> None:
    """What cannot be told is taken for the worse."""
    if swaps is not None:
        (tmp_path / "swaps").write_text(swaps)
    monkeypatch.setattr(private_files, "_SWAPS", tmp_path / "swaps")
    assert private_files.has_swap() is has


# --- The folder of a model -----------------------------------------------------------------------


def test_a_file_has_what_was_written_and_is_gone_afterwards(folder: ModelFolder) -> None:
    """In folders as the package has them; an empty one is one, too."""
    contents = {GRAPH: b"graph", "weights.bin": b"w" * (3 * PAGE + 1), "a/b/c": b"c", "a/d": b"d"}
    for name, content in contents.items():
        with folder.file(name, len(content)) as place:
            assert len(place) == len(content)
            place[:] = content
    root = folder.graph.parent
    assert {name: (root / name).read_bytes() for name in contents} == contents
    folder.remove()
    assert not root.exists()
    folder.remove()


def test_an_empty_file_has_no_byte_to_write_to(folder: ModelFolder) -> None:
    """It can be made all the same."""
    with folder.file("empty", 0) as place:
        assert len(place) == 0
    assert (folder.graph.parent / "empty").read_bytes() == b""
    folder.remove()


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a", "a")])
def test_names_that_do_not_go_together_are_refused(folder: ModelFolder, names: tuple[str, str]) -> None:
    """A file and a folder of one name, or two files: nothing is overwritten, and nothing stays."""
    with folder.file(names[0], 1) as place:
        place[:] = b"x"
    with pytest.raises(PackageError) as refused, folder.file(names[1], 1):
        pass
    assert refused.value.reason == "file_name"
    assert (folder.graph.parent / names[0]).read_bytes() == b"x"
    folder.remove()
    assert not folder.graph.parent.exists()


def test_what_a_failure_leaves_is_removed(folder: ModelFolder) -> None:
    """Also while a traceback still holds a part of the file."""
    with pytest.raises(ZeroDivisionError) as failed, folder.file("w", PAGE) as place:
        part = place[1:2]
        raise ZeroDivisionError
    assert failed.value.__traceback__ is not None
    del part
    folder.remove()
    assert not folder.graph.parent.exists()


def mapping(descriptor: int, start: int, end: int) -> mmap.mmap:
    """Map a part of a file, as the library does."""
    return mmap.mmap(descriptor, end - start, mmap.MAP_PRIVATE, mmap.PROT_READ, offset=start)


@pytest.mark.parametrize("mapped", [[], [(2, 3)], [(0, 1), (4, 6)], [(0, 8)], [(1, 4), (3, 5)], [(7, 8)]])
def test_of_a_file_only_what_is_mapped_stays(folder: ModelFolder, mapped: list[tuple[int, int]]) -> None:
    """The library maps single weights: one of them must not keep a whole model in memory."""
    with folder.file("w", 8 * PAGE - 5) as place:
        place[:] = b"".join(bytes([number]) * PAGE for number in range(8))[:-5]
    with (folder.graph.parent / "w").open("rb") as held:
        maps = [mapping(held.fileno(), start * PAGE, min(end * PAGE, 8 * PAGE - 5)) for start, end in mapped]
        folder.remove()
        pages = {page for start, end in mapped for page in range(start, end)}
        kept = os.fstat(held.fileno()).st_blocks * 512 // PAGE
        assert kept == (len(pages) if mapped else 8)  # of none that is mapped all goes with the last descriptor
        for (start, end), one in zip(mapped, maps, strict=True):
            assert [one[(page - start) * PAGE] for page in range(start, end)] == list(range(start, end))
            one.close()


@pytest.mark.needs("root")
def test_it_is_given_back_where_memory_is_locked() -> None:
    """What a library still maps of a file is one page: of the rest nothing stays, locked or not."""
    seen = probed("""
import mmap
said.append(ctypes.CDLL(None).mlockall(1 | 2 | 4))
folder = ModelFolder("1")
with folder.file("w", 8 << 20) as place:
    place[-1:] = b"x"
held = os.open("/1/w", os.O_RDONLY)
mapped = mmap.mmap(held, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ, offset=4096)
folder.remove()
said.append(os.fstat(held).st_blocks * 512)
""")
    assert seen == ["True", "0", "4096"]


# --- Loading -------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[ThreadPoolExecutor]:
    """A thread of its own: the library changes how the one computes that it makes a session in (denormals)."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def doubling(kit: Any) -> tuple[bytes, bytes]:
    """Return a graph that multiplies by weights which lie beside it, and these: 64 rows of a column of twos."""
    weights = np.full((64, 64), 2, np.float32)
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [64, 64], weights.tobytes(), raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", str(weights.nbytes))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = kit.model_bytes([node], [kit.value("x", [1, 64])], [kit.value("y", [1, 64])], [tensor])
    return graph, weights.tobytes()


def loaded(kit: Any, files: dict[str, bytes], folder: ModelFolder | None) -> Any:
    """Return a model that was loaded from files, or from buffers."""
    interface = ModelInterface((kit.spec("x", [1, 64]),), (kit.spec("y", [1, 64]),))
    model = PlainModel(interface, [], folder)
    for name, content in files.items():
        if folder is None:
            model.files.append((name, bytearray(content)))
            continue
        with folder.file(name, len(content)) as place:
            place[:] = content
    try:
        return OnnxEngine(1, Watchdog()).load(model)
    finally:
        model.wipe()


@pytest.mark.parametrize("in_files", [True, False])
def test_a_model_is_the_same_from_files_and_from_buffers(
    kit: Any, folder: ModelFolder, elsewhere: ThreadPoolExecutor, *, in_files: bool
) -> None:
    """It runs after its plaintext is gone, on the weights that it was given."""
    graph, weights = doubling(kit)
    files = {GRAPH: graph, "w.bin": weights}
    model = elsewhere.submit(loaded, kit, files, folder if in_files else None).result()
    assert not folder.graph.parent.exists()
    x = Tensor("x", Datatype.FP32, (1, 64), np.ones((1, 64), np.float32).tobytes())
    [y] = elsewhere.submit(model.run, [x], (), FAR_NS).result()
    assert np.frombuffer(y.data, np.float32).tolist() == [128.0] * 64


@pytest.mark.parametrize("in_files", [True, False])
@pytest.mark.parametrize("fault", ["missing", "short", "outside"])
def test_weights_that_are_not_there_are_refused(
    kit: Any, folder: ModelFolder, elsewhere: ThreadPoolExecutor, fault: str, *, in_files: bool
) -> None:
    """A graph that names a file which the package lacks, more than it has, or one outside is refused; nothing stays."""
    graph, weights = doubling(kit)
    files = {GRAPH: graph, "w.bin": weights}
    if fault == "missing":
        del files["w.bin"]
    elif fault == "short":
        files["w.bin"] = weights[:-1]
    else:
        files[GRAPH] = graph.replace(b"w.bin", b"../ww")
        (folder.graph.parent.parent / "ww").write_bytes(weights)
    with pytest.raises(ModelError) as refused:
        elsewhere.submit(loaded, kit, files, folder if in_files else None).result()
    assert refused.value.reason == "engine_refused"
    assert not folder.graph.parent.exists()


@pytest.mark.parametrize("where", ["key", "digest", "segment", "nothing"])
def test_a_package_that_is_not_intact_leaves_no_file(kit: Any, folder: ModelFolder, tmp_path: Path, where: str) -> None:
    """What was decrypted before that was found is gone with the refusal; an intact one lies there until it loads."""
    files = [("model.onnx", b"graph"), ("w/a.bin", b"a" * 99), ("w/b.bin", b"b" * 99)]
    sealed = kit.seal(tmp_path / "m.aigov", files, [kit.spec("x", [1])], [kit.spec("y", [1])])
    content = bytearray(sealed.path.read_bytes())
    if where == "segment":
        content[-1] ^= 1  # of the last file
    key = new_model_key() if where == "key" else sealed.key
    digest = Digest("sha256:" + "0" * 64) if where == "digest" else sealed.digest
    stream = BytesIO(content)
    if where == "nothing":
        model = open_model(stream, key, sealed.sealer, digest, folder)
        assert folder.graph.read_bytes() == b"graph"
        assert (folder.graph.parent / "w" / "b.bin").read_bytes() == b"b" * 99
        model.wipe()
    else:
        with pytest.raises(PackageError):
            open_model(stream, key, sealed.sealer, digest, folder)
    assert not folder.graph.parent.exists()


def test_a_reason_that_is_not_a_name_is_memory(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that is full says so when a file is made as well."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(EngineError) as refused, folder.file("w", 1):
        pass
    assert refused.value.reason == "out_of_memory"
    folder.remove()
