"""SEV-SNP and TDX guests: reports through configfs-tsm (spec: attestation/attesters, 2; Linux: its ABI text).

Each call has a directory of its own, so threads and processes do not share one. Whoever else is root can still write
into it; the kernel counts writes, and a count that is not ours means that the report may be about something else.
"""

import errno
import logging
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.enclave.attesters.attributes import PASSING, Attributes, KernelAttributes, failure
from aigovtool.errors import ConfigurationError, EvidenceError
from aigovtool.limits import MAX_EVIDENCE_BYTES

REPORTS: Final = Path("/sys/kernel/config/tsm/report")
#: What the kernel's drivers call themselves.
PROVIDERS: Final = {"sev_guest": TeeType.SEV_SNP, "tdx_guest": TeeType.TDX}
#: SNP's virtual machine privilege levels are 0 to 3.
MAX_PRIVLEVEL: Final = 3
#: Waits between attempts, 3 s in all. One attempt waits in the kernel: its drivers give up by themselves.
PAUSES_S: Final = (0.05, 0.1, 0.2, 0.4, 0.75, 1.5)

_LOG: Final = logging.getLogger(__name__)
_NUMBER: Final = re.compile(rb"([0-9]{1,20})\n?")
#: Numbers and names; the kernel gives a page at most.
_MAX_TEXT_BYTES: Final = 4096


class _Raced(Exception):  # noqa: N818 - the next attempt's business
    """Somebody else wrote into the directory, or a write was lost."""


def _unique_name() -> str:
    return f"aigovtool-{secrets.token_hex(16)}"


