"""The framing of a package: magic, version, header, and where the segments of each file lie.

Source: docs/spec/package.md sections 1 and 2. Everything here works without a key. `read_unverified` does not check
who signed: only `aigovtool.package.sealing.PackageReader` says that a package is what its sealer made.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO, Final

from aigovtool.codec import decode_signed, encode
from aigovtool.crypto.aead import sealed_size_bytes
from aigovtool.crypto.sign import Envelope
from aigovtool.errors import FaultError, InputError, PackageError, TooLargeError
from aigovtool.limits import MAX_MANIFEST_BYTES
from aigovtool.package.manifest import FORMAT_VERSION, Manifest

# 0x89 is lost by 7-bit transport, CR LF by text-mode copies: both are found in the first 8 bytes (as in PNG).
MAGIC: Final = b"\x89AIGOV\r\n"
_PREFIX_BYTES: Final = len(MAGIC) + 8
_FETCH_AGAIN: Final = "fetch the package again from where it was registered"


@dataclass(frozen=True, slots=True)
class Header:
    """The envelope as it was read, not verified, and where the first segment begins."""

    envelope: Envelope
    body_offset: int


def encode_header(envelope: Envelope) -> bytes:
    """Return magic, version, length and header.

    Raises:
        TooLargeError: over `limits.MAX_MANIFEST_BYTES`.
    """
    header = encode(envelope)
    if len(header) > MAX_MANIFEST_BYTES:
        raise TooLargeError(
            f"the header has {len(header)} bytes; at most {MAX_MANIFEST_BYTES} are read",
            reason="manifest_too_large",
            fix="describe the model in fewer words, or save its weights in fewer files",
        )
    return MAGIC + FORMAT_VERSION.to_bytes(4, "big") + len(header).to_bytes(4, "big") + header


def read_header(stream: BinaryIO) -> Header:
    """Read the header from the beginning of a seekable `stream`, without any trust in it.

    Raises:
        PackageError: not a package, of another version, cut off, or not in its only encoding.
        FaultError: the stream cannot be read.
    """
    seek(stream, 0)
    prefix = read_exactly(stream, _PREFIX_BYTES)
    if prefix[: len(MAGIC)] != MAGIC:
        raise PackageError(
            "this is not a sealed package",
            reason="not_a_package",
            fix="give a .aigov file; if it is one, it was changed on its way (copied in text mode?)",
        )
    version = int.from_bytes(prefix[len(MAGIC) : len(MAGIC) + 4], "big")
    if version != FORMAT_VERSION:
        raise PackageError(
            f"the package has format version {version}; this program reads {FORMAT_VERSION}",
            reason="format_version",
            fix="use the release of AIGovTool that sealed it, or a newer one",
        )
    size = int.from_bytes(prefix[len(MAGIC) + 4 :], "big")
    if not 1 <= size <= MAX_MANIFEST_BYTES:
        raise PackageError(f"the header claims {size} bytes", reason="header_size", fix=_FETCH_AGAIN)
    try:
        envelope = decode_signed(read_exactly(stream, size), Envelope, max_bytes=MAX_MANIFEST_BYTES)
    except InputError as error:
        raise PackageError(f"the header is damaged: {error.message}", reason="header", fix=_FETCH_AGAIN) from None
    return Header(envelope, _PREFIX_BYTES + size)


def read_unverified(stream: BinaryIO) -> Manifest:
    """Return what a package says about itself, whoever signed it: for showing to people, never for trust.

    Raises:
        PackageError: not a package, damaged, or of the wrong length.
        FaultError: the stream cannot be read.
    """
    header = read_header(stream)
    try:
        manifest = decode_signed(header.envelope.payload, Manifest, max_bytes=MAX_MANIFEST_BYTES)
    except InputError as error:
        raise PackageError(f"the manifest is not valid: {error.message}", reason=error.reason) from None
    check_length(stream, header, manifest)
    return manifest


def file_offsets(header: Header, manifest: Manifest) -> Sequence[int]:
    """Return where the segments of each file begin, and as last entry where the package ends."""
    sizes = (sealed_size_bytes(file.size_bytes) for file in manifest.files)
    return tuple(accumulate(sizes, initial=header.body_offset))


def check_length(stream: BinaryIO, header: Header, manifest: Manifest) -> int:
    """Return the length of the package in bytes, after comparing it with what the header implies.

    Raises:
        PackageError: with reason `truncated` or `trailing_bytes`.
    """
    expected = file_offsets(header, manifest)[-1]
    actual = seek(stream, 0, os.SEEK_END)
    if actual != expected:
        reason = "truncated" if actual < expected else "trailing_bytes"
        raise PackageError(f"the package has {actual} of {expected} bytes", reason=reason, fix=_FETCH_AGAIN)
    return actual


def seek(stream: BinaryIO, offset: int, whence: int = os.SEEK_SET) -> int:
    """Move to `offset` and return the position, with our errors.

    Raises:
        FaultError: the stream cannot be read.
    """
    try:
        return stream.seek(offset, whence)
    except OSError as error:
        raise io_failed(error) from None


def read_exactly(stream: BinaryIO, size: int) -> bytes:
    """Read `size` bytes.

    Raises:
        PackageError: with reason `truncated`.
        FaultError: the stream cannot be read.
    """
    data = bytearray(size)
    fill(stream, memoryview(data))
    return bytes(data)


def fill(stream: BinaryIO, buffer: memoryview) -> None:
    """Fill all of `buffer` from `stream`.

    Raises:
        PackageError: with reason `truncated`.
        FaultError: the stream cannot be read.
    """
    if read_up_to(stream, buffer) != len(buffer):
        raise PackageError("the package ends too early", reason="truncated", fix=_FETCH_AGAIN)


def read_up_to(stream: BinaryIO, buffer: memoryview) -> int:
    """Read until `buffer` is full or the stream ends; return how many bytes. A raw stream may give fewer at a time.

    Raises:
        FaultError: the stream cannot be read, or would block.
    """
    done = 0
    try:
        while done < len(buffer):
            count = stream.readinto(buffer[done:])  # type: ignore[attr-defined]
            if count is None:
                raise FaultError("the stream would block", reason="io_failed")
            if count == 0:
                break
            done += count
    except OSError as error:
        raise io_failed(error) from None
    return done


def write_all(stream: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data`. A raw stream may take fewer bytes at a time.

    Raises:
        FaultError: the stream cannot be written, for example because the disk is full.
    """
    rest = memoryview(data)
    try:
        while rest:
            count = stream.write(rest)
            if not count:
                raise FaultError("the stream takes no more bytes", reason="io_failed")
            rest = rest[count:]
    except OSError as error:
        raise io_failed(error) from None


def io_failed(error: OSError) -> FaultError:
    """Return our error for an operating system's."""
    return FaultError(
        f"reading or writing failed: {error.strerror or type(error).__name__}",
        reason="io_failed",
        fix="check the disk (space, permissions) and try again",
    )
