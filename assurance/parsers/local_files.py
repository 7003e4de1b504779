"""What an asker's own files, the machine and its drivers say: arrays, lists of swap and of memory, answers of TEEs.

Drivers are stood in for by what they would answer, each answer changed; the attesters are the product's. What comes out
is what a reading by hand finds in the bytes, and what is whole is not refused.
"""

import ctypes
import io
import posixpath
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar, cast

import cbor2
import numpy as np
from conformance.malformed import edits, structured

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.cli.array_file import array_in, arrays_in
from aigovtool.enclave.attesters.configfs_tsm import ConfigfsTsmAttester
from aigovtool.enclave.attesters.gramine import GramineAttester
from aigovtool.enclave.attesters.nsm import NsmAttester
from aigovtool.enclave.computing import allowed_cores
from aigovtool.enclave.memory import memory_bounds, require_no_plain_swap
from aigovtool.errors import ConfigurationError, EvidenceError, InputError
from assurance.code_digest import ROOT
from assurance.machine import in_memory
from assurance.parsers.parser import Kind, Parser, Parts

T = TypeVar("T")
_DOCUMENT: Final = ROOT / "conformance" / "vectors" / "nitro" / "genuine.bin"
#: What Python takes for blanks at the ends of an ASCII text.
_BLANKS: Final = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
#: Numbers that whoever reads texts trips over.
_NUMBERS: Final = (b"0", b"1", b"-1", b"1" * 30, b"\xef\xbc\x91", b"0x1", b"1_0", b"1e3", b"(", b"{", b"'", b",", b"")


def edited(data: bytes, chance: Random) -> bytes:
    """Change bytes, or put a number, or what separates words, in the place of one."""
    if chance.random() < 0.4:
        return structured.edit(data, chance) if data else chance.randbytes(3)
    numbers = [*re.finditer(rb"[0-9]+|[ \t\n:,/()']", data)]
    if not numbers:
        return edits.edit(data, chance) if data else b"\n"
    one = chance.choice(numbers)
    return data[: one.start()] + chance.choice(_NUMBERS) + data[one.end() :]


def edit(parts: Parts, chance: Random) -> Parts:
    """Change one part or two."""
    changed = list(parts)
    for _ in range(chance.choice((1, 1, 2))):
        at = chance.randrange(len(changed))
        changed[at] = edited(changed[at], chance)
    return tuple(changed)


# --- Arrays --------------------------------------------------------------------------------------


@cache
def _arrays() -> tuple[Parts, ...]:
    made = []
    for kind, shape, order in (("<f4", (3, 4), "C"), (">i8", (2, 3), "F"), ("<U3", (2,), "C"), ("|b1", (), "C")):
        stream = io.BytesIO()
        np.save(stream, np.ones(shape, kind, order=cast("Any", order)))
        made.append((stream.getvalue(),))
    return tuple(made)


@cache
def _archives() -> tuple[Parts, ...]:
    made = []
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", packing) as archive:
            for name, (array,) in zip("ab", _arrays(), strict=False):
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), array, packing)
        made.append((stream.getvalue(),))
    return tuple(made)


def _wrong_array(parts: Parts, value: object) -> str | None:
    array = cast("np.ndarray[Any, np.dtype[Any]]", value)
    length = struct.unpack_from("<H" if parts[0][6] == 1 else "<I", parts[0], 8)[0]
    begin = 10 if parts[0][6] == 1 else 12
    header, body = parts[0][begin : begin + length].decode("ascii"), parts[0][begin + length :]
    kind, size = re.findall(r"'descr' *: *'.?([a-zA-Z])([0-9]+)'", header)[0]
    shape = [int(one) for one in re.split(r"[^0-9]+", header.partition("'shape'")[2]) if one]
    if list(array.shape) != shape or (array.dtype.kind, array.dtype.itemsize) != (
        kind,
        int(size) * (4 if kind == "U" else 1),
    ):
        return "an array of another shape or type"
    turned = "F" if "'fortran_order': True" in header or "'fortran_order':True" in header else "C"
    if len(body) != prod(shape) * array.dtype.itemsize or array.tobytes(cast("Any", turned)) != body:
        return "an array of other elements"
    return None


def _wrong_arrays(parts: Parts, value: object) -> str | None:
    """The archive is opened by the same library; its members are read by hand."""
    arrays = cast("dict[str, object]", value)
    with zipfile.ZipFile(io.BytesIO(parts[0])) as archive:
        members = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    if members.keys() != arrays.keys():
        return "other arrays than are in the archive"
    return next((wrong for name in members if (wrong := _wrong_array((members[name],), arrays[name]))), None)


# --- The machine ---------------------------------------------------------------------------------

_SWAPS: Final = (
    b"Filename\tType\t\tSize\tUsed\tPriority\n/dev/zram0    partition\t8\t0\t-2\n/dev/dm-3    partition\t8\t0\t-2\n"
)
_BEHIND: Final = "sys/block/zram0/backing_dev"
_CIPHER: Final = "sys/block/dm-3/dm/uuid"
_BOUNDS: Final = "sys/fs/cgroup/a/b/memory.max"
_TIMES: Final = "sys/fs/cgroup/a/b/cpu.max"


