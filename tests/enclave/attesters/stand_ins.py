"""Stand-ins for drivers, with the rules of the real ones as their source says (Linux: virt/coco, misc/nsm.c; Gramine).

Files are behind the port `Attributes`, because no plain file can refuse a length, count writes, or give an answer that
depends on what was written.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
from tests.attestation.tee.nitro import maker

from aigovtool.attestation.binding import Binding

REPORTS = Path("/sys/kernel/config/tsm/report")
GRAMINE = Path("/dev/attestation")


def claims(**other: Any) -> Binding:
    """Return a session's claims."""
    usual: dict[str, Any] = {
        "role": "session",
        "audience": "consumer:radiology",
        "nonce": "11" * 32,
        "tls_spki": b"\x22" * 32,
        "hpke_key": b"\x33" * 32,
        "identity_key": b"\x44" * 32,
        "instance": "55" * 32,
        "custodian_root": "66" * 32,
        "configuration": "sha256:" + "77" * 32,
        "appraisal_policy": "sha256:" + "88" * 32,
        "manifests": (),
    }
    return Binding(**(usual | other))


def open_files() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def refused(number: int, path: Path) -> OSError:
    """Return what the kernel's answer becomes in Python."""
    return OSError(number, os.strerror(number), str(path))


@dataclass
class Entry:
    """One directory of configfs-tsm."""

    written: int = 0
    read: int = -1
    inblob: bytes = b""
    privlevel: int = 0
    outblob: bytes = b""


@dataclass
class TsmKernel:
    """A kernel with configfs-tsm; `calls` is everything that it was asked, in order.

    `before` is called first in every operation, with its name and path: what another process does in between, or an
    `OSError` that the kernel answers with.
    """

    provider: str | None = "sev_guest"
    auxblob: bytes | None = b"table"
    floor: int | None = 0
    mounted: bool = True
    report: Callable[[bytes, int], bytes] = lambda inblob, privlevel: (
        bytes(80) + inblob + bytes([privlevel]) + bytes(1039)
    )
    before: Callable[[str, Path], None] = lambda operation, path: None
    entries: dict[str, Entry] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)
    calls: list[tuple[str, str]] = field(default_factory=list)

    def exists(self, path: Path) -> bool:
        if path.parent.name in self.entries:
            return path.name in self._attributes()
        return str(path) in self.devices

    def make(self, path: Path) -> None:
        self._called("make", path)
        if not self.mounted:
            raise refused(errno.ENOENT, path)
        if self.provider is None:
            raise refused(errno.ENXIO, path)
        if path.name in self.entries:
            raise refused(errno.EEXIST, path)
        self.entries[path.name] = Entry()

    def remove(self, path: Path) -> None:
        self._called("remove", path)
        if path.name not in self.entries:
            raise refused(errno.ENOENT, path)
        del self.entries[path.name]

    def read(self, path: Path, most: int) -> bytes:
        self._called("read", path)
        entry = self._entry(path)
        match path.name:
            case "provider":
                found = f"{self.provider}\n".encode()
            case "generation":
                found = f"{entry.written}\n".encode()
            case "privlevel_floor":
                found = f"{self.floor}\n".encode()
            case "outblob":
                found = self._report(entry, path)
            case "auxblob":
                self._report(entry, path)
                found = self.auxblob or b""
            case _:
                raise refused(errno.EACCES, path)
        if len(found) > most:
            raise refused(errno.EFBIG, path)
        return found

    def write(self, path: Path, data: bytes) -> None:
        self._called("write", path)
        entry = self._entry(path)
        match path.name:
            case "inblob":
                if len(data) > 64:
                    raise refused(errno.EFBIG, path)
                entry.inblob = data
            case "privlevel":
                level = int(data)
                if not (self.floor or 0) <= level <= 3:
                    raise refused(errno.EINVAL, path)
                entry.privlevel = level
            case _:
                raise refused(errno.EACCES, path)
        entry.written += 1

    def _called(self, operation: str, path: Path) -> None:
        self.calls.append((operation, path.name if path.parent != REPORTS else "entry"))
        self.before(operation, path)

    def _attributes(self) -> set[str]:
        present = {"provider", "generation", "inblob", "outblob"}
        present |= {"auxblob"} if self.auxblob is not None else set()
        return present | ({"privlevel", "privlevel_floor"} if self.floor is not None else set())

    def _entry(self, path: Path) -> Entry:
        if path.parent.name not in self.entries or path.name not in self._attributes():
            raise refused(errno.ENOENT, path)
        return self.entries[path.parent.name]

    def _report(self, entry: Entry, path: Path) -> bytes:
        if entry.read != entry.written:
            # The drivers of both platforms take 64 bytes and nothing else, and say so only when they are read from.
            if len(entry.inblob) != 64:
                raise refused(errno.EINVAL, path)
            entry.outblob, entry.read = self.report(entry.inblob, entry.privlevel), entry.written
        return entry.outblob


