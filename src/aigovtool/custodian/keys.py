"""The custodian's keys: an offline root, and a signed key set with one key per role.

```
DIR/offline/root.key       Ed25519; signs key sets only; to be moved to offline storage after `init`
DIR/keys/commands.key      Ed25519; signs what enclaves and parties are told
DIR/keys/log.key           Ed25519; signs checkpoints
DIR/keys/credentials.key   Ed25519; certificate authority of client certificates
DIR/keys/keystore.key      X25519; opens the keys of sealed models
DIR/keys/tls-ca.key, tls.key    P-256; the custodian's own TLS
DIR/keys/attestation.key        P-256; authority that certifies attestation keys which were activated here
DIR/keys/activation.ID.key      what they are activated by (`activation_keys`)
```

DIR/keys/ROLE.next.key     of a role but TLS: made and in the key set, to be used next (`key_rotation`)
DIR/keys/keystore.old.key       opens what was deposited to an earlier keystore key, until it is wrapped anew

Serving never reads the root key. A custodian that an earlier version made has no `attestation.key`, and certifies none;
its activation key is made when it is served for the first time (`load_to_serve`).

Which key is used follows from the signed set: `ROLE.key` if the set has it, else `ROLE.next.key` if the set has that.
So a rotation that is broken off between any two steps leaves a custodian that serves.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

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
from aigovtool.custodian.activation_keys import make_activation, read_activation
from aigovtool.errors import ConfigurationError, SignatureInvalidError
from aigovtool.ids import Digest, KeyId
from aigovtool.protocol.release import deposit_context
from aigovtool.protocol.trust import KEY_SET, KeySet, open_key_set

K = TypeVar("K")

_AUTHORITIES: Final = {"credentials": "aigovtool credentials", "attestation": "aigovtool attestation keys"}
_TEN_YEARS_MS: Final = 10 * 365 * 86_400_000
_ONE_YEAR_MS: Final = 365 * 86_400_000
_BACKDATE_MS: Final = 3_600_000


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
    #: What was deposited to another keystore key than the present opens with one of these.
    other_keystores: tuple[WrapKey, ...] = ()
    #: Whether they are only for what is to be wrapped anew, to the present one.
    rewrap: bool = False
    #: From which credentials for attestation keys are made: the same on every machine that serves this custodian.
    activation: bytes | None = field(default=None, repr=False)
    #: Those of the other authorities in the key set: what was made from them is as good.
    other_activations: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def custodian(self) -> KeyId:
        """The custodian's identifier: that of its root key."""
        return self.root.key_id

    @property
    def attestation_ca(self) -> bytes | None:
        """The authority whose key certifies attestation keys here."""
        return None if self.attestation is None else _authority_of(self.attestation, self.key_set.attestation)

    def open_deposit(self, wrapped: bytes, manifest: Digest) -> Secret:
        """Return the key of a sealed model that was deposited to the keystore, or to an earlier one.

        Raises:
            SignatureInvalidError: it opens with none (`wrong_context`).
        """
        context = deposit_context(self.custodian, manifest)
        for other in self.other_keystores:
            with suppress(SignatureInvalidError):
                return other.unwrap(wrapped, context)
        try:
            return self.keystore.unwrap(wrapped, context)
        except SignatureInvalidError as error:
            error.fix = (
                "of a model that was lent before: put the keystore key of then back as keys/keystore.old.key; of a new "
                "one, if the keystore key was rotated: aigovtool renew OPERATOR-FILE, then seal the model again"
            )
            raise


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
    credentials_ca = new_own_authority(credentials, "credentials", 1, now_ms)
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
        attestation=(new_own_authority(attestation, "attestation", 1, now_ms),),
    )
    for name in ("", "offline", "keys"):
        make_private_directory(directory / name)
    write_key(directory / "offline" / "root.key", root)
    for name, key in {"commands": commands, "log": log, "credentials": credentials}.items():
        write_key(directory / "keys" / f"{name}.key", key)
    for name, tls_key in {"tls-ca": tls_ca_key, "tls": tls, "attestation": attestation}.items():
        write_key(directory / "keys" / f"{name}.key", tls_key)
    write_secret_file(directory / "keys" / "keystore.key", keystore.to_secret())
    make_activation(directory / "keys", key_set.attestation[0])
    public = {
        "root.pub": root.public.raw,
        "key-set.json": encode(seal(KEY_SET, key_set, root)),
        "tls-ca.pem": to_pem(tls_ca),
        "tls.pem": to_pem(certificate),
    }
    for name, content in public.items():
        write_secret_file(directory / "keys" / name, Secret(content))
    return load(directory)


def new_own_authority(key: SigningKey | TlsKey, role: str, version: int, now_ms: int) -> bytes:
    """Return the certificate of an authority for the key set, good for ten years.

    Its name tells it from those of earlier versions: whoever builds a chain goes by names first.
    """
    name = _AUTHORITIES[role] if version == 1 else f"{_AUTHORITIES[role]} {version}"
    return new_authority(key, name, not_before_ms=now_ms - _BACKDATE_MS, not_after_ms=now_ms + _TEN_YEARS_MS)


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


