"""The child's models: from files where that can be, from buffers where not, and nothing of what was tried stays."""

from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from assurance.models.sealing import Sealed

from aigovtool.crypto.aead import new_model_key
from aigovtool.enclave.engines import heaps, models
from aigovtool.enclave.engines.engine import PlainModel
from aigovtool.enclave.engines.ipc import Load
from aigovtool.enclave.engines.models import Models
from aigovtool.enclave.engines.private_files import ModelFolder
from aigovtool.enclave.engines.sandbox import Layer
from aigovtool.errors import EngineError, ModelError, NotFoundError, PackageError


class Engine:
    """Loads anything, and notes from where; with `refuses` it does not, from files."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.refuses = refuses
        self.loads: list[str] = []

    def load(self, model: PlainModel) -> Any:
        self.loads.append("buffers" if model.folder is None else "files")
        if model.folder is not None:
            assert model.folder.graph.read_bytes() == b"graph"
            if self.refuses is not None:
                raise self.refuses
        else:
            assert model.take_graph() == b"graph"
        return self.loads[-1]

    def warm_up(self) -> None:
        """Nothing is to be loaded lazily."""


class Shelf:
    """A sealed package, and the folders in which it is opened, somewhere in memory."""

    def __init__(self, kit: Any, path: Path) -> None:
        self.sealed: Sealed = kit.seal(
            path, [("m.onnx", b"graph"), ("w", b"w" * 99)], [kit.spec("x", [1])], [kit.spec("y", [1])]
        )

    def load(self, shelf: Models, key: Any = None) -> Any:
        """Load the package under the handle 5; return what is found there."""
        order = Load(5, b"", b"", self.sealed.digest, self.sealed.sealer)
        shelf.load(order, BytesIO(self.sealed.path.read_bytes()), key or self.sealed.key)
        return shelf.find(5)


@pytest.fixture
def shelf(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """A package; what would be the child's root is a folder here."""
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(models, "ModelFolder", lambda name, *, locked: ModelFolder(name, root, locked=locked))
    return Shelf(kit, tmp_path / "p")


def left(tmp_path: Path) -> list[Path]:
    """Return what lies at the root."""
    return list((tmp_path / "root").iterdir())


@pytest.mark.parametrize(("layers", "where"), [((Layer.PRIVATE_FILES,), ["files"]), ((), ["buffers"])])
def test_files_are_used_where_there_are_any(
    shelf: Shelf, tmp_path: Path, layers: tuple[Layer, ...], where: list[str]
) -> None:
    """And only there: without that layer a path leads to the machine's disks."""
    engine = Engine()
    assert [shelf.load(Models(engine, layers))] == engine.loads == where
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [ModelError("no", reason="engine_refused"), EngineError("no", reason="out_of_memory"), MemoryError()],
    ids=["refused", "no_room", "memory"],
)
def test_what_files_may_be_to_blame_for_is_tried_from_buffers(shelf: Shelf, tmp_path: Path, error: Exception) -> None:
    """No more parts of memory can be mapped, or no more files: the library says no more than that it does not load."""
    engine = Engine(error)
    assert shelf.load(Models(engine, (Layer.PRIVATE_FILES,))) == "buffers"
    assert engine.loads == ["files", "buffers"]
    assert left(tmp_path) == []


@pytest.mark.parametrize("parts", [models._MOST_MAPPED + 1, None])
def test_a_model_in_too_many_parts_is_loaded_from_buffers(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int | None
) -> None:
    """Each is one of those that a process may have mapped: the next model, and any run, would lack them.

    So is one of which that cannot be told, or that could not be kept out of swap.
    """
    engine, remove = Engine(), ModelFolder.remove

    def removed(folder: ModelFolder) -> None:
        remove(folder)
        folder.mapped_at_end = parts

    monkeypatch.setattr(ModelFolder, "remove", removed)
    assert shelf.load(Models(engine, (Layer.PRIVATE_FILES,))) == "buffers"
    assert engine.loads == ["files", "buffers"]
    assert left(tmp_path) == []


def test_a_model_that_is_not_what_it_says_is_refused_at_once(shelf: Shelf, tmp_path: Path) -> None:
    """That is not for the files."""
    engine = Engine(ModelError("no", reason="interface_mismatch"))
    with pytest.raises(ModelError):
        shelf.load(Models(engine, (Layer.PRIVATE_FILES,)))
    assert engine.loads == ["files"]
    assert left(tmp_path) == []


def test_a_package_that_does_not_open_is_refused_at_once(shelf: Shelf, tmp_path: Path) -> None:
    """No engine sees it."""
    engine = Engine()
    with pytest.raises(PackageError):
        shelf.load(Models(engine, (Layer.PRIVATE_FILES,)), new_model_key())
    assert engine.loads == []
    assert left(tmp_path) == []


@pytest.mark.parametrize("locked", [True, False])
def test_files_and_heaps_know_whether_memory_is_locked(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, locked: bool
) -> None:
    """The layer says so."""
    asked: list[bool] = []

    def folder(name: str, *, locked: bool) -> ModelFolder:
        asked.append(locked)
        return ModelFolder(name, tmp_path / "root")

    def in_pieces(*, locked: bool) -> nullcontext[None]:
        asked.append(locked)
        return nullcontext()

    monkeypatch.setattr(models, "ModelFolder", folder)
    monkeypatch.setattr(heaps, "in_pieces", in_pieces)
    shelf.load(Models(Engine(), (Layer.PRIVATE_FILES, *[Layer.MEMORY_LOCKED] * locked)))
    assert asked == [locked] * 2


def test_what_was_forgotten_is_not_found(shelf: Shelf) -> None:
    """Nor can it be forgotten twice."""
    some = Models(Engine(), ())
    shelf.load(some)
    some.forget(5)
    for act in (some.find, some.forget):
        with pytest.raises(NotFoundError):
            act(5)