@dataclass
class Gramine:
    """Gramine's pseudo-files."""

    kind: str = "dcap"
    user_report_data: bytes = bytes(64)
    quote: Callable[[bytes], bytes] = lambda user_report_data: b"\x03\x00" + bytes(366) + user_report_data + bytes(4096)
    before: Callable[[str, Path], None] = lambda operation, path: None
    calls: list[tuple[str, str]] = field(default_factory=list)

    def exists(self, path: Path) -> bool:
        return path.parent == GRAMINE and path.name in {"attestation_type", "user_report_data", "quote"}

    def make(self, path: Path) -> None:
        raise refused(errno.EACCES, path)

    def remove(self, path: Path) -> None:
        raise refused(errno.EACCES, path)

    def read(self, path: Path, most: int) -> bytes:
        self._called("read", path)
        found = f"{self.kind}\n".encode() if path.name == "attestation_type" else self.quote(self.user_report_data)
        if len(found) > most:
            raise refused(errno.EFBIG, path)
        return found

    def write(self, path: Path, data: bytes) -> None:
        self._called("write", path)
        if path.name != "user_report_data" or len(data) > 64:
            raise refused(errno.EINVAL, path)
        self.user_report_data = data.ljust(64, b"\x00")

    def _called(self, operation: str, path: Path) -> None:
        self.calls.append((operation, path.name))
        self.before(operation, path)
        if not self.exists(path) or (self.kind == "none" and path.name != "attestation_type"):
            raise refused(errno.ENOENT, path)


@dataclass
class SecureModule:
    """The driver of `/dev/nsm` with a module behind it, whose documents the self-made chain signs.

    `answer` replaces what the module says: it is given the decoded request.
    """

    answer: Callable[[Any], bytes] | None = None
    error: int | None = None
    requests: list[bytes] = field(default_factory=list)
    commands: list[int] = field(default_factory=list)

    def ioctl(self, file: int, command: int, argument: bytearray) -> int:
        os.fstat(file)  # EBADF for a descriptor that is not open
        self.commands.append(command)
        if command != 0xC0200A00 or len(argument) != 32:
            raise refused(errno.EINVAL, Path("/dev/nsm"))
        asked, asked_size, answered, answered_size = struct.unpack("=4Q", argument)
        if asked_size > 0x1000:
            raise refused(errno.EMSGSIZE, Path("/dev/nsm"))
        if self.error is not None:
            raise refused(self.error, Path("/dev/nsm"))
        request = ctypes.string_at(asked, asked_size)
        self.requests.append(request)
        response = (self.answer or module_answer)(cbor2.loads(request))[:answered_size]
        ctypes.memmove(answered, response, len(response))
        argument[24:] = struct.pack("=Q", len(response))
        return 0


def module_answer(request: Any) -> bytes:
    """Return what the module answers to a request: a document, or the name of an error."""
    if not isinstance(request, dict) or set(request) != {"Attestation"}:
        return cbor2.dumps({"Error": "InvalidOperation"})
    asked = request["Attestation"]
    if set(asked) != {"user_data", "nonce", "public_key"}:
        return cbor2.dumps({"Error": "InvalidArgument"})
    if any(value is not None and len(value) > 1024 for value in asked.values()):
        return cbor2.dumps({"Error": "InputTooLarge"})
    return cbor2.dumps({"Attestation": {"document": maker.document(**asked)}})