class ConfigfsTsmAttester:
    """Asks the kernel for reports; an `aigovtool.attestation.attester.Attester`.

    Args:
        tee: SEV-SNP or TDX; another provider than this one's is refused.
        privlevel: SNP's privilege level, 0 to 3; the lowest that the kernel allows if not given.
        reports: where configfs-tsm is.
        attributes: the files.
        name: makes the name of a directory.
        pause: waits so many seconds.

    Raises:
        ConfigurationError: `attester_configuration` for another TEE or level.
    """

    def __init__(
        self,
        tee: TeeType,
        *,
        privlevel: int | None = None,
        reports: Path = REPORTS,
        attributes: Attributes | None = None,
        name: Callable[[], str] = _unique_name,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if tee not in PROVIDERS.values():
            raise ConfigurationError(f"configfs-tsm gives no reports of {tee}", reason="attester_configuration")
        if privlevel is not None and not (tee is TeeType.SEV_SNP and 0 <= privlevel <= MAX_PRIVLEVEL):
            raise ConfigurationError(
                f"a privilege level is 0 to {MAX_PRIVLEVEL}, and only SEV-SNP has one", reason="attester_configuration"
            )
        self._tee: Final = tee
        self._privlevel: Final = privlevel
        self._reports: Final = reports
        self._attributes: Final[Attributes] = attributes or KernelAttributes()
        self._name: Final = name
        self._pause: Final = pause

    @property
    def tee(self) -> TeeType:
        """SEV-SNP or TDX."""
        return self._tee

    def attest(self, claims: Binding) -> Evidence:
        """Return a report over `claims.report_data()`; of SEV-SNP with the host's certificate table, if it gives one.

        Raises:
            ConfigurationError: `attester_absent`, `attester_no_provider`, `attester_permission`, `attester_provider`.
            EvidenceError: `attester_busy`, `attester_raced` (both after all attempts), `attester_failed`,
                `attester_too_large`, `attester_answer`, `attester_other_report`.
        """
        report_data = claims.report_data()
        last: EvidenceError | ConfigurationError | None = None
        for pause_s in (0.0, *PAUSES_S):
            if pause_s:
                self._pause(pause_s)
            try:
                outblob, auxblob = self._attempt(report_data)
            except _Raced:
                last = EvidenceError("others write where reports are asked for", reason="attester_raced")
            except OSError as error:
                last = failure(error, f"asking the kernel for a report of {self._tee}")
                # A name that is taken is another's; the next one will not be.
                if error.errno not in PASSING | {errno.EEXIST}:
                    raise last from None
            else:
                return self._evidence(report_data, outblob, auxblob)
        raise last or EvidenceError("no report was asked for", reason="attester_failed")

    def _attempt(self, report_data: bytes) -> tuple[bytes, bytes]:
        """Return outblob and auxblob of one report.

        Raises:
            _Raced: the number of writes is not ours.
        """
        entry = self._reports / self._name()
        self._attributes.make(entry)
        try:
            self._require_provider(entry)
            before = self._number(entry / "generation")
            writes = self._write_privlevel(entry)
            self._attributes.write(entry / "inblob", report_data)
            outblob = self._attributes.read(entry / "outblob", MAX_EVIDENCE_BYTES)
            auxblob = self._auxblob(entry)
            if self._number(entry / "generation") != before + writes + 1:
                raise _Raced
        finally:
            remove_entry(self._attributes, entry)
        return outblob, auxblob

    def _require_provider(self, entry: Path) -> None:
        name = provider_of(self._attributes, entry)
        if PROVIDERS.get(name) is not self._tee:
            raise ConfigurationError(
                f"the kernel's provider of reports is {name!r}, not that of {self._tee}", reason="attester_provider"
            )

    def _write_privlevel(self, entry: Path) -> int:
        """Return how many writes were made."""
        level = self._privlevel
        if level is None:
            level = self._floor(entry)
            if not level:
                return 0
        self._attributes.write(entry / "privlevel", str(level).encode())
        return 1

    def _floor(self, entry: Path) -> int:
        """Return the lowest level that the kernel allows; TDX and old kernels have no such attribute."""
        floor = entry / "privlevel_floor"
        if self._tee is not TeeType.SEV_SNP or not self._attributes.exists(floor):
            return 0
        return self._number(floor)

    def _auxblob(self, entry: Path) -> bytes:
        # Old kernels show the attribute to TDX too, and there is never anything in it.
        path = entry / "auxblob"
        if self._tee is not TeeType.SEV_SNP or not self._attributes.exists(path):
            return b""
        return self._attributes.read(path, MAX_EVIDENCE_BYTES)

    def _number(self, path: Path) -> int:
        matched = _NUMBER.fullmatch(self._attributes.read(path, _MAX_TEXT_BYTES))
        if matched is None:
            raise EvidenceError(f"{path.name} of the kernel is no number", reason="attester_answer")
        return int(matched[1])

    def _evidence(self, report_data: bytes, outblob: bytes, auxblob: bytes) -> Evidence:
        if len(outblob) + len(auxblob) > MAX_EVIDENCE_BYTES:
            raise EvidenceError("report and certificate table are too large", reason="attester_too_large")
        if report_data not in outblob:
            raise EvidenceError("the report is about other report data", reason="attester_other_report")
        return Evidence(tee=self._tee, data=outblob, endorsements=(auxblob,) if auxblob else ())


def provider_of(attributes: Attributes, entry: Path) -> str:
    """Return what the driver behind the directory `entry` calls itself. Raises `OSError`."""
    return attributes.read(entry / "provider", _MAX_TEXT_BYTES).decode("ascii", "replace").strip()


def probe(attributes: Attributes, reports: Path, name: Callable[[], str] = _unique_name) -> str:
    """Return the provider of reports under `reports`: a directory must be made to see it. Raises `OSError`."""
    entry = reports / name()
    attributes.make(entry)
    try:
        return provider_of(attributes, entry)
    finally:
        remove_entry(attributes, entry)


def remove_entry(attributes: Attributes, entry: Path) -> None:
    """Remove a directory; one that stays costs the kernel a few pages, so it is a warning and no failure."""
    for _ in range(3):
        try:
            attributes.remove(entry)
        except OSError as error:
            if error.errno not in PASSING:
                break
        else:
            return
    _LOG.warning("attester_leftover", extra={"directory": entry.name})
