"""The certificate of the custodian's own TLS server: what it says, how it is renewed, and how a server takes it up.

`init` issues it for a year, from an authority of the custodian's own that lives for ten and that every party's file
pins. So renewing it changes nothing for any party: same authority, same key, same hosts, another year.

1. The key stays. Two files cannot be replaced in one step, and a certificate that does not fit its key would keep the
   custodian from starting; nothing pins the key, so a new one would gain little.
2. The old certificate is kept beside the new one, under its digest, before it is replaced.
3. A certificate that another authority issued was put there by somebody: it is theirs to renew, and never overwritten.
4. A running custodian looks at the file now and then. New connections get the new certificate; those that are open go
   on. One that cannot be used is logged, and the one in use stays.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aigovtool.codec import Message
from aigovtool.crypto.keyfile import read_secret_file, read_tls_key, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import describe, from_pem, is_issued_by, spki_sha256, to_pem
from aigovtool.custodian.keys import new_server_certificate
from aigovtool.errors import AIGovToolError, ConfigurationError
from aigovtool.ids import Millis
from aigovtool.transport.tls import ServerTls, server_context

#: From how long before its end a certificate is warned of.
WARN_BEFORE_MS: Final = 30 * 86_400_000
_DAY_MS: Final = 86_400_000
_MAX_BYTES: Final = 1 << 20

_LOG: Final = logging.getLogger(__name__)


class ServerCertificate(Message):
    """The certificate in `keys/tls.pem`. `own` says whether the custodian's own authority issued it."""

    file: str
    subject: str
    issuer: str
    hosts: list[str]
    sha256: str
    not_before_ms: Millis
    not_after_ms: Millis
    own: bool

    def ends_soon(self, now_ms: int) -> bool:
        """Return whether it has ended, or ends within 30 days."""
        return now_ms > self.not_after_ms - WARN_BEFORE_MS


def show(directory: Path) -> ServerCertificate:
    """Return what the certificate of the custodian in `directory` says.

    Raises:
        ConfigurationError: a file is missing or unsafe.
        InputError: it holds no certificate.
    """
    path = directory / "keys" / "tls.pem"
    certificate = from_pem(_read(path))[0]
    facts = describe(certificate)
    return ServerCertificate(
        file=str(path),
        subject=facts.subject,
        issuer=facts.issuer,
        hosts=list(facts.hosts),
        sha256=facts.sha256,
        not_before_ms=facts.not_before_ms,
        not_after_ms=facts.not_after_ms,
        own=is_issued_by(certificate, _authority(directory)),
    )


def renew(directory: Path, further_hosts: Sequence[str], now_ms: int) -> Path:
    """Replace the certificate by one for the same hosts and `further_hosts`; return where the old one is kept.

    Raises:
        ConfigurationError: `given_certificate` when another authority issued it; `tls_key_mismatch` when a key file
            does not fit its certificate; a file is missing or unsafe.
        InvalidValueError: a host is none, or the authority's own time is over.
    """
    keys, old = directory / "keys", show(directory)
    if not old.own:
        raise ConfigurationError(
            f"{old.file} was not issued by this custodian's own authority, but by {old.issuer}",
            reason="given_certificate",
            fix=f"get a new one from whoever issued it, for the key in {keys / 'tls.key'}, and put it in place of "
            f"{old.file} with mode 0600",
        )
    authority, authority_key = _authority(directory), read_tls_key(keys / "tls-ca.key")
    pem, key = _read(keys / "tls.pem"), read_tls_key(keys / "tls.key")
    _require_fit(authority, authority_key, keys / "tls-ca.key")
    _require_fit(from_pem(pem)[0], key, keys / "tls.key")
    hosts = list(dict.fromkeys([*old.hosts, *further_hosts]))
    certificate = new_server_certificate(authority_key, authority, key, hosts, now_ms)
    aside = keys / f"tls.{old.sha256[:12]}.pem"
    write_secret_file(aside, Secret(pem), replace=True)  # only ever by the same content: it is named by its digest
    write_secret_file(keys / "tls.pem", Secret(to_pem(certificate)), replace=True)
    return aside


class Served:
    """The certificate that a running server shows, and whether the file holds another one by now."""

    def __init__(self, directory: Path, key: TlsKey, client_authorities: Sequence[bytes]) -> None:
        """Read the file.

        Raises:
            ConfigurationError: the certificate, the key and the authorities do not fit.
        """
        self._path: Final = directory / "keys" / "tls.pem"
        self._key: Final = key
        self._client_authorities = list(client_authorities)
        self._seen = _read(self._path)
        self._warned_ms = 0
        self.tls, self._until_ms = self._usable(self._seen)

    def changed(self) -> bool:
        """Look at the file; return whether it holds another certificate, which `tls` is for from now on."""
        try:
            pem = _read(self._path)
            if pem == self._seen:
                return False
            self._seen = pem  # also one that cannot be used: that is said once
            self.tls, self._until_ms = self._usable(pem)
        except AIGovToolError as error:
            _LOG.error("tls_certificate_unusable", extra={"code": error.code, "reason": error.reason})
            return False
        _LOG.info("tls_certificate_replaced", extra={"until_ms": self._until_ms})
        return True

    def trust(self, client_authorities: Sequence[bytes]) -> None:
        """Have `tls` accept the clients of these authorities; the certificate stays.

        Raises:
            ConfigurationError: they cannot be used.
        """
        self._client_authorities = list(client_authorities)
        self.tls = server_context([self._certificate], self._key, self._client_authorities)

    def warn(self, now_ms: int) -> None:
        """Log, once a day, that the certificate ends soon."""
        if now_ms > self._until_ms - WARN_BEFORE_MS and now_ms - self._warned_ms >= _DAY_MS:
            self._warned_ms = now_ms
            left = {"until_ms": self._until_ms, "days_left": max(0, self._until_ms - now_ms) // _DAY_MS}
            _LOG.warning("tls_certificate_ends", extra=left)

    def _usable(self, pem: bytes) -> tuple[ServerTls, int]:
        self._certificate = certificate = from_pem(pem)[0]
        return server_context([certificate], self._key, self._client_authorities), describe(certificate).not_after_ms


def _authority(directory: Path) -> bytes:
    return from_pem(_read(directory / "keys" / "tls-ca.pem"))[0]


def _require_fit(certificate: bytes, key: TlsKey, path: Path) -> None:
    if spki_sha256(certificate) != key.spki_sha256():
        raise ConfigurationError(
            f"{path} is not the key of its certificate",
            reason="tls_key_mismatch",
            fix="put back the file that `aigovtool custodian init` wrote",
        )


def _read(path: Path) -> bytes:
    return read_secret_file(path, max_bytes=_MAX_BYTES).reveal()