def _on_machine(files: dict[str, bytes], read: Callable[[Path], T]) -> T:
    with TemporaryDirectory(prefix="aigovtool-input-", dir=in_memory()) as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return read(Path(folder))


def _read_swaps(parts: Parts) -> None:
    swaps, behind, cipher = parts
    _on_machine({"proc/swaps": swaps, _BEHIND: behind, _CIPHER: cipher}, require_no_plain_swap)


def _wrong_swaps(parts: Parts, _value: object) -> str | None:
    for line in parts[0].split(b"\n")[1:]:
        name = posixpath.normpath(line.split()[0].decode("latin-1")) if line.split() else "/dev/zram1"
        device = posixpath.basename(name)
        told = parts[1].strip(_BLANKS) == b"none" if device == "zram0" else True
        if device == "dm-3":
            told = parts[2].strip(_BLANKS).startswith(b"CRYPT-")
        if not name.startswith("/dev/") or not told or not device.startswith(("zram", "dm-3")):
            return f"swap on {name!r} is taken"
    return None


def _read_bounds(parts: Parts) -> tuple[int, list[int]]:
    files = {"proc/self/cgroup": parts[0], _BOUNDS: parts[1], _TIMES: parts[2]}
    return _on_machine(files, lambda root: (memory_bounds(root).has, list(allowed_cores(root))))


def _wrong_bounds(parts: Parts, value: object) -> str | None:
    (has, cores), said = cast("tuple[int, list[int]]", value), parts[1].strip()
    if min(cores, default=1) < 1:
        return "no core at all"
    if not re.search(rb"(?m)^[^:\n]*::/*a/b(?:/[^\n]*)?$", parts[0]) or b"/.." in parts[0]:
        return None
    if re.fullmatch(rb"[0-9]{1,15}", said) and has > int(said):
        return "more memory than the group has"
    times = re.fullmatch(rb"([1-9][0-9]{0,8}) ([1-9][0-9]{0,8})\n?", parts[2])
    if times and not any((one - 1) * int(times[2]) < int(times[1]) <= one * int(times[2]) for one in cores):
        return "other cores than the group has time for"
    return None


# --- Drivers -------------------------------------------------------------------------------------


@cache
def claims() -> Binding:
    """Return what evidence is asked for."""
    digest, key = "sha256:" + "5a" * 32, "34" * 32
    return Binding(
        role="boot",
        audience=cast("Any", "custodian"),
        nonce=cast("Any", "12" * 32),
        tls_spki=cast("Any", bytes(32)),
        hpke_key=cast("Any", bytes(range(32))),
        identity_key=cast("Any", bytes(32)),
        instance=cast("Any", key),
        custodian_root=cast("Any", key),
        configuration=cast("Any", digest),
        appraisal_policy=cast("Any", digest),
        manifests=(),
    )


@dataclass
class _Driver:
    """Files of a driver that answer what they hold; `generation` is another one each time."""

    files: dict[str, bytes]
    generations: list[bytes] = field(default_factory=list)
    asked: int = 0

    def exists(self, path: Path) -> bool:
        return path.name in self.files

    def make(self, path: Path) -> None:
        del path

    def remove(self, path: Path) -> None:
        del path

    def read(self, path: Path, most: int) -> bytes:
        if path.name == "generation":
            self.asked += 1
            return self.generations[(self.asked - 1) % 2]
        if len(self.files[path.name]) > most:
            raise OSError(27, "too large", str(path))
        return self.files[path.name]

    def write(self, path: Path, data: bytes) -> None:
        del path, data


def _read_report(parts: Parts) -> Evidence:
    names = ("provider", "privlevel_floor", "outblob", "auxblob")
    driver = _Driver(dict(zip(names, parts, strict=False)), list(parts[4:]))
    return ConfigfsTsmAttester(TeeType.SEV_SNP, attributes=driver, pause=lambda _: None).attest(claims())


def _report(parts: Parts) -> tuple[bytes, tuple[bytes, ...]] | None:
    """Return what evidence there is, by hand."""
    provider, floor, report, table, *generations = parts
    texts = [one.removesuffix(b"\n") for one in (floor, *generations)]
    if provider.strip(_BLANKS) != b"sev_guest" or not all(re.fullmatch(rb"[0-9]{1,20}", one) for one in texts):
        return None
    level, before, after = map(int, texts)
    if after != before + 1 + bool(level) or claims().report_data() not in report or len(report + table) > 192 << 10:
        return None
    return report, (table,) if table else ()


def _wrong_report(parts: Parts, value: object) -> str | None:
    found = cast("Evidence", value)
    return None if (found.data, found.endorsements) == _report(parts) else "evidence that no driver gave"


def _refused_report(parts: Parts, _error: Exception) -> str | None:
    return "a whole report is refused" if _report(parts) and max(map(len, parts)) < 4096 else None


def _read_quote(parts: Parts) -> Evidence:
    driver = _Driver(dict(zip(("attestation_type", "quote"), parts, strict=True)))
    return GramineAttester(attributes=driver).attest(claims())


