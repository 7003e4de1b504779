"""Event logs of firmware: changed, and read beside the product by hand (TCG PC Client Firmware Profile 1.06, 10)."""

from dataclasses import dataclass, field
from hashlib import new as hashed
from random import Random
from typing import Final, cast

from conformance.malformed import edits

from aigovtool.attestation.tee.tpm.event_log import EventLog, parse_log
from aigovtool.errors import EvidenceError
from assurance.parsers.parser import Kind, Parts

#: TPM_ALG_ID, name for hashlib, size; SM3 is carried and has no name here.
_ALGORITHMS: Final = {
    0x04: ("sha1", 20),
    0x0B: ("sha256", 32),
    0x0C: ("sha384", 48),
    0x0D: ("sha512", 64),
    0x12: ("", 32),
    0x27: ("sha3_256", 32),
    0x28: ("sha3_384", 48),
    0x29: ("sha3_512", 64),
}
_NO_ACTION: Final = 3
_HASHED: Final = (0x00000004, 0x00000008, 0x80000001, 0x80000007)
_MOST_BYTES, _MOST_EVENTS = 1 << 20, 16_384
_SPEC: Final = b"Spec ID Event03\0"
_STARTED: Final = b"StartupLocality\0"
_NUMBERS: Final = (0, 1, 2, 3, 4, 5, 23, 24, 29, 2**16, 2**31 - 1, 2**31, 2**32 - 1)


# --- Making --------------------------------------------------------------------------------------


def _number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def event(register: int, kind: int, data: bytes, algorithms: tuple[int, ...]) -> bytes:
    """Return an event with the digests of its data; of one that extends nothing they are zero."""
    digests = b"".join(
        _number(one, 2) + (hashed(name, data).digest() if name and kind != _NO_ACTION else bytes(size))
        for one in algorithms
        for name, size in [_ALGORITHMS[one]]
    )
    return _number(register) + _number(kind) + _number(len(algorithms)) + digests + _number(len(data)) + data


def log(*algorithms: int, locality: int | None = None, register: int = 0) -> bytes:
    """Return a log with digests of these algorithms; of a TD its first event is in register 1."""
    head = _SPEC + _number(0) + b"\0\2\0\2" + _number(len(algorithms))
    head += b"".join(_number(one, 2) + _number(_ALGORITHMS[one][1], 2) for one in algorithms) + b"\0"
    found = [_number(register) + _number(_NO_ACTION) + bytes(20) + _number(len(head)) + head]
    if locality is not None:
        found.append(event(0, _NO_ACTION, _STARTED + bytes([locality]), algorithms))
    for at, kind, data in ((register, 8, b"firmware"), (4, 4, bytes(4)), (4, 0xD, b"loader"), (2, 0x80000007, b"x")):
        found.append(event(at, kind, data, algorithms))
    return b"".join(found)


def edit(data: bytes, chance: Random) -> bytes:
    """Change a log once or twice: more events, padding, numbers, or bytes."""
    for _ in range(chance.choice((1, 1, 2))):
        match chance.randrange(6):
            case 0:
                data += _more(chance)
            case 1:
                data += chance.choice((b"\xff", b"\xff" * 8, b"\xff" * 64, b"\0", b"\xff" * 8 + b"\0"))
            case 2 | 3:
                at = max(0, data.find(bytes(3), chance.randrange(len(data) + 1)) - 1)  # where a small number may end
                data = data[:at] + _number(chance.choice(_NUMBERS)) + data[at + 4 :]
            case _:
                data = edits.edit(data, chance)
    return data


def _more(chance: Random) -> bytes:
    """Return another event: of any register and type, of a locality, or very many."""
    algorithms = chance.choice(((0x0B,), (0x0B,), (0x04, 0x0B, 0x0C), (0x0C, 0x0D), (0x0B, 0x12)))
    kind = chance.choice((_NO_ACTION, 4, 5, 13, 0x80000001))
    content = chance.choice((b"more", _STARTED + b"\3", _STARTED + b"\1", _STARTED, b""))
    times = chance.choice((1,) * 30 + (2, _MOST_EVENTS + 1))
    return event(chance.choice((0, 1, 4, 23, 2**31, 2**32 - 1)), kind, content, algorithms) * times


# --- Reading -------------------------------------------------------------------------------------


class NoLogError(Exception):
    """The bytes are no event log."""


@dataclass
class _Bytes:
    data: bytes
    at: int = 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise NoLogError("it is cut")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int = 4) -> int:
        return int.from_bytes(self.take(size), "little")

    def ended(self) -> bool:
        """Return whether all is read, but for padding: eight bytes of it and more, or none."""
        if self.data[self.at : self.at + 8] not in {b"", b"\xff" * 8}:
            return False
        if self.data[self.at :].strip(b"\xff"):
            raise NoLogError("something after the padding")
        return True


