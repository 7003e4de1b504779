"""Private keys and other secrets in files.

Reading: the file is opened once, without following a symbolic link; what is checked (a regular file of
ours that nobody else may touch) is the open descriptor, not the path, so nothing can be swapped in
between; at most a stated number of bytes is read.

Writing: a temporary file of mode 0600 appears in the same directory, is synced and then takes its name
in one step, so that a crash leaves the old file or the new one, and at no moment can others read either.
An existing file is refused unless replacing was asked for, and so is one that does not hold what was read any more.

It does not encrypt: whoever can act as this user, or as root, can read the files. That is the
operating system's boundary; keys that must survive it belong in an HSM or a TEE.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, ELOOP
from pathlib import Path
from secrets import token_hex
from typing import Final

from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.tlskey import TlsKey, key_to_pem, signing_key_from_pem
from aigovtool.errors import ConfigurationError, ConflictError
from aigovtool.ids import Digest, digest_of
from aigovtool.limits import MAX_KEY_FILE_BYTES

# O_NONBLOCK: opening a pipe that somebody put in place of the file must not hang.
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022


def read_secret_file(path: Path, *, max_bytes: int = MAX_KEY_FILE_BYTES) -> Secret:
    """Return the content of a file that only this user can read.

    Raises:
        ConfigurationError: `missing_key_file`; `unsafe_key_file` for a link, for anything but a regular
            file, another owner, or any permission of group or others; `key_file_too_large`; `unreadable_key_file`.
    """
    try:
        descriptor = os.open(path, _READ_FLAGS)
    except OSError as error:
        raise _cannot_open(path, error) from None
    try:
        _require_private(path, os.fstat(descriptor))
        return _read_all(path, descriptor, max_bytes)
    except OSError as error:
        raise _failed("read", path, error) from None
    finally:
        os.close(descriptor)


def digest_of_secret_file(path: Path, *, max_bytes: int = MAX_KEY_FILE_BYTES) -> Digest:
    """Return the digest of a file that is to be replaced, for `write_secret_file`; raises as `read_secret_file`."""
    with read_secret_file(path, max_bytes=max_bytes) as content:
        return digest_of(content.reveal())


def write_secret_file(path: Path, secret: Secret, *, replace: bool = False, instead_of: Digest | None = None) -> None:
    """Write `secret` to `path` atomically with mode 0600.

    Args:
        path: the file.
        secret: what it is to hold.
        replace: whether it may exist.
        instead_of: replace only a file with a content of this digest, whatever others do at the same moment.

    Raises:
        ConflictError: `key_file_exists`, unless `replace`; `key_file_changed` where another content is replaced.
        ConfigurationError: `unsafe_key_directory` when others can write to the directory;
            `unwritable_key_file` when the system refuses.
    """
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _failed("write", path, error) from None
    try:
        _require_unshared(path.parent, os.fstat(directory))
        if instead_of is None:
            _write_in(directory, path.name, secret, replace=replace)
        else:
            with _held(directory, path, instead_of):
                _write_in(directory, path.name, secret, replace=True)
    except FileExistsError:
        raise ConflictError(
            f"{path} exists already",
            reason="key_file_exists",
            fix="choose another name, or ask for the file to be replaced",
        ) from None
    except OSError as error:
        raise _failed("write", path, error) from None
    finally:
        os.close(directory)


def require_private_place(path: Path) -> None:
    """Refuse a place where `write_secret_file` would not write: for who must know before there is something to write.

    Raises:
        ConfigurationError: `unsafe_key_directory`, `unwritable_key_file`.
    """
    try:
        _require_unshared(path.parent, path.parent.stat())
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
    except OSError as error:
        raise _failed("write", path, error) from None


def make_private_directory(path: Path) -> None:
    """Make `path`, and parents that do not exist, with mode 0700; an existing one must be private already.

    Raises:
        ConfigurationError: `unsafe_key_directory` when it is not a directory of ours with mode 0700.
    """
    try:
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        for parent in reversed(missing):
            with suppress(FileExistsError):  # somebody was faster; the check below decides
                parent.mkdir(mode=0o700)
        status = path.lstat()
    except OSError as error:
        raise _failed("write", path, error) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
        raise ConfigurationError(
            f"{path} is not a directory that belongs to this user alone",
            reason="unsafe_key_directory",
            fix=f"chmod 700 {path}",
        )


def write_key(path: Path, key: SigningKey | TlsKey, *, replace: bool = False) -> None:
    """Write a private key as PKCS #8 PEM; raises as `write_secret_file`."""
    with key_to_pem(key) as pem:
        write_secret_file(path, pem, replace=replace)


