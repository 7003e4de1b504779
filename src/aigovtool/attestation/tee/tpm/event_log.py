"""What firmware and boot loaders measured: the crypto-agile event log (TCG PC Client Firmware Profile 1.06, 10).

The log is a claim of the machine's. Its digests are believed once their replay gives what the TPM (or the TDX module)
has signed; of event data, only what is hashed as a whole into its digest is compared here, and nothing is returned.
Logs of the old form, with SHA-1 alone, are refused. All integers are little-endian.

The log of a TD (CCEL) has the same form; its registers 1 to 4 are RTMR0 to RTMR3.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from aigovtool.attestation.event_list import EventList, replay
from aigovtool.attestation.model import Label, MeasuredEvents, MeasurementHex
from aigovtool.errors import EvidenceError
from aigovtool.limits import MAX_EVENTS

#: A log of a server with many option ROMs has some hundred KiB.
MAX_LOG_BYTES: Final = 1 << 20
#: In all registers together.
MAX_LOG_EVENTS: Final = 4 * MAX_EVENTS

EV_NO_ACTION: Final = 0x00000003
EV_SEPARATOR: Final = 0x00000004
EV_S_CRTM_VERSION: Final = 0x00000008
EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x80000001
EV_EFI_ACTION: Final = 0x80000007
#: Events whose digest is that of their data as it stands in the log (10.4.1).
HASHED: Final = frozenset({EV_SEPARATOR, EV_S_CRTM_VERSION, EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EFI_ACTION})

_SIGNATURE: Final = b"Spec ID Event03\0"
_STARTUP_LOCALITY: Final = b"StartupLocality\0"
#: TPM_ALG_ID, digest size, name for hashlib.
_ALGORITHMS: Final = {
    0x0004: (20, "sha1"),
    0x000B: (32, "sha256"),
    0x000C: (48, "sha384"),
    0x000D: (64, "sha512"),
    0x0012: (32, ""),  # SM3-256: carried, never used
    0x0027: (32, "sha3_256"),
    0x0028: (48, "sha3_384"),
    0x0029: (64, "sha3_512"),
}
_NO_REGISTER: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event: `digests` by the algorithm's name, `data` as it stands in the log."""

    register: int
    kind: int
    digests: Mapping[str, bytes]
    data: bytes


@dataclass(frozen=True, slots=True)
class EventLog:
    """A log that was read to its end.

    Attributes:
        banks: names of the algorithms that every event has a digest of.
        events: all that were extended, in their order: those of type EV_NO_ACTION are left out.
        startup_locality: from which locality the TPM was started (0, 3 or 4); PCR 0 starts with it.
    """

    banks: frozenset[str]
    events: tuple[LoggedEvent, ...]
    startup_locality: int

    def registers(self) -> tuple[int, ...]:
        """Return the registers that have events, ascending."""
        return tuple(sorted({event.register for event in self.events}))

    def digests(self, register: int, bank: str) -> tuple[MeasurementHex, ...]:
        """Return what was extended into `register`, in its order.

        Raises:
            EvidenceError: `log_bank` when the log has no digests of this bank.
        """
        if bank not in self.banks:
            raise EvidenceError(f"the event log has no {bank} digests", reason="log_bank")
        return tuple(MeasurementHex(one.digests[bank].hex()) for one in self.events if one.register == register)

    def replay(self, bank: str) -> dict[int, MeasurementHex]:
        """Return what each register with events holds after them.

        Raises:
            EvidenceError: `log_bank`.
        """
        return {
            register: replay(self.digests(register, bank), bank, first_value(register, self.startup_locality, bank))
            for register in self.registers()
        }

    def event_list(
        self, bank: str, registers: Collection[int], label: Callable[[int], str] = lambda index: f"pcr{index}"
    ) -> EventList:
        """Return the digests of those of `registers` that have events, as they travel; `label` names a register.

        Raises:
            EvidenceError: `log_bank`.
        """
        return EventList(
            registers=tuple(
                MeasuredEvents(register=Label(label(register)), digests=self.digests(register, bank))
                for register in self.registers()
                if register in registers
            )
        )


def first_value(register: int, startup_locality: int, bank: str) -> bytes:
    """Return what a PCR holds before the first event: zero, but for PCR 0 the locality in its last byte (10.4.5.3)."""
    size = hashlib.new(bank).digest_size
    return bytes(size - 1) + bytes([startup_locality if register == 0 else 0])


