"""The custodian's keys: an offline root, and a signed key set with one key per role.

```
DIR/offline/root.key       Ed25519; signs key sets only; to be moved to offline storage after `init`
DIR/keys/commands.key      Ed25519; signs what enclaves and parties are told
DIR/keys/log.key           Ed25519; signs checkpoints
DIR/keys/credentials.key   Ed25519; certificate authority of client certificates
DIR/keys/keystore.key      X25519; opens the keys of sealed models
DIR/keys/tls-ca.key, tls.key    P-256; the custodian's own TLS
DIR/keys/attestation.key        P-256; authority that certifies attestation keys which were activated here
```

Serving never reads the root key. A custodian that an earlier version made has no `attestation.key`, and certifies none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aigovtool.codec import decode, encode
from aigovtool.crypto.keyfile import (
    make_private_directory,
    read_secret_file,
    read_signing_key,
    read_tls_key,
    write_key,
    write_secret_file,
)
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, SigningKey, VerifyKey, seal
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.wrap import WrapKey
from aigovtool.crypto.x509 import (
    describe,
    from_pem,
    issue_server_certificate,
    new_authority,
    spki_sha256,
    to_pem,
)
from aigovtool.errors import ConfigurationError
from aigovtool.ids import KeyId
from aigovtool.protocol.trust import KEY_SET, KeySet, open_key_set

_TEN_YEARS_MS: Final = 10 * 365 * 86_400_000
_ONE_YEAR_MS: Final = 365 * 86_400_000
_BACKDATE_MS: Final = 3_600_000
_ACTIVATION_LABEL: Final = b"aigovtool tpm activation key v1\0"


@dataclass(frozen=True, slots=True)
class CustodianKeys:
    """Everything that a serving custodian signs, opens and shows."""

    root: VerifyKey
    commands: SigningKey
    log: SigningKey
    credentials: SigningKey
    credentials_ca: bytes
    keystore: WrapKey
    tls: TlsKey
    tls_certificate: bytes
    tls_ca: bytes
    key_set: KeySet
    key_set_envelope: Envelope
    attestation: TlsKey | None

    @property
    def custodian(self) -> KeyId:
        """The custodian's identifier: that of its root key."""
        return self.root.key_id

    def activation_key(self) -> bytes:
        """Return the 32 bytes from which secrets for attestation keys are made: HKDF-SHA-256 of the commands key.

        It is the same on every machine that serves this custodian, and says nothing about the key it comes from.
        """
        with self.commands.to_secret() as seed:
            info = _ACTIVATION_LABEL + self.custodian.encode()
            return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(seed.reveal())


def create(directory: Path, hosts: list[str], now_ms: int) -> CustodianKeys:
    """Make all keys and certificates of a new custodian in `directory`.

    Raises:
        ConflictError: a key exists already (`key_file_exists`).
        ConfigurationError: a file cannot be written, or others can write to its directory.
        InvalidValueError: one of `hosts` is no name or address; nothing was written.
    """
    root, commands, log, credentials = (SigningKey.generate() for _ in range(4))
    tls_ca_key, tls, attestation = (TlsKey.generate() for _ in range(3))
    keystore = WrapKey.generate()
    span = {"not_before_ms": now_ms - _BACKDATE_MS, "not_after_ms": now_ms + _TEN_YEARS_MS}
    credentials_ca = new_authority(credentials, "aigovtool credentials", **span)
    tls_ca = new_authority(tls_ca_key, "aigovtool custodian tls", **span)
    certificate = new_server_certificate(tls_ca_key, tls_ca, tls, hosts, now_ms)
    key_set = KeySet(
        custodian=root.public.key_id,
        version=1,
        issued_at_ms=now_ms,
        commands=[commands.public.raw],
        log=[log.public.raw],
        credentials=[credentials_ca],
        keystore=keystore.public,
        attestation=(new_authority(attestation, "aigovtool attestation keys", **span),),
    )
    for name in ("", "offline", "keys"):
        make_private_directory(directory / name)
    write_key(directory / "offline" / "root.key", root)
    for name, key in {"commands": commands, "log": log, "credentials": credentials}.items():
        write_key(directory / "keys" / f"{name}.key", key)
    for name, tls_key in {"tls-ca": tls_ca_key, "tls": tls, "attestation": attestation}.items():
        write_key(directory / "keys" / f"{name}.key", tls_key)
    write_secret_file(directory / "keys" / "keystore.key", keystore.to_secret())
    public = {
        "root.pub": root.public.raw,
        "key-set.json": encode(seal(KEY_SET, key_set, root)),
        "tls-ca.pem": to_pem(tls_ca),
        "tls.pem": to_pem(certificate),
    }
    for name, content in public.items():
        write_secret_file(directory / "keys" / name, Secret(content))
    return load(directory)


def new_server_certificate(
    authority_key: TlsKey, authority: bytes, key: TlsKey, hosts: Sequence[str], now_ms: int
) -> bytes:
    """Return a certificate of the custodian's server for `hosts`, good for a year, or as long as its authority is.

    Raises:
        InvalidValueError: one of `hosts` is no name or address; the authority's own time is over (`bad_validity`).
    """
    return issue_server_certificate(
        authority_key,
        authority,
        key,
        hosts,
        not_before_ms=now_ms - _BACKDATE_MS,
        not_after_ms=min(now_ms + _ONE_YEAR_MS, describe(authority).not_after_ms),
    )


def load(directory: Path) -> CustodianKeys:
    """Read the keys of a serving custodian and check that they belong together.

    Raises:
        ConfigurationError: a file is missing, unsafe, or does not fit the signed key set.
    """
    keys = directory / "keys"
    root = VerifyKey(_read(keys / "root.pub"))
    envelope = decode(_read(keys / "key-set.json"), Envelope)
    key_set = open_key_set(envelope, root)
    commands, log, credentials = (read_signing_key(keys / f"{name}.key") for name in ("commands", "log", "credentials"))
    keystore = WrapKey.from_secret(read_secret_file(keys / "keystore.key"))
    tls, tls_certificate = read_tls_key(keys / "tls.key"), from_pem(_read(keys / "tls.pem"))[0]
    attestation = read_tls_key(keys / "attestation.key") if key_set.attestation else None
    fits = (
        commands.public.raw in key_set.commands
        and log.public.raw in key_set.log
        and keystore.public == key_set.keystore
        and [spki_sha256(authority) for authority in key_set.credentials[:1]] == [_spki_sha256(credentials)]
        and spki_sha256(tls_certificate) == tls.spki_sha256()
        and (attestation is None or spki_sha256(key_set.attestation[0]) == attestation.spki_sha256())
    )
    if not fits:
        raise ConfigurationError("the key files do not fit the signed key set", reason="key_set_mismatch")
    return CustodianKeys(
        root=root,
        commands=commands,
        log=log,
        credentials=credentials,
        credentials_ca=key_set.credentials[0],
        keystore=keystore,
        tls=tls,
        tls_certificate=tls_certificate,
        tls_ca=from_pem(_read(keys / "tls-ca.pem"))[0],
        key_set=key_set,
        key_set_envelope=envelope,
        attestation=attestation,
    )


def _spki_sha256(key: SigningKey) -> bytes:
    public = key.private().public_key()
    return sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _read(path: Path) -> bytes:
    return read_secret_file(path, max_bytes=1 << 20).reveal()
