"""What an engine is: the child's side of loading and running one model.

An engine lives in the engine child only. It is given plaintext, keeps nothing of it but what it needs to run, and
opens no file but that plaintext, and no socket: after the sandbox is entered it could not.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.enclave.engines.private_files import ModelFolder
from aigovtool.protocol.tensor import Tensor

_WIPE_BYTES: Final = 1 << 20


@dataclass(slots=True)
class PlainModel:
    """A decrypted package: what the manifest promises, and its files.

    They are in `folder`, or else in buffers, in the order of the manifest (the graph first).
    """

    interface: ModelInterface
    files: list[tuple[str, bytearray]] = field(repr=False)
    folder: ModelFolder | None = None

    def take_graph(self) -> bytes:
        """Return the first file as the `bytes` that libraries ask for, and wipe the original: one copy fewer."""
        _, data = self.files.pop(0)
        graph = bytes(data)
        _zero(data)
        return graph

    def wipe(self) -> None:
        """Overwrite buffers with zeros, unlink files: best effort, the end of the process is the real one."""
        for _, data in self.files:
            _zero(data)
        self.files.clear()
        if self.folder is not None:
            self.folder.remove()


def _zero(data: bytearray) -> None:
    # Not emptied as well: a traceback may hold a view of it, and then its size cannot change.
    zeros = bytes(min(len(data), _WIPE_BYTES))
    for start in range(0, len(data), _WIPE_BYTES):
        data[start : start + _WIPE_BYTES] = zeros[: len(data) - start]


class LoadedEngine(Protocol):
    """One model, ready to run; safe to use from several threads."""

    def run(self, inputs: list[Tensor], outputs: tuple[str, ...], deadline_ns: int) -> list[Tensor]:
        """Return the named outputs (all, in the model's order, when none is named).

        Args:
            inputs: the model's inputs, checked against its interface by the parent.
            outputs: names of outputs.
            deadline_ns: CLOCK_MONOTONIC time at which the run ends, done or not.

        Raises:
            DeadlineError: the deadline came first.
            EngineError: the engine failed; its words are not repeated, because they may quote the input.
            InvalidValueError: an input's data cannot be used (`not_utf8`, `model_refused_input`).
        """
        ...

    def until(
        self, outputs: tuple[str, ...], deadline_ns: int
    ) -> AbstractContextManager[Callable[[list[Tensor]], list[Tensor]]]:
        """Return what `run` does with inputs, any number of times before one deadline for all of them."""
        ...


class Engine(Protocol):
    """Loads models. To unload one is to drop the last reference to what `load` returned."""

    def load(self, model: PlainModel) -> LoadedEngine:
        """Return the model, ready to run. Takes what it needs; the caller wipes the rest of `model`.

        Raises:
            ModelError: the engine refuses it, or it is not what its manifest says.
        """
        ...

    def warm_up(self) -> None:
        """Run something tiny, so that everything that is opened lazily is open before the sandbox closes.

        Raises:
            ConfigurationError: the engine does not work here.
        """
        ...