def _wrong_quote(parts: Parts, value: object) -> str | None:
    right = parts[0].strip(_BLANKS) == b"dcap" and claims().report_data() in parts[1]
    return None if right and cast("Evidence", value).data == parts[1] else "a quote that Gramine did not give"


@cache
def _document() -> tuple[Parts, ...]:
    """Return an answer with a genuine document that says these claims, which its signature does not cover."""
    document = cbor2.loads(_DOCUMENT.read_bytes())
    said = cbor2.loads(document[2]) | {
        "user_data": claims().report_data(),
        "nonce": bytes.fromhex(claims().nonce),
        "public_key": claims().hpke_key,
    }
    document[2] = cbor2.dumps(said)
    answer = {"Attestation": {"document": cbor2.dumps(document)}}
    return ((cbor2.dumps(answer), b""), (cbor2.dumps(answer), b"+"))


def _read_module(parts: Parts) -> Evidence:
    """Have the module answer the first part, and claim that it is longer by the length of the second."""

    def ioctl(_file: int, _command: int, argument: bytearray) -> int:
        *_, place, room = struct.unpack("=4Q", argument)
        ctypes.memmove(place, parts[0], min(room, len(parts[0])))
        argument[24:] = struct.pack("=Q", len(parts[0]) + len(parts[1]) // 2)
        return 0

    return NsmAttester(device=Path("/dev/null"), ioctl=ioctl).attest(claims())


def _wrong_module(parts: Parts, value: object) -> str | None:
    whole = parts[0] + bytes(len(parts[1]) // 2)
    answer = cbor2.loads(whole)
    given = cast("Evidence", value).data
    said = cbor2.loads(cbor2.loads(given)[2])
    wanted = (claims().report_data(), bytes.fromhex(claims().nonce), claims().hpke_key)
    if (said["user_data"], said["nonce"], said["public_key"]) != wanted:
        return "a document about other claims"
    exact = cbor2.dumps(answer) == whole
    return None if exact and answer == {"Attestation": {"document": given}} else "a document that no module gave"


def _make() -> tuple[Kind, ...]:
    report, arrays = b"v" * 80 + claims().report_data() + b"w" * 200, (InputError,)
    taken = (ConfigurationError, EvidenceError)
    reports = (b"sev_guest\n", b"0\n", report, b"table" * 20, b"7\n", b"8\n")
    return (
        _kind("arrays", _arrays(), lambda parts: array_in(parts[0]), _wrong_array, arrays),
        _kind("archives", _archives(), lambda parts: arrays_in(parts[0]), _wrong_arrays, arrays),
        _kind("swaps", ((_SWAPS, b"none\n", b"CRYPT-LUKS2-a\n"),), _read_swaps, _wrong_swaps, taken),
        _kind(
            "control-groups",
            ((b"4:cpu:/x\n0::/a/b\n", b"1073741824\n", b"100000 100000\n"),),
            _read_bounds,
            _wrong_bounds,
            (),
        ),
        Kind(
            name="reports",
            genuine=(reports, (*reports[:1], b"2", *reports[2:5], b"9")),
            edit=edit,
            read=_read_report,
            wrong=_wrong_report,
            refusals=taken,
            refused_wrongly=_refused_report,
        ),
        _kind("quotes", ((b"dcap\n", report),), _read_quote, _wrong_quote, taken),
        _kind("documents", _document(), _read_module, _wrong_module, taken),
    )


def _kind(name: str, genuine: tuple[Parts, ...], read: Any, wrong: Any, refusals: Any) -> Kind:  # noqa: ANN401
    return Kind(name=name, genuine=genuine, edit=edit, read=read, wrong=wrong, refusals=refusals)


PARSER: Final = Parser(
    name="local-files",
    claim="Arrays to ask with, and what a machine and its drivers say, are what is in them, or are refused.",
    counts="arrays and archives of arrays as numpy saves them; lists of swap space, and what control groups say; "
    "answers of the kernel for SEV-SNP, of Gramine and of the Nitro Secure Module to an attester, with bytes, numbers "
    "and what separates them changed. An array has the shape, type and bytes that are in the file by hand; no swap in "
    "the clear and no more memory or cores than are allowed are taken; evidence is what the driver gave, about the "
    "claims that were asked.",
    shows_not="what a TPM answers, which a library of others reads, nor how an archive is unpacked, which Python's "
    "library does in both readings. A host that rules the machine can say there whatever it likes.",
    covers=(
        "src/aigovtool/attestation/binding.py",
        "src/aigovtool/attestation/model.py",
        "src/aigovtool/attestation/tee/nitro",
        "src/aigovtool/cli/array_file.py",
        "src/aigovtool/codec.py",
        "src/aigovtool/enclave/attesters",
        "src/aigovtool/enclave/computing.py",
        "src/aigovtool/enclave/control_groups.py",
        "src/aigovtool/enclave/memory.py",
        "src/aigovtool/errors.py",
        "src/aigovtool/limits.py",
        "conformance/vectors/nitro/genuine.bin",
        "assurance/code_digest.py",
        "assurance/machine.py",
        "assurance/parsers/local_files.py",
    ),
    make=_make,
)
