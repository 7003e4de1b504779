"""The models of the child: loaded from files of its own or from buffers, found by their handles, and forgotten.

From files is faster and takes less memory (`private_files`). It is no promise: there may be no room for them, and each
weight that the library leaves in a file takes one of the parts of memory that a process may have mapped
(`vm.max_map_count`), which all that it computes with needs as well. Then a model is loaded again, from buffers.
"""

from typing import BinaryIO, Final

from aigovtool.crypto.secret import ModelKey
from aigovtool.enclave.engines import heaps
from aigovtool.enclave.engines.engine import Engine, LoadedEngine, PlainModel
from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.enclave.engines.ipc import Load
from aigovtool.enclave.engines.opening import open_model
from aigovtool.enclave.engines.private_files import ModelFolder
from aigovtool.enclave.engines.sandbox import Layer
from aigovtool.errors import EngineError, ModelError, NotFoundError

#: Of the parts of memory that Linux lets a process have mapped (65,530), whatever they are: models have some hundreds.
_MOST_MAPPED: Final = 8_192
#: What loading from files may fail for, and loading from buffers not.
_OF_FILES: Final = frozenset({"engine_refused", "out_of_memory"})


class Models:
    """What is loaded; `find` may be called by several threads at once."""

    def __init__(self, engine: Engine, layers: tuple[Layer, ...]) -> None:
        self._engine: Final = engine
        self._has_files: Final = Layer.PRIVATE_FILES in layers
        self._locked: Final = Layer.MEMORY_LOCKED in layers
        self._loaded: Final[dict[int, LoadedEngine]] = {}

    def load(self, order: Load, stream: BinaryIO, key: ModelKey) -> ModelInterface:
        """Decrypt a package and load the model, which is found under the id of the order from then on.

        Args:
            order: which package is accepted, and of which sealer.
            stream: the package, seekable.
            key: the model key.

        Raises:
            SignatureInvalidError, PackageError, FaultError: see `open_model`.
            ModelError: the engine refuses it, or it is not what its manifest says.
            EngineError: there is no memory for it (`out_of_memory`).
        """
        with heaps.in_pieces(locked=self._locked):
            loaded = self._from_files(order, stream, key) if self._has_files else None
            if loaded is None:
                loaded = self._load(order, stream, key, None)
        self._loaded[order.id], interface = loaded
        return interface

    def _from_files(self, order: Load, stream: BinaryIO, key: ModelKey) -> tuple[LoadedEngine, ModelInterface] | None:
        """Load from files, or return None where buffers may do instead."""
        folder = ModelFolder(str(order.id), locked=self._locked)
        try:
            loaded = self._load(order, stream, key, folder)
        except (ModelError, EngineError) as error:
            if error.reason not in _OF_FILES:
                raise
        except MemoryError:
            pass
        else:
            if folder.mapped_at_end is not None and folder.mapped_at_end <= _MOST_MAPPED:
                return loaded
            del loaded
        heaps.trim()
        return None

    def _load(
        self, order: Load, stream: BinaryIO, key: ModelKey, folder: ModelFolder | None
    ) -> tuple[LoadedEngine, ModelInterface]:
        model: PlainModel = open_model(stream, key, order.sealer, order.manifest_digest, folder)
        try:
            return self._engine.load(model), model.interface
        finally:
            model.wipe()

    def __contains__(self, handle: int) -> bool:
        """Return whether there is a model of that handle."""
        return handle in self._loaded

    def find(self, handle: int) -> LoadedEngine:
        """Return a model.

        Raises:
            NotFoundError: there is none of that handle (`not_loaded`).
        """
        model = self._loaded.get(handle)
        if model is None:
            raise _not_loaded()
        return model

    def forget(self, handle: int) -> None:
        """Let go of a model; runs that have begun still have it.

        Raises:
            NotFoundError: there is none of that handle (`not_loaded`).
        """
        if self._loaded.pop(handle, None) is None:
            raise _not_loaded()


def _not_loaded() -> NotFoundError:
    return NotFoundError("the model is not loaded", reason="not_loaded")
