"""The report of the simulated TEE, byte by byte (spec: attestation, section 6.1).

One report has one encoding: exact length, little-endian integers, and every reserved bit and byte is zero, so that
there is no bit of a report that can be changed unnoticed. The first 0x100 bytes are signed.
"""

import struct
from dataclasses import dataclass
from typing import Final

from aigovtool.errors import EvidenceError

MAGIC: Final = b"AIGVSIM\x00"
VERSION: Final = 1

REPORT_BYTES: Final = 0x140
SIGNED_BYTES: Final = 0x100

MAGIC_OFFSET: Final = 0x00
VERSION_OFFSET: Final = 0x08
FLAGS_OFFSET: Final = 0x0C
TCB_OFFSET: Final = 0x10
CHIP_ID_OFFSET: Final = 0x20
MEASUREMENT_OFFSET: Final = 0x40
REPORT_DATA_OFFSET: Final = 0x80
HOST_DATA_OFFSET: Final = 0xC0
SIGNATURE_OFFSET: Final = 0x100

FLAG_DEBUG: Final = 1 << 0
FLAG_MEMORY_ENCRYPTION: Final = 1 << 1

CHIP_ID_BYTES: Final = 32
MEASUREMENT_BYTES: Final = 48
REPORT_DATA_BYTES: Final = 64
HOST_DATA_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

#: The components of the TCB version in the order of the report, two bytes each.
TCB_COMPONENTS: Final = ("loader", "firmware", "microcode")
#: Half-open ranges that must be zero.
RESERVED: Final = ((0x16, 0x20), (0x70, 0x80), (0xE0, 0x100))

_HEAD: Final = struct.Struct("<8sII3H")
_KNOWN_FLAGS: Final = FLAG_DEBUG | FLAG_MEMORY_ENCRYPTION


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A parsed report. `tcb` has one number (0 to 65,535) per name of `TCB_COMPONENTS`.

    Raises:
        EvidenceError: with reason `report_field` for a field of another size.
    """

    debug: bool
    memory_encryption: bool
    tcb: tuple[int, int, int]
    chip_id: bytes
    measurement: bytes
    report_data: bytes
    host_data: bytes

    def __post_init__(self) -> None:
        sizes = {
            "chip_id": (self.chip_id, CHIP_ID_BYTES),
            "measurement": (self.measurement, MEASUREMENT_BYTES),
            "report_data": (self.report_data, REPORT_DATA_BYTES),
            "host_data": (self.host_data, HOST_DATA_BYTES),
        }
        for name, (value, size) in sizes.items():
            if len(value) != size:
                raise EvidenceError(f"{name} has {size} bytes, not {len(value)}", reason="report_field")
        if len(self.tcb) != len(TCB_COMPONENTS) or not all(0 <= part <= 0xFFFF for part in self.tcb):
            raise EvidenceError("a TCB version is three numbers of 16 bits", reason="report_field")


def compose(report: Report) -> bytes:
    """Return the signed part of a report, `SIGNED_BYTES` long."""
    flags = FLAG_DEBUG * report.debug | FLAG_MEMORY_ENCRYPTION * report.memory_encryption
    data = bytearray(SIGNED_BYTES)
    _HEAD.pack_into(data, 0, MAGIC, VERSION, flags, *report.tcb)
    for offset, value in (
        (CHIP_ID_OFFSET, report.chip_id),
        (MEASUREMENT_OFFSET, report.measurement),
        (REPORT_DATA_OFFSET, report.report_data),
        (HOST_DATA_OFFSET, report.host_data),
    ):
        data[offset : offset + len(value)] = value
    return bytes(data)


def parse(data: bytes) -> tuple[Report, bytes]:
    """Return the report in `data` and its signature (64 bytes, not verified here).

    Raises:
        EvidenceError: with reason `report_length`, `report_magic`, `report_version`, `report_flags` or
            `report_reserved`.
    """
    _require(f"a report has {REPORT_BYTES} bytes, not {len(data)}", "report_length", holds=len(data) == REPORT_BYTES)
    magic, version, flags, *tcb = _HEAD.unpack_from(data)
    _require("not a report of the simulated TEE", "report_magic", holds=magic == MAGIC)
    _require(f"report version {version} is not known", "report_version", holds=version == VERSION)
    _require("a report sets unknown flags", "report_flags", holds=flags & ~_KNOWN_FLAGS == 0)
    for start, end in RESERVED:
        _require(
            f"reserved bytes {start:#x} to {end:#x} are not zero", "report_reserved", holds=not any(data[start:end])
        )
    report = Report(
        debug=bool(flags & FLAG_DEBUG),
        memory_encryption=bool(flags & FLAG_MEMORY_ENCRYPTION),
        tcb=(tcb[0], tcb[1], tcb[2]),
        chip_id=data[CHIP_ID_OFFSET : CHIP_ID_OFFSET + CHIP_ID_BYTES],
        measurement=data[MEASUREMENT_OFFSET : MEASUREMENT_OFFSET + MEASUREMENT_BYTES],
        report_data=data[REPORT_DATA_OFFSET : REPORT_DATA_OFFSET + REPORT_DATA_BYTES],
        host_data=data[HOST_DATA_OFFSET : HOST_DATA_OFFSET + HOST_DATA_BYTES],
    )
    return report, data[SIGNATURE_OFFSET:]


def _require(message: str, reason: str, *, holds: bool) -> None:
    if not holds:
        raise EvidenceError(message, reason=reason)
