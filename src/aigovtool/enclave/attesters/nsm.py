"""AWS Nitro Enclaves: documents of the Nitro Secure Module (spec: attestation/attesters, 4; Linux: uapi/linux/nsm.h).

One ioctl on `/dev/nsm` carries a CBOR request and brings a CBOR response. The kernel has one request under way at a
time and gives the module two minutes.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.nitro.cbor import read, write
from aigovtool.attestation.tee.nitro.document import read_document, read_signed
from aigovtool.enclave.attesters.attributes import failure
from aigovtool.errors import EvidenceError, MalformedError

DEVICE: Final = Path("/dev/nsm")
#: `_IOWR(0x0A, 0, struct nsm_raw)`: two pairs of a 64-bit address and a 64-bit length.
IOCTL_RAW: Final = 0xC0200A00
MAX_REQUEST_BYTES: Final = 0x1000
MAX_RESPONSE_BYTES: Final = 0x3000
#: What the module may answer instead of a document.
ERRORS: Final = frozenset(
    {
        "InvalidArgument",
        "InvalidIndex",
        "InvalidResponse",
        "ReadOnlyIndex",
        "InvalidOperation",
        "BufferTooSmall",
        "InputTooLarge",
        "InternalError",
    }
)

_RAW: Final = struct.Struct("=4Q")


def _open_device(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _ioctl(file: int, command: int, argument: bytearray) -> int:
    return int(fcntl.ioctl(file, command, argument, True))


class NsmAttester:
    """Asks the Nitro Secure Module for documents; an `aigovtool.attestation.attester.Attester`.

    Args:
        device: the module's device.
        open_device: opens it and returns its descriptor, which is closed with `os.close`.
        ioctl: calls the driver; it changes its last argument, as `fcntl.ioctl` does.
    """

    def __init__(
        self,
        *,
        device: Path = DEVICE,
        open_device: Callable[[Path], int] = _open_device,
        ioctl: Callable[[int, int, bytearray], int] = _ioctl,
    ) -> None:
        self._device: Final = device
        self._open_device: Final = open_device
        self._ioctl: Final = ioctl

    @property
    def tee(self) -> TeeType:
        """Nitro."""
        return TeeType.NITRO

    def attest(self, claims: Binding) -> Evidence:
        """Return a document with the report data as user data, the nonce, and the HPKE key as public key.

        Raises:
            ConfigurationError: `attester_absent`, `attester_permission`, `attester_no_provider`.
            EvidenceError: `attester_busy`, `attester_failed`, `attester_too_large`, `attester_refused`,
                `attester_answer`, `attester_other_report`.
        """
        user_data, nonce = claims.report_data(), bytes.fromhex(claims.nonce)
        request = write({"Attestation": {"user_data": user_data, "nonce": nonce, "public_key": claims.hpke_key}})
        document = _document_in(self._exchange(request))
        if _claims_in(document) != (user_data, nonce, claims.hpke_key):
            raise EvidenceError("the module's document is about other claims", reason="attester_other_report")
        return Evidence(tee=TeeType.NITRO, data=document)

    def _exchange(self, request: bytes) -> bytes:
        """Return the module's response to `request`."""
        if len(request) > MAX_REQUEST_BYTES:
            raise EvidenceError("the request is too large for the module", reason="attester_too_large")
        try:
            file = self._open_device(self._device)
            try:
                return self._ask(file, request)
            finally:
                os.close(file)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise EvidenceError("the request is too large for the module", reason="attester_too_large") from None
            raise failure(error, "asking the Nitro Secure Module for a document") from None

    def _ask(self, file: int, request: bytes) -> bytes:
        asked = ctypes.create_string_buffer(request, len(request))
        answered = ctypes.create_string_buffer(MAX_RESPONSE_BYTES)
        raw = bytearray(
            _RAW.pack(ctypes.addressof(asked), len(request), ctypes.addressof(answered), MAX_RESPONSE_BYTES)
        )
        self._ioctl(file, IOCTL_RAW, raw)
        size = _RAW.unpack(raw)[3]
        if size > MAX_RESPONSE_BYTES:
            raise EvidenceError("the driver claims a response beyond its buffer", reason="attester_answer")
        return answered.raw[:size]


def _document_in(response: bytes) -> bytes:
    try:
        item = read(response)
    except MalformedError as error:
        raise EvidenceError(f"the module's response: {error.message}", reason="attester_answer") from None
    match item:
        case {"Attestation": {"document": bytes() as document, **inner}, **rest} if not (inner or rest):
            return document
        case {"Error": str() as name, **rest} if not rest:
            said = name if name in ERRORS else "an error that is not known here"
            raise EvidenceError(f"the Nitro Secure Module refuses: {said}", reason="attester_refused")
        case _:
            raise EvidenceError("the module's response holds no document", reason="attester_answer")


def _claims_in(document: bytes) -> tuple[bytes | None, bytes | None, bytes | None]:
    try:
        found = read_document(read_signed(document).payload)
    except EvidenceError as error:
        raise EvidenceError(f"the module's document: {error.message}", reason="attester_answer") from None
    return found.user_data, found.nonce, found.public_key
