"""Evidence of a TPM 2.0: identity for the custodian's challenge, its activation, and quotes (attestation spec: tpm, 3).

The attestation key is a primary key of the endorsement hierarchy, made again from the TPM's seed for each use: it is
the same after every boot, and nothing of it is kept on disk.

Needs `tpm2-pytss` (the extra `tpm`) with the libraries of tpm2-tss, and access to the device: the group `tss` has it.
Through /dev/tpmrm0 the kernel keeps programs apart; on a bare /dev/tpm0 objects that are left behind fill the TPM.
"""

import errno
import hashlib
import importlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.asymmetric import rsa

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.event_list import EventList
from aigovtool.attestation.model import (
    REPORT_DATA_BYTES,
    ActivationCredential,
    ActivationKeys,
    Evidence,
    MeasurementHex,
    TeeType,
)
from aigovtool.attestation.tee.tpm.credential import ek_public
from aigovtool.attestation.tee.tpm.endorsement import key_of, read_chain
from aigovtool.attestation.tee.tpm.event_log import parse_log
from aigovtool.attestation.tee.tpm.evidence import Bank, Certifies, PcrValue, TpmEvidence, wrap
from aigovtool.attestation.tee.tpm.structures import (
    CURVES,
    PCR_COUNT,
    USER_WITH_AUTH,
    parse_public,
    parse_quote,
    unwrapped_public,
)
from aigovtool.enclave.attesters.attributes import failure
from aigovtool.errors import ConfigurationError, EvidenceError

#: Firmware, boot loader and kernel. Not 10, into which IMA measures each file that is opened, and not 16 and 23, which
#: anybody may reset.
BOOT_REGISTERS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14)
EVENT_LOG: Final = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
#: Where the TCG has makers put certificates of RSA-2048, P-256, P-384 and RSA-3072 keys (EK Credential Profile, 2.2).
EK_CERTIFICATE_INDEXES: Final = (0x01C00002, 0x01C0000A, 0x01C00016, 0x01C0001C)

# TPMT_PUBLIC: ECC, SHA-256, {fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign}, no policy,
# no symmetric algorithm, ECDSA with SHA-256, P-256, no key derivation, no point yet.
_AK_TEMPLATE: Final = bytes.fromhex("0023 000b 00050072 0000 0010 0018 000b 0003 0010 0000 0000")
_LOG: Final = logging.getLogger(__name__)
_WITHOUT_LOG: Final = "send no events: --tpm-event-log none"
_QUOTE_TRIES: Final = 3
_PCRS_AT_ONCE: Final = 8
_NV_CHUNK: Final = 512
_MAX_EK_CERTIFICATE: Final = 16 << 10


