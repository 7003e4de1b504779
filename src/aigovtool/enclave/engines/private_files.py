"""A file system of the engine child's own, in memory: what ONNX Runtime maps, it need not copy.

A library that is given a model in buffers copies it once or twice; one that finds it in files maps it. So the child
has a file system (tmpfs) that no other process sees and that ends with it, and it is all that the child sees: its root.
The plaintext of a model lies there while the model is loaded. Then its files are unlinked: what the library still maps
stays, and nothing else.

Rules:

1. It is made before the sandbox closes, with the privilege of root, or within a user namespace; where neither is
   allowed (containers often forbid both), models are loaded from buffers.
2. It is memory: taken before it is written to (a page of a mapped file that is not there would end the process), and
   counted against the bound of addresses while a model is loaded, since its files stay mapped until then.
3. It is not swapped out where memory is locked: a mapped page of a file is locked as any other is, and what the library
   keeps mapped is all there before this lets go of it. Where it can be had, `noswap` (Linux 6.4, not in a user
   namespace) keeps all of it in memory anyhow.

Sources: Linux man pages unshare(2), open_tree(2), mount_namespaces(7), user_namespaces(7), tmpfs(5), chroot(2),
mlockall(2), madvise(2) MADV_POPULATE_READ, prctl(2) PR_SET_DUMPABLE;
Documentation/admin-guide/mm/transhuge.rst (`huge=`).
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from aigovtool.errors import EngineError, PackageError

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_MS_NOSUID_NODEV_NOEXEC: Final = 0x2 | 0x4 | 0x8
_MS_REC_PRIVATE: Final = 0x4000 | 0x40000
_MS_BIND: Final = 0x1000
_OPEN_TREE: Final = 428  # on each architecture
_AT_FDCWD: Final = -100
_CLONE_ALL: Final = 0x1 | 0x8000 | os.O_CLOEXEC  # OPEN_TREE_CLONE | AT_RECURSIVE
_MNT_DETACH: Final = 0x2
_POPULATE_READ: Final = 22  # MADV_POPULATE_READ, Linux 5.14
_PUNCH_HOLE: Final = 0x1 | 0x2  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
#: A package has up to 1,024 files in up to 7 folders each. Names take memory of the kernel, which nothing else bounds.
_MOST_NAMES: Final = 16_384
#: ONNX Runtime looks here where a file of weights really lies that it has opened.
_DESCRIPTORS: Final = "proc/self/fd"
#: And this says what it still maps of one.
_MAPS: Final = "proc/self/maps"
#: Directories of which any machine has one: what lies in it is not to be seen from then on, in this process alone.
_PLACES: Final = ("/tmp", "/run", "/var/tmp", "/mnt")  # noqa: S108 - nothing is put there: it is mounted over
#: Large pages are ten times as fast to take. Not every kernel knows each option.
_OPTIONS: Final = ("huge=within_size,noswap", "noswap", "huge=within_size", "")

_PR_SET_DUMPABLE: Final = 4
#: The name under which a graph lies.
GRAPH: Final = ".graph"

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
for _call in (_libc.munmap, _libc.mlock):
    _call.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


def enter(size_bytes: int | None) -> bool:
    """Make a file system of its own the root of this process; return whether it has one now.

    There is no way back: whatever is to be read of another one must have been read. The process must have one thread.
    It is not dumpable afterwards.

    Args:
        size_bytes: the most that its files may take, or None for as much as there is memory.
    """
    try:
        _alone()
        _mount(size_bytes)
    except OSError:
        return False
    return True


def _alone() -> None:
    """Leave the mounts that others see."""
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWNS) != 0:
        _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER))
        # Files belong to somebody: without these lines to nobody, and then none can be made.
        with _dumpable():  # its files in /proc are its own only then
            for name, of in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
                Path("/proc/self", name).write_bytes(of.encode())
    _check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None))


@contextmanager
def _dumpable() -> Iterator[None]:
    _libc.prctl(_PR_SET_DUMPABLE, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    try:
        yield
    finally:
        _check(_libc.prctl(_PR_SET_DUMPABLE, *map(ctypes.c_ulong, (0, 0, 0, 0))))


def _mount(size_bytes: int | None) -> None:
    place = next((place for place in _PLACES if Path(place).is_dir()), None)
    if place is None:
        raise FileNotFoundError
    size = "100%" if size_bytes is None else str(size_bytes)
    for options in _OPTIONS:
        text = f"mode=0700,size={size},nr_inodes={_MOST_NAMES},{options}".rstrip(",").encode()
        flags = ctypes.c_ulong(_MS_NOSUID_NODEV_NOEXEC)
        if _libc.mount(b"tmpfs", place.encode(), b"tmpfs", flags, text) == 0:
            os.chdir(place)
            _bind_own()
            _detach(place)
            return
    raise OSError(ctypes.get_errno(), "tmpfs")


def _detach(place: str) -> None:
    """Make a copy of the mounts that is mounted nowhere the root, and unmount what it was copied from.

    Without privilege the namespace of mounts belongs to the user: another process of that user that gets hold of it
    enters it, and finds what is mounted there.
    """
    call = ctypes.c_long(_OPEN_TREE)
    tree = _libc.syscall(call, ctypes.c_int(_AT_FDCWD), ctypes.c_char_p(b"."), ctypes.c_uint(_CLONE_ALL))
    if tree < 0:
        raise OSError(ctypes.get_errno(), "open_tree")
    try:
        _check(_libc.umount2(place.encode(), _MNT_DETACH))
        os.fchdir(tree)
        os.chroot(".")
    finally:
        os.close(tree)


def _bind_own() -> None:
    """Have what the kernel says of this process's descriptors and mappings: neither leads to anything that it lacks."""
    Path(_DESCRIPTORS).mkdir(parents=True)
    Path(_MAPS).touch()
    for name in (_DESCRIPTORS, _MAPS):
        _check(_libc.mount(f"/{name}".encode(), name.encode(), None, ctypes.c_ulong(_MS_BIND), None))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "")


