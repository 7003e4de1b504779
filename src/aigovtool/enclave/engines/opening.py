"""A package's descriptor and its key in, plaintext in memory out (docs/spec/package.md section 5).

1. Magic, version, and a header that is exactly one canonical envelope.
2. Signed by the given sealer; its digest is the one that the custodian released the key for.
3. The length of the file is what the manifest implies: known before memory is allocated.
4. The key is the one that the manifest commits to.
5. Every segment opens at its own place; every file has its digest.

Segments are decrypted into the memory in which they stay; one sealed segment is held besides. On a failure
that memory is zeroed. Reads are at offsets, so the file position, which the parent shares, does not matter.

The borrower's host may change the file while it is read: what counts is only ever the copy in memory.
"""

import hmac
import os
import struct
from typing import Final

from aigovtool.codec import decode_signed
from aigovtool.crypto.aead import TAG_BYTES, FileOpener, check_key, sealed_size_bytes, segment_count
from aigovtool.crypto.secret import ModelKey
from aigovtool.crypto.sign import Envelope, VerifyKey
from aigovtool.enclave.engines.engine import PlainModel
from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.errors import InputError, PackageError
from aigovtool.ids import Digest, digest_of
from aigovtool.limits import MAX_MANIFEST_BYTES, SEGMENT_BYTES
from aigovtool.package.manifest import FORMAT_VERSION, Manifest, PackageFile, manifest_digest, verify_manifest

MAGIC: Final = b"\x89AIGOV\r\n"
_HEAD: Final = struct.Struct(">8sII")


def open_model(descriptor: int, key: ModelKey, sealer: bytes, expected: Digest) -> PlainModel:
    """Return the decrypted package; the caller wipes it.

    Args:
        descriptor: the package, readable.
        key: the model key.
        sealer: raw Ed25519 public key that must have signed the manifest.
        expected: the manifest digest of the only package that is accepted.

    Raises:
        SignatureInvalidError: the manifest is not signed by `sealer`.
        PackageError: `not_a_package`, `wrong_digest`, `wrong_length`, `wrong_key`, `segment`, `file_digest`,
            `unreadable`.
    """
    envelope, offset = _read_envelope(descriptor)
    manifest = verify_manifest(envelope, VerifyKey(sealer))
    if not hmac.compare_digest(manifest_digest(envelope), expected):
        raise PackageError("this is another package than the key was released for", reason="wrong_digest")
    total = offset + sum(sealed_size_bytes(file.size_bytes) for file in manifest.files)
    if _size(descriptor) != total:
        raise PackageError("the package does not have the length that its manifest implies", reason="wrong_length")
    check_key(key, manifest.salt, manifest.key_commitment)
    model = PlainModel(ModelInterface(manifest.inputs, manifest.outputs), [])
    try:
        _open_files(descriptor, offset, key, manifest, expected, model)
    except BaseException:
        model.wipe()
        raise
    return model


def _read_envelope(descriptor: int) -> tuple[Envelope, int]:
    magic, version, size = _HEAD.unpack(_read(descriptor, _HEAD.size, 0))
    if magic != MAGIC or version != FORMAT_VERSION or not 1 <= size <= MAX_MANIFEST_BYTES:
        raise PackageError("this is not a package of a known version", reason="not_a_package")
    try:
        envelope = decode_signed(_read(descriptor, size, _HEAD.size), Envelope, max_bytes=MAX_MANIFEST_BYTES)
    except InputError as error:
        raise PackageError(f"the header is not an envelope: {error.message}", reason="not_a_package") from None
    return envelope, _HEAD.size + size


def _open_files(
    descriptor: int, offset: int, key: ModelKey, manifest: Manifest, digest: Digest, model: PlainModel
) -> None:
    context = bytes.fromhex(digest.removeprefix("sha256:"))
    for index, file in enumerate(manifest.files):
        plain = bytearray(file.size_bytes)
        model.files.append((file.name, plain))
        _open_file(descriptor, offset, FileOpener(key, manifest.salt, context, index), plain)
        _check_digest(file, plain)
        offset += sealed_size_bytes(file.size_bytes)


def _open_file(descriptor: int, offset: int, opener: FileOpener, plain: bytearray) -> None:
    count = segment_count(len(plain))
    with memoryview(plain) as view:
        for number in range(count):
            part = view[number * SEGMENT_BYTES : (number + 1) * SEGMENT_BYTES]
            sealed = _read(descriptor, len(part) + TAG_BYTES, offset)
            opener.open_into(number, sealed, part, last=number == count - 1)
            offset += len(sealed)


def _check_digest(file: PackageFile, plain: bytearray) -> None:
    if not hmac.compare_digest(digest_of(plain), file.digest):
        raise PackageError(f"file {file.name!r} is not what the manifest says", reason="file_digest")


def _size(descriptor: int) -> int:
    # Not fstat: the C library makes it a call that could also name a path, so the sandbox refuses it.
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    except OSError as error:
        raise PackageError(f"the package cannot be read: {error.strerror}", reason="unreadable") from None


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """Return exactly `size` bytes at `offset`."""
    parts: list[bytes] = []
    while size:
        try:
            part = os.pread(descriptor, size, offset)
        except OSError as error:
            raise PackageError(f"the package cannot be read: {error.strerror}", reason="unreadable") from None
        if not part:
            raise PackageError("the package ends too early", reason="wrong_length")
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
