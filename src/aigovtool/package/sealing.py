"""Makes sealed packages and opens them, segment by segment.

Source: docs/spec/package.md sections 4 and 5. Time, key and salt are arguments; streams are the caller's.

Rules:

1. Sealing holds three segments in memory, whatever the size of the model. It reads every file twice, because the
   manifest stands before the ciphertext, and refuses when a file changed in between. Hashing runs in a thread of its
   own, beside what is read, encrypted and written.
2. Opening checks the sealer's signature and the length before it takes a key, and the key's commitment before it
   opens a segment. Plaintext goes only into memory of the caller, which is zeroed when anything fails.

What it does not do: it does not load the model (`loadcheck`), fetch, cache or write plaintext anywhere.

```python
with open_sources(folder, ["model.onnx"]) as sources, path.open("wb") as out:
    sealed = seal(sources, out, model=model, model_key=new_model_key(), salt=new_salt(), sealer=key, now_ms=now_ms)
with path.open("rb") as stream:
    for file in PackageReader(stream, sealer_public_key).open_files(model_key):
        file.decrypt_into(memoryview(bytearray(file.size_bytes)))
```
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.thread import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO, Final, Self

from aigovtool.crypto.aead import TAG_BYTES, FileOpener, FileSealer, check_key, key_commitment, segment_count
from aigovtool.crypto.secret import ModelKey
from aigovtool.crypto.sign import Envelope, SigningKey, VerifyKey
from aigovtool.errors import InvalidValueError, PackageError
from aigovtool.ids import Digest, ModelId
from aigovtool.limits import MAX_PACKAGE_BYTES, MAX_PACKAGE_FILES, SEGMENT_BYTES
from aigovtool.package.format import (
    check_length,
    encode_header,
    file_offsets,
    fill,
    read_header,
    read_up_to,
    seek,
    write_all,
)
from aigovtool.package.inspect import check_external, inspect_onnx
from aigovtool.package.manifest import (
    FORMAT_VERSION,
    Description,
    Manifest,
    PackageFile,
    manifest_digest,
    sign_manifest,
    verify_manifest,
)
from aigovtool.package.picture import Picture
from aigovtool.package.source import SourceFile

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SealedPackage:
    """What sealing made: the manifest, its digest (the model's identity) and the size of the package."""

    manifest: Manifest
    manifest_digest: Digest
    size_bytes: int


def seal(
    sources: Sequence[SourceFile],
    out: BinaryIO,
    *,
    model: ModelId,
    model_key: ModelKey,
    salt: bytes,
    sealer: SigningKey,
    now_ms: int,
    description: Description | None = None,
    pictures: Sequence[Picture] = (),
    progress: Progress | None = None,
) -> SealedPackage:
    """Write a sealed package of `sources`, the ONNX graph first, to `out`.

    `progress(bytes_done, bytes_total)` counts both passes: the total is twice the size of the files. When this raises,
    `out` may hold the beginning of a package, which never opens: delete it.

    Raises:
        ModelError: the model is refused.
        PackageError: with reason `source_changed`, when a file changed while it was sealed.
        InvalidValueError, TooLargeError: a name or the description does not fit into a manifest.
        FaultError: a stream cannot be read or written.
    """
    if not 1 <= len(sources) <= MAX_PACKAGE_FILES:
        raise InvalidValueError(f"a package holds 1 to {MAX_PACKAGE_FILES} files", reason="file_count")
    meter = _Meter(progress, 2 * sum(seek(source.stream, 0, os.SEEK_END) for source in sources))
    files, inspected = tuple(_hash(source, meter) for source in sources), inspect_onnx(sources[0].stream)
    check_external(inspected, [file.name for file in files], [file.size_bytes for file in files])
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model=model,
        engine="onnx",
        sealed_at_ms=now_ms,
        sealer=sealer.public.raw,
        salt=salt,
        key_commitment=key_commitment(model_key, salt),
        files=files,
        inputs=inspected.inputs,
        outputs=inspected.outputs,
        opsets=inspected.opsets,
        draws_random=inspected.draws_random,
        description=description or Description(),
        pictures=tuple(pictures),
    )
    header = encode_header(envelope := sign_manifest(manifest, sealer))
    write_all(out, header)
    sealers = [FileSealer(model_key, salt, _context(envelope), index) for index in range(len(files))]
    sealed = sum(_seal_file(*parts, out, meter) for parts in zip(sources, files, sealers, strict=True))
    return SealedPackage(manifest, manifest_digest(envelope), len(header) + sealed)


