"""What was seen of enclaves over time: an append-only file of this machine, each line bound to the one before.

```
{"at_ms":…,"enclave":"https://…","event":"verified","seen":{…},"previous":"sha256:…"}
```

A line is written when something is seen for the first time, or differs from what was seen last at that address: another
instance or platform, other measurements, policy or models, a newer key set, and whatever is not accepted, with the
reason. `previous` is the digest of the line before, so that a line which was changed or left out in the middle shows.
Lines at the end can be cut off unseen: who wants more keeps the digest of the last one, which `connect log` prints.
"""

import fcntl
import os
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from aigovtool.codec import Message, decode_signed, encode
from aigovtool.consumer.attest import Session
from aigovtool.consumer.clock import Clock
from aigovtool.errors import AIGovToolError, ConfigurationError, InputError, LogError, MalformedError
from aigovtool.ids import Digest, InstanceId, KeyId, Millis, ModelId, Units, digest_of
from aigovtool.limits import MAX_CONTROL_BODY_BYTES

#: What the first line names as the one before it.
NOTHING: Final = Digest("sha256:" + "0" * 64)
_MAX_LINE_BYTES: Final = MAX_CONTROL_BODY_BYTES
#: How many lines are shown beside the status.
_RECENT: Final = 10
_Text = Annotated[str, Meta(max_length=1000)]


class Event(StrEnum):
    """What a line tells."""

    STARTED = "started"
    VERIFIED = "verified"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    STOPPED = "stopped"


class Seen(Message, omit_defaults=True):
    """What an accepted enclave has proven."""

    tee: str
    instance: InstanceId
    tls_key: Annotated[str, Meta(min_length=64, max_length=64)]
    custodian: KeyId
    key_set: Units
    appraisal_policy: Digest
    measurements: dict[str, str]
    models: dict[ModelId, Digest]
    warnings: tuple[_Text, ...] = ()
    #: Somebody else may have ended TLS before it: all was sealed.
    sealed: bool = False


class Line(Message, omit_defaults=True):
    """One line. `code`, `reason` and `why` say why an enclave is not accepted."""

    at_ms: Millis
    event: Event
    previous: Digest
    enclave: _Text = ""
    seen: Seen | None = None
    code: _Text = ""
    reason: _Text = ""
    why: _Text = ""


class EvidenceLog:
    """Appends to one file, which one gateway at a time has open."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open it, and check all that is there already.

        Raises:
            ConfigurationError: it cannot be opened (`unwritable_log`), or another gateway has it open (`log_in_use`).
            LogError: a line in it was changed or left out (`chain`), or is none (`bad_line`).
        """
        self._clock: Final = clock
        self._file: Final = _opened(path)
        self._last: Digest = NOTHING
        self._known: Final[dict[str, tuple[object, ...]]] = {}
        self._key_sets: Final[dict[KeyId, int]] = {}
        #: The last lines, the newest last.
        self.recent: Final[deque[Line]] = deque(maxlen=_RECENT)
        try:
            for line, self._last in read_log(path, cut_last=True):
                if line.seen is not None:
                    newest = max(line.seen.key_set, self.newest_key_set(line.seen.custodian))
                    self._key_sets[line.seen.custodian] = newest
                self._known[line.enclave] = _told(line)
                self.recent.append(line)
        except BaseException:
            self.close()
            raise

    def newest_key_set(self, custodian: KeyId) -> int:
        """Return the newest version of a custodian's key set that was seen before this log was opened; 0 for none."""
        return self._key_sets.get(custodian, 0)

    def verified(self, enclave: str, session: Session) -> None:
        """Tell that an enclave was accepted, unless nothing is new about it."""
        self._tell(enclave, Event.VERIFIED, seen=_seen(session))

    def not_verified(self, enclave: str, error: AIGovToolError, *, refused: bool) -> None:
        """Tell that one was not, unless that was told already."""
        event = Event.REFUSED if refused else Event.UNREACHABLE
        self._tell(enclave, event, code=error.code, reason=error.reason or "", why=error.message[:1000])

    def model_refused(self, enclave: str, error: AIGovToolError) -> None:
        """Tell that a model of one that was accepted is not."""
        self._append(
            Line(
                at_ms=self._clock.now_ms(),
                event=Event.REFUSED,
                previous=self._last,
                enclave=enclave,
                code=error.code,
                reason=error.reason or "",
                why=error.message[:1000],
            )
        )

    def note(self, event: Event, why: str = "") -> None:
        """Tell something of the gateway itself."""
        self._append(Line(at_ms=self._clock.now_ms(), event=event, previous=self._last, why=why[:1000]))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _tell(
        self, enclave: str, event: Event, *, seen: Seen | None = None, code: str = "", reason: str = "", why: str = ""
    ) -> None:
        line = Line(
            at_ms=self._clock.now_ms(),
            event=event,
            previous=self._last,
            enclave=enclave,
            seen=seen,
            code=code,
            reason=reason,
            why=why,
        )
        if self._known.get(enclave) != _told(line):
            self._append(line)
            self._known[enclave] = _told(line)

    def _append(self, line: Line) -> None:
        content = encode(line)
        data = content + b"\n"
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)
        self._last = digest_of(content)
        self.recent.append(line)


def read_log(path: Path, *, cut_last: bool = False) -> Iterator[tuple[Line, Digest]]:
    """Yield each line and its digest, checked against the line before.

    Args:
        path: the file.
        cut_last: leave out, and cut off, a last line without its end: the gateway or the machine died while it wrote.

    Raises:
        ConfigurationError: it cannot be read.
        LogError: `chain`, `bad_line`.
    """
    previous, number, whole = NOTHING, 0, 0
    try:
        with path.open("rb") as file:
            while content := file.readline(_MAX_LINE_BYTES + 1):
                if not content.endswith(b"\n") and cut_last and len(content) <= _MAX_LINE_BYTES:
                    os.truncate(path, whole)
                    break
                number += 1
                line = _line(content, number)
                if line.previous != previous:
                    raise LogError(
                        f"line {number} does not follow the one before it: one was changed, or left out",
                        reason="chain",
                        fix="keep the file as it is for whoever looks into it, and begin a new one elsewhere",
                    )
                previous, whole = digest_of(content[:-1]), whole + len(content)
                yield line, previous
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_log") from None


def _line(content: bytes, number: int) -> Line:
    try:
        if not content.endswith(b"\n"):
            raise MalformedError("it has no end", reason="cut_off")
        return decode_signed(content[:-1], Line, max_bytes=_MAX_LINE_BYTES)
    except InputError as error:
        raise LogError(f"line {number} is none: {error.message}", reason="bad_line") from None


def _opened(path: Path) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot open {path}: {error.strerror}", reason="unwritable_log") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigurationError(
            f"{path} is in use: another gateway of this consumer runs",
            reason="log_in_use",
            fix="stop that one, or give this one a home of its own with --home",
        ) from None
    return descriptor


def _seen(session: Session) -> Seen:
    body = session.result.body
    return Seen(
        tee=body.tee.value,
        instance=session.instance,
        tls_key=session.evidence.claims.tls_spki.hex(),
        custodian=session.key_set.custodian,
        key_set=session.key_set.version,
        appraisal_policy=body.appraisal_policy,
        measurements={one.name: one.digest for one in body.measurements},
        models=dict(sorted(session.models.items())),
        warnings=session.warnings,
        sealed=session.body_key is not None,
    )


def _told(line: Line) -> tuple[object, ...]:
    """Return what makes a line worth telling."""
    return line.event, line.seen, line.code, line.reason