def load_to_serve(directory: Path) -> CustodianKeys:
    """Read the keys as `load`; in a directory of an earlier version make the activation key first that it lacks."""
    keys = load(directory)
    if keys.activation is not None:
        return keys
    make_activation(directory / "keys", keys.attestation_ca)
    return load(directory)


def load(directory: Path) -> CustodianKeys:
    """Read the keys of a serving custodian and check that they belong together.

    Raises:
        ConfigurationError: a file is missing, unsafe, or does not fit the signed key set.
    """
    keys = directory / "keys"
    root = VerifyKey(_read(keys / "root.pub"))
    envelope = decode(_read(keys / "key-set.json"), Envelope)
    key_set = open_key_set(envelope, root)
    keystores = _keystores(keys, key_set)
    tls, tls_certificate = read_tls_key(keys / "tls.key"), from_pem(_read(keys / "tls.pem"))[0]
    if spki_sha256(tls_certificate) != tls.spki_sha256():
        raise _mismatch()
    credentials = _in_use(keys, "credentials", read_signing_key, lambda key: _is_among(key, key_set.credentials))
    attestation = (
        _in_use(keys, "attestation", read_tls_key, lambda key: _is_among(key, key_set.attestation))
        if key_set.attestation
        else None
    )
    authority = None if attestation is None else _authority_of(attestation, key_set.attestation)
    others = (read_activation(keys, other) for other in key_set.attestation if other != authority)
    return CustodianKeys(
        root=root,
        commands=_in_use(keys, "commands", read_signing_key, lambda key: key.public.raw in key_set.commands),
        log=_in_use(keys, "log", read_signing_key, lambda key: key.public.raw in key_set.log),
        credentials=credentials,
        credentials_ca=_authority_of(credentials, key_set.credentials),
        keystore=keystores[0],
        tls=tls,
        tls_certificate=tls_certificate,
        tls_ca=from_pem(_read(keys / "tls-ca.pem"))[0],
        key_set=key_set,
        key_set_envelope=envelope,
        attestation=attestation,
        other_keystores=keystores[1:],
        rewrap=not next_path(keys, "keystore").exists() and old_keystore_path(keys).exists(),
        activation=read_activation(keys, authority),
        other_activations=tuple(other for other in others if other is not None),
    )


def next_path(keys: Path, role: str) -> Path:
    """Return where the key of a role lies that is to be used next."""
    return keys / f"{role}.next.key"


def old_keystore_path(keys: Path) -> Path:
    """Return where a keystore key lies that only opens what is to be wrapped anew."""
    return keys / "keystore.old.key"


def read_keystore(path: Path) -> WrapKey:
    """Read a keystore key; raises as `read_secret_file`, or `SignatureInvalidError` with reason `bad_key`."""
    with read_secret_file(path) as secret:
        return WrapKey.from_secret(secret)


def authority_id(key: SigningKey | TlsKey) -> bytes:
    """Return the SHA-256 of a key's SubjectPublicKeyInfo, by which its certificates are found."""
    return key.spki_sha256() if isinstance(key, TlsKey) else _spki_sha256(key)


def _in_use(keys: Path, role: str, read: Callable[[Path], K], fits: Callable[[K], bool]) -> K:
    path, coming = keys / f"{role}.key", next_path(keys, role)
    if path.exists() or not coming.exists():
        key = read(path)
        if fits(key):
            return key
    if coming.exists():
        key = read(coming)
        if fits(key):
            return key
    raise _mismatch()


def _keystores(keys: Path, key_set: KeySet) -> tuple[WrapKey, ...]:
    """Return all keystore keys, the one of the key set first."""
    further = [path for path in (next_path(keys, "keystore"), old_keystore_path(keys)) if path.exists()]
    found = [read_keystore(path) for path in (keys / "keystore.key", *further)]
    if all(key.public != key_set.keystore for key in found):
        raise _mismatch()
    return tuple(sorted(found, key=lambda key: key.public != key_set.keystore))


def _is_among(key: SigningKey | TlsKey, authorities: Sequence[bytes]) -> bool:
    return authority_id(key) in [spki_sha256(authority) for authority in authorities]


def _authority_of(key: SigningKey | TlsKey, authorities: Sequence[bytes]) -> bytes:
    return next(authority for authority in authorities if spki_sha256(authority) == authority_id(key))


def _mismatch() -> ConfigurationError:
    return ConfigurationError("the key files do not fit the signed key set", reason="key_set_mismatch")


def _spki_sha256(key: SigningKey) -> bytes:
    public = key.private().public_key()
    return sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _read(path: Path) -> bytes:
    return read_secret_file(path, max_bytes=1 << 20).reveal()
