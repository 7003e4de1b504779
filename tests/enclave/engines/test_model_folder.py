"""The files of a model while it is loaded: no more stays of them than is mapped, and that is locked where all is."""

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

#: Runs in a process of its own, which has a folder in memory, as the child, but in a file system that is there already.
LOCKED: Final = """
import ctypes, mmap, os, re, resource, sys
from pathlib import Path
from aigovtool.enclave.engines.private_files import ModelFolder

folder = ModelFolder("1", Path(sys.argv[1]), locked=True)
place = folder.graph.parent / "w"

def locked_kib(name):
    found = 0
    for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        if str(name) in part.partition(chr(10))[0]:
            found += int(re.search(r"^Locked: *([0-9]+) kB", part, re.M)[1])
    return found

def anonymous_kib():
    return int(re.search(r"^RssAnon:[^0-9]*([0-9]+) kB", Path("/proc/self/status").read_text(), re.M)[1])

def as_the_library(size, offset):
    held = os.open(place, os.O_RDONLY)
    return held, mmap.mmap(held, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)

def write():
    with folder.file("w", 64 << 10) as view:
        view[:1] = b"x"  # what is behind the first page is never touched

"""


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the root of the child would be."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


@pytest.fixture
def folder(place: Path) -> ModelFolder:
    """A folder in memory, as in the child, but in a file system that is there already."""
    return ModelFolder("7", place)


def alone(place: Path, code: str) -> list[str]:
    """Run more code after that above, in a process of its own; return what it has said, line by line."""
    command = [sys.executable, "-I", "-c", f"{LOCKED}{code}", str(place)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not finished.returncode, finished.stderr
    return finished.stdout.splitlines()


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
def test_it_is_given_back_where_memory_is_locked(place: Path) -> None:
    """What a library still maps of a file is one page: of the rest nothing stays, locked or not."""
    code = """
assert ctypes.CDLL(None).mlockall(1 | 2 | 4) == 0
write()
held, mapped = as_the_library(4096, 4096)
folder.remove()
print(os.fstat(held).st_blocks * 512)
"""
    assert alone(place, code) == ["4096"]


@pytest.mark.needs("root")
def test_what_is_locked_stays_so_until_it_is_gone(place: Path) -> None:
    """Until the library maps it, and what it maps and never touched: swap that is turned on later finds nothing.

    The library maps weights to be written to. None of them is copied for that: the plaintext is there once.
    """
    code = """
assert ctypes.CDLL(None).mlockall(1 | 2 | 4) == 0
write()
print(locked_kib(place))
held, mapped = as_the_library(32 << 10, 4096)
before, own = locked_kib(place), anonymous_kib()
folder.remove()
print(before - 64, locked_kib(place), anonymous_kib() - own < 32, folder.mapped_at_end is not None)
"""
    assert alone(place, code) == ["64", "0 32 True True"]


@pytest.mark.needs("root")
def test_what_cannot_be_kept_from_swap_is_said(place: Path) -> None:
    """Whoever loads the model lets go of it then, and loads it from buffers."""
    code = """
from aigovtool.enclave.engines import private_files
private_files._POPULATE_READ = 999  # as on an old kernel
write()
held, mapped = as_the_library(4096, 4096)
folder.remove()
print(folder.mapped_at_end, len(os.listdir(sys.argv[1])))
"""
    assert alone(place, code) == ["None 0"]


def test_without_a_lock_nothing_is_made_to_be_there(place: Path) -> None:
    """Pages that nobody asks for are not brought in: that takes time."""
    assert alone(place, "folder = ModelFolder('1', Path(sys.argv[1]))\nwrite()\nprint(locked_kib(place))") == ["0"]


def test_many_files_take_few_descriptors(place: Path) -> None:
    """A package has up to 1,024; the child may have 16 open."""
    code = """
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
for number in range(200):
    with folder.file(f"f{number}", 4096) as view:
        view[:1] = b"x"
folder.remove()
print(len(os.listdir(sys.argv[1])))
"""
    assert alone(place, code) == ["0"]


def test_files_go_also_where_nothing_can_be_opened(place: Path) -> None:
    """Without a descriptor for what is mapped, all of a file stays that the library has a part of; and nothing else."""
    code = """
write()
with folder.file("v", 4096):
    pass
held = os.open(place, os.O_RDONLY)
mapped = mmap.mmap(held, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
folder.remove()
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
print(len(os.listdir(sys.argv[1])), mapped[:1].decode(), folder.mapped_at_end)
"""
    assert alone(place, code) == ["0 x None"]


def test_files_go_also_where_there_is_no_memory(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """To read what is mapped takes some: without it nothing of the folder stays, but what is mapped."""
    with folder.file("w", PAGE) as view:
        view[:1] = b"x"

    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", no_memory)
        folder.remove()
    assert (folder.graph.parent.exists(), folder.mapped_at_end, folder._held) == (False, None, [])


def test_how_much_is_mapped_is_counted(folder: ModelFolder) -> None:
    """Of anything, by this process, as the kernel counts it."""
    with folder.file("w", 99 * PAGE) as view:
        view[:1] = b"x"
    with (folder.graph.parent / "w").open("rb") as held:
        maps = [mapping(held.fileno(), page * PAGE, (page + 1) * PAGE) for page in range(0, 99, 2)]
    folder.remove()
    assert folder.mapped_at_end is not None
    assert len(maps) < folder.mapped_at_end <= len(Path("/proc/self/maps").read_bytes().splitlines()) + 10


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