class PackageReader:
    """A package whose header, signature and length are verified.

    `stream` is seekable, stays the caller's, and is used again by the files of `open_files`.
    """

    def __init__(self, stream: BinaryIO, sealer: VerifyKey) -> None:
        """Verify everything that needs no model key (specification section 5, steps 1 to 4).

        Raises:
            PackageError: not a package, damaged, truncated or extended.
            SignatureInvalidError: not signed by exactly `sealer`.
            FaultError: the stream cannot be read.
        """
        header = read_header(stream)
        self._stream: Final = stream
        self.manifest: Final = verify_manifest(header.envelope, sealer)
        self.manifest_digest: Final = manifest_digest(header.envelope)
        self.size_bytes: Final = check_length(stream, header, self.manifest)
        self._context: Final = _context(header.envelope)
        self._offsets: Final = file_offsets(header, self.manifest)

    def open_files(self, model_key: ModelKey) -> tuple["SealedFile", ...]:
        """Return the files in the order of the manifest, ready to be decrypted.

        Raises:
            PackageError: with reason `wrong_key`, at once, when `model_key` is not this package's.
        """
        manifest = self.manifest
        check_key(model_key, manifest.salt, manifest.key_commitment)
        return tuple(
            SealedFile(self._stream, self._offsets[i], file, FileOpener(model_key, manifest.salt, self._context, i))
            for i, file in enumerate(manifest.files)
        )


class SealedFile:
    """One file of a verified package, with its key."""

    __slots__ = ("_file", "_offset", "_opener", "_stream")

    def __init__(self, stream: BinaryIO, offset: int, file: PackageFile, opener: FileOpener) -> None:
        self._stream: Final = stream
        self._offset: Final = offset
        self._file: Final = file
        self._opener: Final = opener

    @property
    def name(self) -> str:
        """Relative name, `/`-separated, without "..": safe to join to a folder of its own."""
        return self._file.name

    @property
    def size_bytes(self) -> int:
        """Size of the plaintext."""
        return self._file.size_bytes

    def decrypt_into(
        self, target: memoryview, *, executor: Executor | None = None, progress: Progress | None = None
    ) -> None:
        """Write the plaintext to `target`: writable, contiguous, exactly `size_bytes` long.

        With an `executor` of the caller, hashing runs beside decryption, one segment behind.

        Raises:
            PackageError: with reason `segment` or `digest`; `target` is then all zero.
            InvalidValueError: `target` does not fit.
            FaultError: the stream cannot be read; `target` is then all zero.
        """
        if target.readonly or not target.contiguous or target.nbytes != self.size_bytes:
            raise InvalidValueError(f"the target is not {self.size_bytes} writable bytes", reason="target")
        flat = target if target.format == "B" and target.ndim == 1 else target.cast("B")
        intact = False
        try:
            if self._decrypt(flat, executor, progress) != self._file.digest:
                raise PackageError(
                    f"{self.name!r} is not the file that the sealer signed",
                    reason="digest",
                    fix="ask the sealer for a new package: this one was not made by its sealer alone",
                )
            intact = True
        finally:
            if not intact:
                _wipe(flat)

    def _decrypt(self, target: memoryview, executor: Executor | None, progress: Progress | None) -> Digest:
        """Open every segment into its place; return the digest of what came out."""
        digest = sha256()
        buffer = memoryview(bytearray(min(SEGMENT_BYTES, self.size_bytes) + TAG_BYTES))
        pending: Future[None] | None = None
        seek(self._stream, self._offset)
        last = segment_count(self.size_bytes) - 1
        try:
            for number in range(last + 1):
                plain = target[number * SEGMENT_BYTES : (number + 1) * SEGMENT_BYTES]
                sealed = buffer[: len(plain) + TAG_BYTES]
                fill(self._stream, sealed)
                self._opener.open_into(number, sealed, plain, last=number == last)
                if executor is None:
                    digest.update(plain)
                else:
                    if pending is not None:
                        pending.result()
                    pending = executor.submit(digest.update, plain)
                if progress is not None:
                    progress(number * SEGMENT_BYTES + len(plain), self.size_bytes)
        finally:
            # Also when a segment was refused: nobody may read `target` while it is wiped.
            if pending is not None:
                pending.result()
        return Digest("sha256:" + digest.hexdigest())


