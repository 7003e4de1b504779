"""`python -m bench.sealing`: how fast a model is sealed, beside what bounds that: this disk, and one core's AES.

It is told what to do once as `bench.load` is told what to ask, each time in a fresh process. Whatever is written is on
the disk, not only on its way there, when the clock stops; what is read was read before.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import BinaryIO, Final, Literal

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aigovtool.codec import Message, decode, encode
from aigovtool.crypto.aead import TAG_BYTES, new_model_key, new_salt
from aigovtool.crypto.sign import SigningKey
from aigovtool.ids import ModelId
from aigovtool.limits import SEGMENT_BYTES
from aigovtool.package.sealing import seal
from aigovtool.package.source import open_sources
from bench.graphs import GRAPHS, Graph, lay_out
from bench.load import say
from bench.served import begun

What = Literal["seal", "disk", "aes"]
ROUNDS: Final = 5
MODEL: Final = "bert128"


class Work(Message):
    """What to do with the model of some files in a folder: seal it, write as many bytes, or encrypt as many."""

    what: What
    folder: str
    files: tuple[str, ...]


class Speed(Message):
    """How fast that went: bytes of the model, and seconds."""

    size_bytes: int
    seconds: float

    def per_s(self) -> float:
        """Return bytes per second."""
        return self.size_bytes / self.seconds


class Sealing(Message):
    """What sealing a model took, and writing and encrypting as many bytes, in turns: all in bytes per second."""

    model: str
    size_bytes: int
    sealed_per_s: float
    written_per_s: float
    encrypted_per_s: float

    def share(self) -> float:
        """Return the speed of sealing, of the slower of the two that bound it."""
        return self.sealed_per_s / min(self.written_per_s, self.encrypted_per_s)


def measure(graph: Graph | None = None, rounds: int = ROUNDS) -> Sealing:
    """Do each some times; the speed in the middle counts."""
    graph = graph or GRAPHS[MODEL]()
    folder = Path(tempfile.mkdtemp(prefix="aigovtool-bench-"))
    try:
        files = lay_out(graph, folder, beside=True)
        kinds: tuple[What, ...] = ("seal", "disk", "aes")
        seen: dict[What, list[Speed]] = {what: [] for what in kinds}
        for _ in range(rounds):
            for what in kinds:
                with begun("bench.sealing", Work(what=what, folder=str(folder), files=files)) as process:
                    seen[what].append(process.go(Speed))
    finally:
        shutil.rmtree(folder)
    sealed, written, encrypted = (median(one.per_s() for one in seen[what]) for what in kinds)
    return Sealing(
        model=graph.name,
        size_bytes=seen["seal"][0].size_bytes,
        sealed_per_s=sealed,
        written_per_s=written,
        encrypted_per_s=encrypted,
    )


def _seal(work: Work, out: BinaryIO, _: int) -> None:
    with open_sources(Path(work.folder), work.files) as sources:
        seal(
            sources,
            out,
            model=ModelId("model"),
            model_key=new_model_key(),
            salt=new_salt(),
            sealer=SigningKey.generate(),
            now_ms=time.time_ns() // 1_000_000,
        )


def _write(_: Work, out: BinaryIO, size_bytes: int) -> None:
    segment = os.urandom(SEGMENT_BYTES)
    out.writelines(segment[: size_bytes - start] for start in range(0, size_bytes, SEGMENT_BYTES))


def _encrypt(_: Work, __: BinaryIO, size_bytes: int) -> None:
    cipher, plain, sealed = AESGCM(os.urandom(32)), os.urandom(SEGMENT_BYTES), bytearray(SEGMENT_BYTES + TAG_BYTES)
    for number in range(-(-size_bytes // SEGMENT_BYTES)):
        cipher.encrypt_into(number.to_bytes(12, "big"), plain, None, sealed)


_DONE_BY: Final[dict[What, Callable[[Work, BinaryIO, int], None]]] = {
    "seal": _seal,
    "disk": _write,
    "aes": _encrypt,
}


def run(work: Work) -> Speed:
    """Do it, when told to begin."""
    size_bytes = sum((Path(work.folder) / name).stat().st_size for name in work.files)
    path = Path(work.folder) / "out"
    try:
        with path.open("wb") as out:
            say(b"ready")
            sys.stdin.buffer.readline()
            began = time.perf_counter()
            _DONE_BY[work.what](work, out, size_bytes)
            out.flush()
            os.fsync(out.fileno())
            return Speed(size_bytes=size_bytes, seconds=time.perf_counter() - began)
    finally:
        path.unlink()


def main() -> None:
    """Run."""
    say(encode(run(decode(sys.stdin.buffer.readline().strip(), Work))))


if __name__ == "__main__":
    main()
