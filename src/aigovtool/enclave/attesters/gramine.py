"""SGX enclaves under Gramine: quotes through its pseudo-files (spec: attestation/attesters, 3; Gramine: "Attestation").

The files belong to this process alone, but to all of its threads: report data and quote go together under one lock.
"""

import threading
from pathlib import Path
from typing import Final

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.enclave.attesters.attributes import Attributes, KernelAttributes, failure
from aigovtool.errors import ConfigurationError, EvidenceError
from aigovtool.limits import MAX_EVIDENCE_BYTES

DIRECTORY: Final = Path("/dev/attestation")
#: `sgx.remote_attestation` of the manifest.
DCAP: Final = "dcap"
#: How long another thread's quote may take. A quote takes 10s of milliseconds, a first one some seconds.
LOCK_TIMEOUT_S: Final = 30.0

_MAX_TEXT_BYTES: Final = 256
#: Of the process, not of an attester: there is one pair of files.
_LOCK: Final = threading.Lock()


class GramineAttester:
    """Asks Gramine for DCAP quotes; an `aigovtool.attestation.attester.Attester`.

    Args:
        directory: where Gramine's files are.
        attributes: the files.
        lock_timeout_s: how long to wait for another thread.
    """

    def __init__(
        self,
        *,
        directory: Path = DIRECTORY,
        attributes: Attributes | None = None,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
    ) -> None:
        self._directory: Final = directory
        self._attributes: Final[Attributes] = attributes or KernelAttributes()
        self._lock_timeout_s: Final = lock_timeout_s

    @property
    def tee(self) -> TeeType:
        """SGX."""
        return TeeType.SGX

    def attest(self, claims: Binding) -> Evidence:
        """Return a quote over `claims.report_data()`, without collateral.

        Raises:
            ConfigurationError: `attester_absent`, `attester_permission`, `attester_no_quotes`.
            EvidenceError: `attester_busy`, `attester_failed`, `attester_too_large`, `attester_other_report`.
        """
        report_data = claims.report_data()
        if not _LOCK.acquire(timeout=self._lock_timeout_s):
            raise EvidenceError("another thread's quote takes too long", reason="attester_busy")
        try:
            quote = self._quote(report_data)
        except OSError as error:
            raise failure(error, "asking Gramine for a quote") from None
        finally:
            _LOCK.release()
        if report_data not in quote:
            raise EvidenceError("the quote is about other report data", reason="attester_other_report")
        return Evidence(tee=TeeType.SGX, data=quote)

    def _quote(self, report_data: bytes) -> bytes:
        kind = attestation_type(self._attributes, self._directory)
        if kind != DCAP:
            raise ConfigurationError(
                f"this enclave makes no DCAP quotes: its attestation type is {kind!r}",
                reason="attester_no_quotes",
                fix='set `sgx.remote_attestation = "dcap"` in the manifest, and sign it again',
            )
        self._attributes.write(self._directory / "user_report_data", report_data)
        return self._attributes.read(self._directory / "quote", MAX_EVIDENCE_BYTES)


def attestation_type(attributes: Attributes, directory: Path = DIRECTORY) -> str:
    """Return `none`, `dcap`, or what else Gramine says. Raises `OSError`."""
    return attributes.read(directory / "attestation_type", _MAX_TEXT_BYTES).decode("ascii", "replace").strip()