class _Part(NamedTuple):
    """What is mapped of a file: from and to which of its bytes, and where."""

    start: int
    end: int
    address: int


class ModelFolder:
    """The files of one model while it is loaded, in a folder of their own.

    The graph lies beside the others under `GRAPH`, which is no name of a file of a package.
    """

    def __init__(self, name: str, root: Path = Path("/"), *, locked: bool = False) -> None:
        """Begin a folder; `locked` says that nothing of this process may be swapped out."""
        self._path: Final = root / name
        self._locked: Final = locked
        self._made: Final[dict[Path, None]] = {}
        self._held: Final[list[tuple[int, int]]] = []
        #: How many parts of memory this process had mapped, of anything, when this was removed; None if that cannot be
        #: told, or if a part of a file that is still mapped could not be kept as it was to be.
        self.mapped_at_end: int | None = None

    @property
    def graph(self) -> Path:
        """Where the graph lies."""
        return self._path / GRAPH

    @contextmanager
    def file(self, name: str, size_bytes: int) -> Iterator[memoryview]:
        """Make a file, and give the memory in which it lies, to be written to.

        Args:
            name: relative, `/`-separated, without "..".
            size_bytes: how long it is.

        Raises:
            EngineError: there is no memory for it (`out_of_memory`).
            PackageError: another file has a name that goes with this one not (`file_name`).
        """
        descriptor = self._create(PurePosixPath(name))
        if not size_bytes:  # nothing can be mapped of it
            os.close(descriptor)
            yield memoryview(bytearray())
            return
        try:
            mapped = self._mapped(descriptor, size_bytes)
        finally:
            os.close(descriptor)
        try:
            try:
                with memoryview(mapped) as whole, whole[:size_bytes] as view:
                    yield view
            finally:
                self._lock_last()
        finally:
            with suppress(BufferError):  # a traceback holds a part of it: it goes with that
                mapped.close()

    def _create(self, name: PurePosixPath) -> int:
        try:
            for folder in (self._path / parent for parent in reversed(name.parents)):
                if folder not in self._made:
                    folder.mkdir(0o700)
                    self._made[folder] = None
            path = self._path / name
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}:
                raise _no_memory() from None
            raise PackageError(
                f"the package has a file {name.as_posix()!r} and a folder of that name", reason="file_name"
            ) from None
        self._made[path] = None
        return descriptor

    def _mapped(self, descriptor: int, size_bytes: int) -> mmap.mmap:
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
            self._hold(descriptor, size_bytes)
            return mmap.mmap(descriptor, size_bytes)
        except OSError:
            raise _no_memory() from None

    def _hold(self, descriptor: int, size_bytes: int) -> None:
        """Map a file for as long as the folder is there: it counts against the bound, and can be locked.

        Not by `mmap.mmap`, which would hold a descriptor for each.
        """
        address = _libc.mmap(None, size_bytes, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address in {None, _MAP_FAILED}:
            raise OSError(ctypes.get_errno(), "mmap")
        self._held.append((address, size_bytes))

    def _lock_last(self) -> None:
        """Lock the file that was written last, where it must be: a page that nothing touched is not, otherwise."""
        if self._locked and _libc.mlock(*self._held[-1]) != 0:
            raise _no_memory()

    def remove(self) -> None:
        """Unlink all of it. Of a file, what the library maps stays as long as it does; the rest is given back."""
        try:
            if self._made:
                self._leave_mapped()
        except (OSError, MemoryError):  # all stays, then, of each file that is mapped, for as long as the model
            self.mapped_at_end = None
        finally:
            for path in reversed(self._made):
                with suppress(OSError):
                    path.unlink()
                with suppress(OSError):
                    path.rmdir()
            self._made.clear()
            while self._held:
                _libc.munmap(*self._held.pop())

    def _leave_mapped(self) -> None:
        """Leave of files what is still mapped of them."""
        count, mapped = 0, dict[bytes, list[_Part]]()
        ours = os.fsencode(self._path) + b"/"
        with Path("/", _MAPS).open("rb") as lines:
            for line in lines:
                count += 1
                addresses, rights, offset, _, _, *name = line.rstrip(b"\n").split(maxsplit=5)
                if name and name[0].startswith(ours) and not rights.endswith(b"s"):  # ours are shared
                    begins, ends = (int(address, 16) for address in addresses.split(b"-"))
                    start = int(offset, 16)
                    mapped.setdefault(name[0], []).append(_Part(start, start + ends - begins, begins))
        for path, parts in mapped.items():
            for part in parts if self._locked else ():
                # Locked as all that is mapped is, but only once it is there. Not by mlock: the library may write to
                # what it has mapped, and then that makes a copy of each page.
                _check(_libc.madvise(part.address, part.end - part.start, _POPULATE_READ))
            _give_back(path, sorted(parts))
        self.mapped_at_end = count


def _give_back(path: bytes, mapped: list[_Part]) -> None:
    """Free what lies between the mapped parts of a file: while one part is mapped, all of it would stay otherwise.

    Not by `madvise`: the kernel refuses it for memory that is locked, as all of this process may be.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        last, size = 0, -(-os.fstat(descriptor).st_size // mmap.PAGESIZE) * mmap.PAGESIZE
        for part in (*mapped, _Part(size, size, 0)):
            if part.start > last:
                hole = ctypes.c_long(last), ctypes.c_long(part.start - last)
                _check(_libc.fallocate(descriptor, _PUNCH_HOLE, *hole))
            last = max(last, part.end)
    finally:
        os.close(descriptor)


def _no_memory() -> EngineError:
    return EngineError("the engine has no memory for this model", reason="out_of_memory")
