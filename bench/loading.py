"""What loading a sealed model costs beside loading it alone: time, and memory that others cannot have meanwhile."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from aigovtool.codec import Message
from aigovtool.crypto.aead import new_model_key, new_salt
from aigovtool.crypto.sign import SigningKey
from aigovtool.ids import ModelId
from aigovtool.package.sealing import seal
from aigovtool.package.source import open_sources
from bench.graphs import GRAPHS, Graph, lay_out, tiny
from bench.loader import Order, Sealed, Took
from bench.memory import watched
from bench.processes import family
from bench.served import begun

#: How often what the processes hold is looked at; what is held for less long takes no large model.
_LOOK_S: Final = 0.005


class Kind(Message):
    """A model to load, with its weights in the graph's file or beside it."""

    model: str
    beside: bool
    rounds: int = 7


KINDS: Final = (Kind(model="resnet50", beside=False), Kind(model="bert128", beside=True))


class Load(Message):
    """One load: seconds, and bytes that its processes held more than before, at the most and in the end."""

    seconds: float
    copied_s: float
    started_s: float
    peak_bytes: int
    held_bytes: int


class Loading(Message):
    """The loads of one model, each in a fresh process: as an enclave does it, and copied and loaded alone, in turns."""

    model: str
    files: int
    size_bytes: int
    ours: tuple[Load, ...]
    alone: tuple[Load, ...]

    def ratio(self) -> float:
        """Return how much longer it takes than alone: of the times in the middle."""
        return middle_s(self.ours) / middle_s(self.alone)

    def above(self) -> float:
        """Return the memory that it takes at the most above what it takes alone, in sizes of the model."""
        return (median_peak(self.ours) - median_peak(self.alone)) / self.size_bytes


def middle_s(loads: tuple[Load, ...]) -> float:
    """Return the time in the middle."""
    return median(one.seconds for one in loads)


def median_peak(loads: tuple[Load, ...]) -> float:
    """Return the peak in the middle, in bytes."""
    return median(one.peak_bytes for one in loads)


def measure(kind: Kind) -> Loading:
    """Load a model some times."""
    with prepared(GRAPHS[kind.model](), beside=kind.beside) as order:
        alone = msgspec.structs.replace(order, sealed=None)
        pairs = [(_load(order), _load(alone)) for _ in range(kind.rounds)]
        size_bytes = sum((Path(order.folder) / name).stat().st_size for name in order.files)
    ours, theirs = zip(*pairs, strict=True)
    return Loading(model=kind.model, files=len(order.files), size_bytes=size_bytes, ours=ours, alone=theirs)


@contextmanager
def prepared(graph: Graph, *, beside: bool) -> Iterator[Order]:
    """Give a model in a folder, as files and as a package of the product's sealer; all of it is in the page cache."""
    folder = Path(tempfile.mkdtemp(prefix="aigovtool-bench-"))
    try:
        names = lay_out(graph, folder, beside=beside)
        first = folder / "tiny.onnx"
        first.write_bytes(tiny().content)
        yield Order(folder=str(folder), files=names, tiny=str(first), sealed=_seal(folder, names))
    finally:
        shutil.rmtree(folder)


def _seal(folder: Path, names: tuple[str, ...]) -> Sealed:
    key, sealer, path = new_model_key(), SigningKey.generate(), folder / "model.aigov"
    with open_sources(folder, names) as sources, path.open("wb") as out:
        made = seal(
            sources,
            out,
            model=ModelId("model"),
            model_key=key,
            salt=new_salt(),
            sealer=sealer,
            now_ms=time.time_ns() // 1_000_000,
        )
    return Sealed(path=str(path), key=key.secret.reveal(), sealer=sealer.public.raw, digest=made.manifest_digest)


def _load(order: Order) -> Load:
    """Load once, in a process of its own that is looked at meanwhile."""
    try:
        with begun("bench.loader", order) as process:
            with watched(family(process.pid), _LOOK_S) as held:
                took = process.go(Took)
                time.sleep(2 * _LOOK_S)  # for a last look
            return Load(
                seconds=took.seconds,
                copied_s=took.copied_s,
                started_s=took.started_s,
                peak_bytes=max(held) - held[0],
                held_bytes=held[-1] - held[0],
            )
    finally:
        shutil.rmtree(Path(order.folder) / "copies", ignore_errors=True)
