"""A package in the enclave's cache, which lies on a disk of the borrower's: what is read of it beside the engine."""

import hashlib
import os
from io import BufferedReader
from pathlib import Path

from aigovtool.errors import ConfigurationError, PackageError
from aigovtool.ids import Digest, digest_of
from aigovtool.package.format import read_header


def manifest_of(descriptor: int, digest: Digest) -> bytes:
    """Return the manifest of an open package: its bytes are those that the digest is of.

    Raises:
        PackageError: the file was changed since the engine has read it.
    """
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        payload = read_header(file).envelope.payload
    if digest_of(payload) != digest:
        raise PackageError("the package was changed while it was opened", reason="wrong_package")
    return payload


def discard_damaged(path: Path, descriptor: int, package: Digest) -> None:
    """Remove a file that is not the package it is named after, so that the next boot downloads it anew.

    Raises:
        ConfigurationError: `cache`; by now there may be something else in its place.
    """
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            if _digest_of(file) != package:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be removed: {error.strerror}", reason="cache") from None


def _digest_of(file: BufferedReader) -> Digest:
    """Return the digest of all that an open file holds."""
    file.seek(0)
    return Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