def parse_log(data: bytes) -> EventLog:
    """Return the crypto-agile event log in `data`; 0xFF to the end is padding.

    Raises:
        EvidenceError: `log_size`, `log_format` (not crypto-agile), `log_encoding` (cut, or not as announced),
            `log_event_data` (data that does not hash to its digest).
    """
    if len(data) > MAX_LOG_BYTES:
        raise EvidenceError(f"an event log of {len(data)} bytes; at most {MAX_LOG_BYTES} are read", reason="log_size")
    read = _LogReader(data)
    algorithms = _header(read)
    events: list[LoggedEvent] = []
    locality: int | None = None
    while not read.at_end():
        event = _event(read, algorithms)
        if event.kind != EV_NO_ACTION:
            _require_data(event)
            events.append(event)
        elif event.data.startswith(_STARTUP_LOCALITY):
            locality = _locality(event, locality, events)
        if len(events) > MAX_LOG_EVENTS:
            raise EvidenceError(f"more than {MAX_LOG_EVENTS} events", reason="log_size")
    banks = frozenset(name for _, name in algorithms.values() if name)
    return EventLog(banks, tuple(events), locality or 0)


class _LogReader:
    def __init__(self, data: bytes) -> None:
        self._data: Final = data
        self._at = 0

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise _bad("ends within an event")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def at_end(self) -> bool:
        """Return whether nothing or only padding is left; a register number alone may be 0xFFFFFFFF, too."""
        if self._data[self._at : self._at + 8] not in {b"", b"\xff" * 8}:
            return False
        if self._data.count(b"\xff", self._at) != len(self._data) - self._at:
            raise _bad("has bytes after its padding began")
        return True


def _header(read: _LogReader) -> dict[int, tuple[int, str]]:
    """Return the algorithms that the first event announces: TCG_PCR_EVENT with TCG_EfiSpecIDEvent (10.4.5.1)."""
    # Of a TPM's log this register is 0, of a TD's it is 1; nothing is extended.
    register, kind, digest, size = read.number(4), read.number(4), read.take(20), read.number(4)
    if register > 1 or kind != EV_NO_ACTION or any(digest) or size < 28:
        raise EvidenceError("the event log is not crypto-agile (SHA-1 only)", reason="log_format")
    body = _LogReader(read.take(size))
    if body.take(16) != _SIGNATURE:
        raise EvidenceError("the event log is not crypto-agile (SHA-1 only)", reason="log_format")
    body.take(4)  # platformClass
    minor, major, _, uint_size, count = body.number(1), body.number(1), body.number(1), body.number(1), body.number(4)
    if (major, minor) != (2, 0) or uint_size not in {1, 2} or not 1 <= count <= len(_ALGORITHMS):
        raise _bad("is of an unknown version")
    algorithms: dict[int, tuple[int, str]] = {}
    for _ in range(count):
        identifier, length = body.number(2), body.number(2)
        if identifier in algorithms or _ALGORITHMS.get(identifier, (-1, ""))[0] != length:
            raise _bad("announces an unknown algorithm, or one twice, or with another size")
        algorithms[identifier] = _ALGORITHMS[identifier]
    body.take(body.number(1))  # vendorInfo
    if not body.at_end():
        raise _bad("has a longer header than it says")
    if {name for _, name in algorithms.values()} <= {"sha1", ""}:
        raise EvidenceError("the event log has SHA-1 digests only", reason="log_format")
    return algorithms


def _event(read: _LogReader, algorithms: dict[int, tuple[int, str]]) -> LoggedEvent:
    """Return the next TCG_PCR_EVENT2 (10.2.2), with one digest of each announced algorithm."""
    register, kind, count = read.number(4), read.number(4), read.number(4)
    if count != len(algorithms):
        raise _bad("has an event with another number of digests than announced")
    digests: dict[str, bytes] = {}
    seen: set[int] = set()
    for _ in range(count):
        identifier = read.number(2)
        if identifier not in algorithms or identifier in seen:
            raise _bad("has an event with another digest than announced")
        seen.add(identifier)
        size, name = algorithms[identifier]
        digests[name] = read.take(size)
    digests.pop("", None)
    event = LoggedEvent(register, kind, digests, read.take(read.number(4)))
    if kind != EV_NO_ACTION and register == _NO_REGISTER:
        raise _bad("extends a register that does not exist")
    return event


def _require_data(event: LoggedEvent) -> None:
    if event.kind not in HASHED:
        return
    for name, digest in event.digests.items():
        if hashlib.new(name, event.data, usedforsecurity=False).digest() != digest:
            raise EvidenceError(
                f"an event of type {event.kind:#010x} in register {event.register} has data of another digest",
                reason="log_event_data",
            )


def _locality(event: LoggedEvent, before: int | None, events: list[LoggedEvent]) -> int:
    """Return what a StartupLocality event says (10.4.5.3): once, and before anything is measured into PCR 0."""
    late = any(one.register == 0 for one in events)
    if before is not None or late or event.register != 0 or len(event.data) != 17 or event.data[16] not in {0, 3, 4}:
        raise _bad("has a StartupLocality event that cannot be")
    return event.data[16]


def _bad(problem: str) -> EvidenceError:
    return EvidenceError(f"the event log {problem}", reason="log_encoding")
