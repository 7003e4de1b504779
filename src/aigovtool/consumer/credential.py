"""What a consumer file says, checked: who the consumer is, how it proves it, and whom it believes.

The salt of a receipt is derived from the credential's key and the request id (HMAC-SHA-256): nobody else can
guess it, and a request that is repeated, by another process too, has the same salt as the first time, so that the
receipt that the enclave kept for it still fits.
"""

import hmac
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import decode
from aigovtool.crypto.identity import IdentityKind, read_credential
from aigovtool.crypto.keyfile import read_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, VerifyKey
from aigovtool.crypto.x509 import from_pem
from aigovtool.errors import ConfigurationError, IdentityError, InputError, VerificationError
from aigovtool.ids import BorrowerId, ConsumerId, Digest, ModelId, RequestKey, parse_digest, parse_name
from aigovtool.protocol.party import MAX_PARTY_FILE_BYTES, BorrowerFile, ConsumerFile, OperatorFile

_SALT_LABEL: Final = b"aigovtool receipt salt v1\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A consumer's identity and trust anchors; certificates in DER. `salt_key` never leaves it."""

    consumer: ConsumerId
    borrower: BorrowerId
    chain: tuple[bytes, ...]
    key: SigningKey
    custodian_url: str
    custodian_root: VerifyKey
    custodian_authorities: tuple[bytes, ...]
    policy: AppraisalPolicy
    salt_key: Secret = field(repr=False)

    def salt(self, request_key: RequestKey) -> bytes:
        """Return the 32-byte salt of the digests in the receipt of one request."""
        return hmac.digest(self.salt_key.reveal(), request_key.encode(), "sha256")


def read_consumer_file(path: Path) -> Credential:
    """Read a consumer file that only this user can open.

    Raises:
        ConfigurationError: those of `read_secret_file`, and `bad_consumer_file` when it is no consumer file, or its
            parts do not belong together; `wrong_party_file` when it is a borrower's or an operator's.
    """
    with read_secret_file(path, max_bytes=MAX_PARTY_FILE_BYTES) as content:
        try:
            return credential_of(decode(content.reveal(), ConsumerFile, max_bytes=MAX_PARTY_FILE_BYTES))
        except (InputError, IdentityError, VerificationError) as error:
            _refuse_other_party(path, content)
            raise _bad(f"{path} is not a usable consumer file: {error.message}") from None


def _refuse_other_party(path: Path, content: Secret) -> None:
    """Say which kind of party file this is, if it is one of another kind."""
    for kind, name in ((BorrowerFile, "a borrower"), (OperatorFile, "an operator")):
        with suppress(InputError):
            decode(content.reveal(), kind, max_bytes=MAX_PARTY_FILE_BYTES)
            raise ConfigurationError(
                f"{path} is {name} file; here a consumer file is needed",
                reason="wrong_party_file",
                fix="use the file that `aigovtool consumer add` wrote",
            )


def credential_of(file: ConsumerFile) -> Credential:
    """Return the credential in `file`.

    Raises:
        ConfigurationError: `bad_consumer_file` when certificate and key, or certificate and name, differ.
        InputError, IdentityError, VerificationError: a part cannot be parsed.
    """
    chain = tuple(from_pem(file.certificate.encode()))
    with Secret(file.key) as seed:
        key = SigningKey.from_secret(seed)
        salt_key = Secret(hmac.digest(seed.reveal(), _SALT_LABEL, sha256().name))
    identity = read_credential(chain[0])
    if identity.public_key != key.public:
        raise _bad("the certificate in the consumer file is for another key")
    if (identity.kind, identity.name) != (IdentityKind.CONSUMER, file.consumer):
        raise _bad(f"the certificate in the consumer file is not that of consumer {file.consumer}")
    if identity.borrower not in {None, file.borrower}:
        raise _bad(f"the certificate in the consumer file is not for a consumer of {file.borrower}")
    return Credential(
        consumer=file.consumer,
        borrower=file.borrower,
        chain=chain,
        key=key,
        custodian_url=file.custodian.url,
        custodian_root=VerifyKey(file.custodian.root),
        custodian_authorities=tuple(from_pem(file.custodian.tls_ca.encode())),
        policy=file.policy,
        salt_key=salt_key,
    )


def parse_pins(models: Mapping[str, str] | None) -> Mapping[ModelId, Digest]:
    """Return manifest digests by model, as the caller pinned them.

    Raises:
        InvalidValueError: `bad_name`, `bad_digest`.
    """
    return {ModelId(parse_name(name, "model")): parse_digest(digest) for name, digest in (models or {}).items()}


def _bad(message: str) -> ConfigurationError:
    return ConfigurationError(message, reason="bad_consumer_file", fix="ask the custodian for a new consumer file")
