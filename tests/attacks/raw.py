"""Raw bytes over TLS to a server, and what came back: with any party's credential, or none."""

import json
import socket
import ssl
from contextlib import suppress
from pathlib import Path

from tests.transport.conftest import Answer, parse_answers

from aigovtool.codec import decode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.x509 import from_pem
from aigovtool.protocol.party import BorrowerFile, ConsumerFile, OperatorFile
from aigovtool.transport.tls import unverified_context_for_attestation_only


def key_in(path: Path) -> tuple[SigningKey, list[bytes]]:
    """Return the key and the certificate in a party's file."""
    kinds: dict[str, type[ConsumerFile | OperatorFile | BorrowerFile]] = {
        "consumer": ConsumerFile,
        "operator": OperatorFile,
        "borrower": BorrowerFile,
    }
    party = decode(path.read_bytes(), kinds[json.loads(path.read_bytes())["party"]])
    seed = party.enrolment_key if isinstance(party, BorrowerFile) else party.key
    return SigningKey.from_secret(Secret(seed)), from_pem(party.certificate.encode())


def context_of(path: Path | None) -> ssl.SSLContext:
    """Return what shows a party's credential in the handshake; whom it talks to is not looked at."""
    if path is None:
        return unverified_context_for_attestation_only()
    key, certificate = key_in(path)
    return unverified_context_for_attestation_only(credential=certificate, key=key)


def connect(port: int, context: ssl.SSLContext, timeout_s: float = 30.0) -> ssl.SSLSocket:
    """Open a connection."""
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout_s), server_hostname="127.0.0.1")


def exchange(port: int, context: ssl.SSLContext, data: bytes) -> list[Answer]:
    """Send bytes and return all answers until the server ends the connection."""
    with connect(port, context) as link:
        with suppress(OSError):  # it may have refused already
            link.sendall(data)
        received = bytearray()
        with suppress(ConnectionResetError, ssl.SSLEOFError):
            while piece := link.recv(1 << 16):
                received += piece
        return parse_answers(bytes(received))