def read_signing_key(path: Path) -> SigningKey:
    """Read an Ed25519 key; raises as `read_secret_file`, or `ConfigurationError` with reason `bad_key`."""
    with read_secret_file(path) as pem:
        return signing_key_from_pem(pem)


def read_tls_key(path: Path) -> TlsKey:
    """Read a P-256 key; raises as `read_secret_file`, or `ConfigurationError` with reason `bad_key`."""
    with read_secret_file(path) as pem:
        return TlsKey.from_pem(pem)


def _require_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"{path} is not a regular file", reason="unsafe_key_file")
    if status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{path} belongs to another user", reason="unsafe_key_file", fix=f"chown $(id -u) {path}"
        )
    if status.st_mode & _OTHERS:
        raise ConfigurationError(
            f"other users may open {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            reason="unsafe_key_file",
            fix=f"chmod 600 {path}",
        )


def _require_unshared(path: Path, status: os.stat_result) -> None:
    # Whoever can write to the directory can replace the file after it was written.
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & _OTHERS_WRITE:
        raise ConfigurationError(
            f"other users may write to the directory {path}",
            reason="unsafe_key_directory",
            fix=f"chmod go-w {path}",
        )


def _read_all(path: Path, descriptor: int, max_bytes: int) -> Secret:
    buffer = bytearray(max_bytes + 1)
    try:
        length = 0
        while length <= max_bytes and (count := os.readv(descriptor, [memoryview(buffer)[length:]])):
            length += count
        if length > max_bytes:
            raise ConfigurationError(f"{path} is larger than {max_bytes} bytes", reason="key_file_too_large")
        with memoryview(buffer)[:length] as view:
            return Secret(bytes(view))
    finally:
        buffer[:] = bytes(len(buffer))


def _write_in(directory: int, name: str, secret: Secret, *, replace: bool) -> None:
    temporary = f".{name}.{token_hex(8)}.tmp"
    descriptor = os.open(temporary, _WRITE_FLAGS, 0o600, dir_fd=directory)
    try:
        try:
            _write_all(descriptor, secret.reveal())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if replace:
            os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        else:
            # A hard link, unlike a rename, fails when the name is taken: no window between check and use.
            os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
    os.fsync(directory)


@contextmanager
def _held(directory: int, path: Path, content: Digest) -> Iterator[None]:
    """Hold a file with this content: nobody who holds it too replaces it meanwhile."""
    descriptor = os.open(path.name, _READ_FLAGS, dir_fd=directory)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Who waited for the lock may have got that of a file which was replaced.
        there = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
        size = os.fstat(descriptor).st_size
        with _read_all(path, descriptor, size) as found:
            same = os.path.samestat(os.fstat(descriptor), there) and digest_of(found.reveal()) == content
        if not same:
            raise ConflictError(
                f"{path} was changed meanwhile: it is left as it is now",
                reason="key_file_changed",
                fix="look who changed it, and do it again",
            )
        yield
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _cannot_open(path: Path, error: OSError) -> ConfigurationError:
    if isinstance(error, FileNotFoundError):
        return ConfigurationError(f"{path} does not exist", reason="missing_key_file")
    if error.errno == ELOOP:
        return ConfigurationError(
            f"{path} is a symbolic link", reason="unsafe_key_file", fix="name the file itself, not a link to it"
        )
    return _failed("read", path, error)


def _failed(verb: str, path: Path, error: OSError) -> ConfigurationError:
    reason = "unreadable_key_file" if verb == "read" else "unwritable_key_file"
    return ConfigurationError(f"cannot {verb} {path}: {error.strerror}", reason=reason)