class _Meter:
    """Adds up the bytes of both passes for the caller's progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress: Final = progress
        self._total: Final = total
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


def _context(envelope: Envelope) -> bytes:
    """Return the raw manifest digest, which the keys of the files depend on."""
    return sha256(envelope.payload).digest()


class _Hashing:
    """Hashes a file in a thread, one segment behind whoever reads it. To be used as a context."""

    def __init__(self) -> None:
        self._executor: Final = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._buffers: Final = [memoryview(bytearray(SEGMENT_BYTES)) for _ in range(2)]
        self._hashed: Future[None] | None = None
        self._digest: Final = sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()

    def buffer(self) -> memoryview:
        """Return where the next segment is read to: not where the last one is hashed."""
        return self._buffers[0]

    def take(self, plain: memoryview) -> None:
        """Hash a segment, which lies in `buffer` and stays there until the next but one is read."""
        if self._hashed is not None:
            self._hashed.result()
        self._hashed = self._executor.submit(self._digest.update, plain)
        self._buffers.reverse()

    def end(self) -> Digest:
        """Return the digest of what was taken."""
        if self._hashed is not None:
            self._hashed.result()
        return Digest("sha256:" + self._digest.hexdigest())


def _hash(source: SourceFile, meter: _Meter) -> PackageFile:
    size = 0
    seek(source.stream, 0)
    with _Hashing() as hashing:
        while count := read_up_to(source.stream, buffer := hashing.buffer()):
            hashing.take(buffer[:count])
            size += count
            if size > MAX_PACKAGE_BYTES:
                over = f"{source.name!r} is over {MAX_PACKAGE_BYTES} bytes"
                raise InvalidValueError(over, reason="package_too_large")
            meter.add(count)
        return PackageFile(name=source.name, size_bytes=size, digest=hashing.end())


def _seal_file(source: SourceFile, file: PackageFile, sealer: FileSealer, out: BinaryIO, meter: _Meter) -> int:
    """Seal one file that was hashed as `file`; return the number of bytes written."""
    sealed = memoryview(bytearray(SEGMENT_BYTES + TAG_BYTES))
    written = 0
    seek(source.stream, 0)
    last = segment_count(file.size_bytes) - 1
    with _Hashing() as hashing:
        for number in range(last + 1):
            size = min(SEGMENT_BYTES, file.size_bytes - number * SEGMENT_BYTES)
            plain = hashing.buffer()[:size]
            if read_up_to(source.stream, plain) != size:
                raise _changed(source)
            hashing.take(plain)
            # Before the last segment is written, so that what a changed file leaves behind never opens.
            if number == last and (_goes_on(source) or hashing.end() != file.digest):
                raise _changed(source)
            count = sealer.seal_into(plain, sealed, last=number == last)
            write_all(out, sealed[:count])
            written += count
            meter.add(size)
    return written


def _goes_on(source: SourceFile) -> bool:
    return read_up_to(source.stream, memoryview(bytearray(1))) != 0


def _changed(source: SourceFile) -> PackageError:
    return PackageError(
        f"{source.name!r} changed while it was sealed",
        reason="source_changed",
        fix="make sure that nothing writes to the model, and seal it again",
    )


def _wipe(target: memoryview) -> None:
    zeros = bytes(SEGMENT_BYTES)
    for start in range(0, len(target), SEGMENT_BYTES):
        part = target[start : start + SEGMENT_BYTES]
        part[:] = zeros[: len(part)]