Event = tuple[int, int, dict[str, bytes], bytes]


@dataclass
class ReadLog:
    """A log as it is read by hand: of each event its register, type, digests and data."""

    banks: frozenset[str] = frozenset()
    events: list[Event] = field(default_factory=list)
    localities: list[int] = field(default_factory=list)

    @property
    def locality(self) -> int:
        """Where the TPM was started."""
        return (self.localities or [0])[0]

    def digests(self, register: int, bank: str) -> list[str]:
        """Return what was extended into a register, in hexadecimal."""
        return [digests[bank].hex() for at, _, digests, _ in self.events if at == register]


def by_hand(data: bytes) -> ReadLog:
    """Return what is in a log.

    Raises:
        NoLogError: it is none.
    """
    source = _Bytes(data)
    _require(len(data) <= _MOST_BYTES, "too large")
    _require(source.number() <= 1 and source.number() == _NO_ACTION and not any(source.take(20)), "no first event")
    algorithms = _announced(source.take(source.number()))
    found = ReadLog(frozenset(_ALGORITHMS[one][0] for one in algorithms) - {""})
    while not source.ended():
        register, kind, digests, content = one = _event(source, algorithms)
        if kind != _NO_ACTION:
            matching = all(hashed(name, content).digest() == digest for name, digest in digests.items())
            _require(register != 2**32 - 1, "no such register")
            _require(kind not in _HASHED or matching, "data of another digest")
            found.events.append(one)
        elif content[:16] == _STARTED:
            early = not found.localities and all(before[0] != 0 for before in found.events)
            _require(early and register == 0 and content[16:] in {b"\0", b"\3", b"\4"}, "no such start")
            found.localities.append(content[16])
        _require(len(found.events) <= _MOST_EVENTS, "too many events")
    return found


def _event(source: _Bytes, algorithms: list[int]) -> Event:
    register, kind, count = source.number(), source.number(), source.number()
    _require(count == len(algorithms), "another number of digests")
    digests = {}
    for _ in range(count):
        identifier = source.number(2)
        _require(identifier in algorithms and identifier not in digests, "another digest")
        digests[identifier] = source.take(_ALGORITHMS[identifier][1])
    named = {_ALGORITHMS[one][0]: digest for one, digest in digests.items() if _ALGORITHMS[one][0]}
    return register, kind, named, source.take(source.number())


def _announced(body: bytes) -> list[int]:
    source = _Bytes(body)
    _require(source.take(16) == _SPEC, "another signature")
    source.take(4)
    _require(source.take(2) == b"\0\2", "another version")
    source.take(1)
    _require(source.take(1) in {b"\1", b"\2"}, "another size of integers")
    count = source.number()
    _require(1 <= count <= len(_ALGORITHMS), "another number of algorithms")
    pairs = [(source.number(2), source.number(2)) for _ in range(count)]
    _require(all(_ALGORITHMS.get(one, ("", -1))[1] == size for one, size in pairs), "an unknown algorithm")
    found = [one for one, _ in pairs]
    _require(len(set(found)) == count and set(found) - {0x04, 0x12} != set(), "algorithms twice, or old ones only")
    source.take(source.number(1))
    _require(source.ended(), "a header that is longer than it says")
    return found


def _require(holds: object, problem: str) -> None:
    if not holds:
        raise NoLogError(problem)


# --- Judging -------------------------------------------------------------------------------------


def _wrong(parts: Parts, value: object) -> str | None:
    found = cast("EventLog", value)
    try:
        read = by_hand(parts[0])
    except NoLogError as error:
        return f"a log is taken that is none by hand: {error}"
    events = [(one.register, one.kind, dict(one.digests), one.data) for one in found.events]
    same = (found.banks, events, found.startup_locality) == (read.banks, read.events, read.locality)
    return None if same else "a log is read otherwise than by hand"


def _refused_wrongly(parts: Parts, _error: Exception) -> str | None:
    try:
        by_hand(parts[0])
    except NoLogError:
        return None
    return "a log is refused that is one by hand"


def kind() -> Kind:
    """Return the kind of inputs that are event logs."""
    logs = (log(0x0B), log(0x04, 0x0B, 0x0C) + b"\xff" * 40, log(0x0B, 0x12, locality=3), log(0x0C, 0x0D, locality=0))
    return Kind(
        name="event-logs",
        genuine=tuple((one,) for one in (*logs, log(0x0C, register=1))),
        edit=lambda parts, chance: (edit(parts[0], chance),),
        read=lambda parts: parse_log(parts[0]),
        wrong=_wrong,
        refusals=(EvidenceError,),
        refused_wrongly=_refused_wrongly,
        weight=4,
    )
