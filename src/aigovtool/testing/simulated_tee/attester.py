"""Makes evidence of the simulated TEE, as an enclave's platform would (spec: attestation, section 6).

A `SimulatedPlatform` is one boot of one pretended processor: it has a key of its own, certified by the simulated
CA. It signs whatever measurement it is told, which is exactly why it protects nothing.
"""

import dataclasses
import os
from hashlib import sha256, sha384
from pathlib import Path
from typing import Final

import aigovtool
from aigovtool.attestation.binding import Binding
from aigovtool.attestation.model import Evidence, MeasurementHex, TeeType
from aigovtool.codec import encode
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.errors import ConfigurationError, EvidenceError
from aigovtool.testing.simulated_tee.abi import HOST_DATA_BYTES, Report, compose
from aigovtool.testing.simulated_tee.root import (
    PLATFORM_KIND,
    VALID_FROM_MS,
    VALID_UNTIL_MS,
    PlatformCertificate,
    ca_certificate,
    ca_key,
)

_NOT_IN_ENCLAVE: Final = frozenset({"cli", "consumer", "custodian", "operator"})
DEFAULT_TCB: Final = (1, 1, 1)
DEFAULT_CHIP_ID: Final = sha256(b"TEST-ONLY: the default simulated chip").digest()


def measure(package: Path | None = None) -> MeasurementHex:
    """Return the SHA-384 measurement of the Python source of the installed `aigovtool` (or of `package`).

    It covers what an enclave's image would hold: everything but the rooms that the enclave never loads (`cli`,
    `consumer`, `custodian`, `operator`). Each `.py` file counts, in the order of its relative path, as
    `length of path ‖ path ‖ length of content ‖ content` with 8-byte big-endian lengths. It is what an honest enclave
    says about itself, not what hardware saw.

    Raises:
        ConfigurationError: with reason `not_measurable` when there is nothing to measure or a file cannot be read.
    """
    root = Path(aigovtool.__file__).parent if package is None else package
    state = sha384(b"aigovtool simulated measurement v1\x00")
    try:
        files = sorted(
            (os.fsencode(path.relative_to(root).as_posix()), path)
            for path in root.rglob("*.py")
            if path.relative_to(root).parts[0] not in _NOT_IN_ENCLAVE
        )
        for name, path in files:
            for part in (name, path.read_bytes()):
                state.update(len(part).to_bytes(8, "big") + part)
    except OSError as error:
        raise ConfigurationError(f"the package cannot be measured: {error}", reason="not_measurable") from None
    if not files:
        raise ConfigurationError(f"no Python source in {root}", reason="not_measurable")
    return MeasurementHex(state.hexdigest())


class SimulatedPlatform:
    """One boot of one simulated processor.

    Args:
        measurement: SHA-384 of what runs, usually `measure()`.
        debug: pretend that the TEE was started in debug mode (always refused).
        tcb: versions of loader, firmware and microcode, 0 to 65,535 each.
        chip_id: 32 bytes.
        memory_encryption: what the report claims; False plays a measured VM without it.
        host_data: 32 bytes that the host chose at the start.
        not_before_ms: start of the platform certificate's validity.
        not_after_ms: end of it.

    Raises:
        EvidenceError: with reason `report_field` for a value that a report cannot hold.
    """

    __slots__ = ("_endorsements", "_key", "_template")

    def __init__(
        self,
        measurement: MeasurementHex,
        *,
        debug: bool = False,
        tcb: tuple[int, int, int] = DEFAULT_TCB,
        chip_id: bytes = DEFAULT_CHIP_ID,
        memory_encryption: bool = True,
        host_data: bytes = bytes(HOST_DATA_BYTES),
        not_before_ms: int = VALID_FROM_MS,
        not_after_ms: int = VALID_UNTIL_MS,
    ) -> None:
        self._key: Final = SigningKey.generate()
        self._template: Final = Report(
            debug=debug,
            memory_encryption=memory_encryption,
            tcb=tcb,
            chip_id=chip_id,
            measurement=_from_hex(measurement),
            report_data=bytes(64),
            host_data=host_data,
        )
        certificate = PlatformCertificate(
            public_key=self._key.public.raw,
            chip_id=chip_id,
            tcb=tcb,
            not_before_ms=not_before_ms,
            not_after_ms=not_after_ms,
        )
        self._endorsements: Final = (encode(seal(PLATFORM_KIND, certificate, ca_key())), encode(ca_certificate()))

    @property
    def tee(self) -> TeeType:
        """The simulated TEE."""
        return TeeType.SIMULATED

    def attest(self, claims: Binding) -> Evidence:
        """Return evidence that covers `claims`."""
        return self.report(claims.report_data())

    def report(self, report_data: bytes) -> Evidence:
        """Return evidence whose report carries `report_data` (64 bytes).

        Raises:
            EvidenceError: with reason `report_field` for any other length.
        """
        signed = compose(dataclasses.replace(self._template, report_data=report_data))
        return Evidence(tee=TeeType.SIMULATED, data=signed + self._key.sign(signed), endorsements=self._endorsements)


def _from_hex(measurement: MeasurementHex) -> bytes:
    try:
        return bytes.fromhex(measurement)
    except ValueError:
        raise EvidenceError("a measurement is hexadecimal", reason="report_field") from None