class TpmLibrary(Protocol):
    """The part of `tpm2_pytss` that is used; it comes without types."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a foreign module
        """Return a class or constant of the library."""


class TpmAttester:
    """Makes evidence with the TPM of this machine; an `aigovtool.attestation.attester.ActivatedAttester`.

    Args:
        tcti: how tpm2-tss reaches the TPM.
        bank: the PCR bank that is quoted; the firmware must have it on.
        registers: the indices of the PCRs that are quoted, 0 to 23.
        event_log: the firmware's log, or None to send no events.
        endorsements: DER of the certificates between the endorsement key's and a root, in their order.
        ek_certificate: DER, where the TPM holds none itself: makers of TPMs in processors hand theirs out by network.
        certificate_indexes: NV indices in which the endorsement key certificate is looked for otherwise, in this order.

    Raises:
        ConfigurationError: `attester_absent`, `attester_permission` for a device that is not there, or not for this
            program; `tpm_library` when tpm2-pytss cannot be loaded, `tpm_registers` when no PCRs are to be quoted, or
            some that do not exist.
    """

    def __init__(
        self,
        tcti: str = "device:/dev/tpmrm0",
        *,
        bank: Bank = Bank.SHA256,
        registers: Sequence[int] = BOOT_REGISTERS,
        event_log: Path | None = EVENT_LOG,
        endorsements: Sequence[bytes] = (),
        ek_certificate: bytes | None = None,
        certificate_indexes: Sequence[int] = EK_CERTIFICATE_INDEXES,
    ) -> None:
        if not registers or not set(registers) <= set(range(PCR_COUNT)):
            raise ConfigurationError(
                "the PCRs to be quoted are none, or do not exist", reason="tpm_registers", fix="name some of 0 to 23"
            )
        _require_device(tcti)
        self._tss: Final = _library()
        self._tcti: Final = tcti
        self._bank: Final = bank
        self._registers: Final = tuple(sorted(set(registers)))
        self._event_log: Final = event_log
        self._endorsements: Final = tuple(endorsements)
        self._ek_certificate: Final = ek_certificate
        self._indexes: Final = tuple(certificate_indexes)
        self._lock: Final = threading.Lock()
        self._replayed = -1
        self._secret: bytes | None = None
        self._ak_certificate: bytes | None = None

    @property
    def tee(self) -> TeeType:
        """`tpm`."""
        return TeeType.TPM

    def keys(self) -> ActivationKeys:
        """Return certificate and key for a custodian's challenge.

        Raises:
            EvidenceError: `attester_tpm` when the TPM does not answer, `attester_certificate` when it holds no
                endorsement key certificate.
        """
        with self._session() as tpm, self._primary(tpm, _AK_TEMPLATE) as (_, ak_public):
            return ActivationKeys(ek_certificate=self._certificate(tpm), ak_public=ak_public)

    def activate(self, credential: ActivationCredential) -> bytes:
        """Open a custodian's credential and return what is inside; it travels with evidence for that custodian.

        Raises:
            EvidenceError: `attester_tpm` when this TPM cannot open it: it was made for another TPM or another key.
        """
        with self._session() as tpm, self._primary(tpm, _AK_TEMPLATE) as (ak, _):
            certificate = self._certificate(tpm)
            with self._primary(tpm, _ek_template(certificate)) as (ek, made):
                _require_certified(certificate, made)
                user = bool(parse_public(made).attributes & USER_WITH_AUTH)
                secret = self._activated(tpm, ak, ek, credential, user=user)
        self._secret = secret
        return secret

    def certify(self, certificate: bytes) -> None:
        """Take the custodian's certificate of the attestation key: it is for whoever did not activate it."""
        self._ak_certificate = certificate

    def attest(self, claims: Binding) -> Evidence:
        """Return evidence whose quote is over SHA-256 of the report data of `claims`.

        What was activated goes to the custodian alone: a consumer did not ask for it, and could not judge it. It gets
        the custodian's certificate of the attestation key instead, if there is one.

        Raises:
            EvidenceError: as for `keys`; `attester_race` when PCRs change all the time; the reasons of `parse_log`.
        """
        if claims.role == "boot":
            return self.quote(claims.report_data(), self._secret)
        return self.quote(claims.report_data(), ak_certificate=self._ak_certificate)

    def quote(
        self, report_data: bytes, secret: bytes | None = None, *, ak_certificate: bytes | None = None
    ) -> Evidence:
        """Return evidence that is bound to these 64 bytes, with an activated secret or a certificate of the key.

        Raises:
            EvidenceError: as for `attest`; `bad_report_data` for another size.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise EvidenceError(f"report data has {REPORT_DATA_BYTES} bytes", reason="bad_report_data")
        with self._session() as tpm, self._primary(tpm, _AK_TEMPLATE) as (ak, ak_public):
            certificate = ak_certificate or self._certificate(tpm)
            attest, signature, values = self._quoted(tpm, ak, hashlib.sha256(report_data).digest())
        events, locality = self._events(values)
        evidence = TpmEvidence(
            ak_public=ak_public,
            attest=attest,
            signature=signature,
            bank=self._bank,
            pcrs=tuple(PcrValue(index=index, digest=digest) for index, digest in sorted(values.items())),
            events=events,
            startup_locality=locality,
            report_data=report_data,
            certifies=Certifies.EK if ak_certificate is None else Certifies.AK,
            certificate=certificate,
            secret=secret,
        )
        return wrap(evidence, self._endorsements if ak_certificate is None else ())

    @contextmanager
    def _session(self) -> Iterator[Any]:
        """Talk to the TPM, one thread at a time; its errors become ours."""
        try:
            with self._lock, self._tss.ESAPI(self._tss.TCTILdr.parse(self._tcti)) as tpm:
                yield tpm
        except self._tss.TSS2_Exception as error:
            raise EvidenceError(
                f"the TPM at {self._tcti} does not answer as it should: {error}",
                reason="attester_tpm",
                fix="see that the device exists and that this program's group may use it",
            ) from None

    @contextmanager
    def _primary(self, tpm: Any, template: bytes) -> Iterator[tuple[Any, bytes]]:  # noqa: ANN401 - a foreign object
        """Make a primary key of the endorsement hierarchy and forget it again: handle and TPMT_PUBLIC."""
        wrapped = len(template).to_bytes(2) + template
        public, _ = self._tss.TPM2B_PUBLIC.unmarshal(wrapped)
        made = tpm.create_primary(self._tss.TPM2B_SENSITIVE_CREATE(), public, self._tss.ESYS_TR.ENDORSEMENT)
        try:
            yield made[0], unwrapped_public(made[1].marshal())
        finally:
            tpm.flush_context(made[0])

    def _certificate(self, tpm: Any) -> bytes:  # noqa: ANN401 - a foreign object
        if self._ek_certificate is not None:
            return self._ek_certificate
        for index in self._indexes:
            if (found := self._nv_index(tpm, index)) is not None:
                return _der_at_start(found)
        raise EvidenceError(
            "the TPM holds no endorsement key certificate where the TCG puts them",
            reason="attester_certificate",
            fix="get it from the maker and configure it: without one a TPM cannot be told from software",
        )

    def _nv_index(self, tpm: Any, index: int) -> bytes | None:  # noqa: ANN401 - a foreign object
        try:
            handle = tpm.tr_from_tpmpublic(index)
        except self._tss.TSS2_Exception:
            return None
        size = min(int(tpm.nv_read_public(handle)[0].nvPublic.dataSize), _MAX_EK_CERTIFICATE)
        parts = [bytes(tpm.nv_read(handle, min(_NV_CHUNK, size - at), at)) for at in range(0, size, _NV_CHUNK)]
        return b"".join(parts)

    def _activated(self, tpm: Any, ak: Any, ek: Any, credential: ActivationCredential, *, user: bool) -> bytes:  # noqa: ANN401
        """Return what is in a credential. `user`: the key may be used with its empty password, without its policy."""
        tss = self._tss
        blob, _ = tss.TPM2B_ID_OBJECT.unmarshal(credential.blob)
        secret, _ = tss.TPM2B_ENCRYPTED_SECRET.unmarshal(credential.secret)
        password = tss.ESYS_TR.PASSWORD
        if user:
            return bytes(tpm.activate_credential(ak, ek, blob, secret, session1=password, session2=password))
        none, plain = tss.ESYS_TR.NONE, tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL)
        session = tpm.start_auth_session(none, none, tss.TPM2_SE.POLICY, plain, tss.TPM2_ALG.SHA256)
        try:
            # PolicyA: whoever may use the endorsement hierarchy may use the key (EK Credential Profile, annex B).
            tpm.policy_secret(tss.ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
            return bytes(tpm.activate_credential(ak, ek, blob, secret, session1=password, session2=session))
        finally:
            tpm.flush_context(session)

    def _quoted(self, tpm: Any, ak: Any, extra: bytes) -> tuple[bytes, bytes, dict[int, MeasurementHex]]:  # noqa: ANN401
        """Return a quote, its signature, and the values that it is over: read again if one changed meanwhile."""
        tss = self._tss
        selection = f"{self._bank}:{','.join(map(str, self._registers))}"
        for _ in range(_QUOTE_TRIES):
            values = self._values(tpm)
            scheme = tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL)
            attest, signature = tpm.quote(ak, tss.TPML_PCR_SELECTION.parse(selection), tss.TPM2B_DATA(extra), scheme)
            digest = hashlib.sha256(b"".join(bytes.fromhex(values[index]) for index in self._registers)).digest()
            if parse_quote(bytes(attest)).pcr_digest == digest:
                return bytes(attest), signature.marshal(), values
        raise EvidenceError("PCRs change while they are quoted", reason="attester_race", fix="quote other registers")

    def _values(self, tpm: Any) -> dict[int, MeasurementHex]:  # noqa: ANN401 - a foreign object
        """Return the values of the quoted PCRs; a TPM tells at most eight at once."""
        values: dict[int, MeasurementHex] = {}
        for start in range(0, len(self._registers), _PCRS_AT_ONCE):
            part = self._registers[start : start + _PCRS_AT_ONCE]
            told = tpm.pcr_read(f"{self._bank}:{','.join(map(str, part))}")[2]
            digests = [bytes(one) for one in told]
            if len(digests) != len(part):
                raise EvidenceError(
                    f"the TPM has no {self._bank} bank of PCRs",
                    reason="attester_bank",
                    fix="switch the bank on in the firmware's setup, or quote the other one",
                )
            values |= {index: MeasurementHex(one.hex()) for index, one in zip(part, digests, strict=True)}
        return values

    def _events(self, values: dict[int, MeasurementHex]) -> tuple[EventList, int]:
        """Return the events of those registers whose log tells all: later stages have logs of their own, or none."""
        if self._event_log is None:
            return EventList(registers=()), 0
        try:
            log = parse_log(self._event_log.read_bytes())
        except OSError:
            raise EvidenceError(
                f"the event log {self._event_log} cannot be read",
                reason="attester_event_log",
                fix=f"mount securityfs, or {_WITHOUT_LOG}",
            ) from None
        except EvidenceError as error:
            said = f"the event log {self._event_log}: {error.message}"
            raise EvidenceError(said, reason=error.reason, fix=_WITHOUT_LOG) from None
        told = {index for index, digest in log.replay(self._bank).items() if values.get(index) == digest}
        if len(told) != self._replayed:  # once, and not for each consumer that asks
            self._replayed = len(told)
            _LOG.info("event_log_replayed", extra={"registers": f"{len(told)} of {len(values)}"})
        return log.event_list(self._bank, told), log.startup_locality if 0 in told else 0


def _require_device(tcti: str) -> None:
    """Require a device that this program may use: the library would not say which of the two it is not."""
    kind, _, path = tcti.partition(":")
    if kind != "device" or not path:
        return
    try:
        if not Path(path).exists():
            raise ConfigurationError(
                f"there is no TPM at {path}",
                reason="attester_absent",
                fix="run this where there is a TPM, or say with --tpm where it is",
            )
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    except OSError as error:
        raise failure(error, "the TPM may not be used") from None


def _library() -> TpmLibrary:
    """Return tpm2-pytss, which only machines with a TPM have."""
    try:
        library: TpmLibrary = importlib.import_module("tpm2_pytss")
    except (ImportError, OSError):
        raise ConfigurationError(
            "the library for TPMs (tpm2-pytss) cannot be loaded",
            reason="tpm_library",
            fix="install the extra aigovtool[tpm], and the system's tpm2-tss libraries",
        ) from None
    return library


def _ek_template(certificate: bytes) -> bytes:
    """Return the TCG's template for the endorsement key of a certificate: its public area without the key.

    In the templates of the low range (RSA-2048, P-256) the place of the key holds zeros, in the others it is empty.
    """
    area = ek_public(key_of(read_chain(certificate, ())[0]))
    if isinstance(area.key, rsa.RSAPublicKey):
        parts, size = 1, area.key.key_size // 8
    else:
        parts, size = 2, next(n for curve, n in CURVES.values() if curve.name == area.key.curve.name)
    kept = size if area.symmetric == 128 else 0
    return area.encoded[: -parts * (2 + size)] + parts * (kept.to_bytes(2) + bytes(kept))


def _require_certified(certificate: bytes, made: bytes) -> None:
    if parse_public(made).encoded != ek_public(key_of(read_chain(certificate, ())[0])).encoded:
        raise EvidenceError(
            "the TPM's certificate is not of the key that the TCG's template makes",
            reason="attester_certificate",
            fix="this maker uses a template of its own, which is not supported",
        )


def _der_at_start(data: bytes) -> bytes:
    """Return the one DER element at the start: some makers fill the rest of the index."""
    if data[:2] != b"\x30\x82" or len(data) < 4 + int.from_bytes(data[2:4]):
        raise EvidenceError("the TPM's certificate is no certificate", reason="attester_certificate")
    return data[: 4 + int.from_bytes(data[2:4])]
