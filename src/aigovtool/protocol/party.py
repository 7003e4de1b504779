"""The one file that a party needs: its own credential, and whom it may believe.

`aigovtool borrower add`, `consumer add` and `custodian init` (for the first operator) write these. A party
file holds a private key: it is written 0600 and refused when others can read it.
"""

from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import Message, convert, encode, text_like
from aigovtool.crypto.sign import Envelope
from aigovtool.errors import AIGovToolError, InvalidValueError
from aigovtool.ids import BorrowerId, ConsumerId, Digest, OperatorId, Units, digest_of

_Seed = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Url = Annotated[str, text_like(r"^https://[A-Za-z0-9.:\[\]-]{1,255}$(?!\n)", "https://HOST or https://HOST:PORT")]
MAX_PARTY_FILE_BYTES = 1 << 20


class CustodianAddress(Message):
    """Where the custodian is and how to recognise it. `root` is its raw Ed25519 root key."""

    url: _Url
    root: _Key
    tls_ca: str

    def fingerprint(self) -> Digest:
        """Return what people compare: who changed the address or the authority on the way would stand in between."""
        return digest_of(encode(self))


class BorrowerFile(Message, tag_field="party", tag="borrower"):
    """Everything an enclave of this borrower needs."""

    borrower: BorrowerId
    custodian: CustodianAddress
    certificate: str
    enrolment_key: _Seed

    def configuration(self) -> Digest:
        """Return the digest of the configuration that the enclave's evidence covers: all but the secret."""
        return digest_of(encode(EnclaveConfiguration(borrower=self.borrower, custodian=self.custodian)))


class EnclaveConfiguration(Message):
    """What decides whom an enclave obeys; measured into its evidence."""

    borrower: BorrowerId
    custodian: CustodianAddress


class ConsumerFile(Message, tag_field="party", tag="consumer"):
    """Everything a consumer needs. `policy` says which evidence it accepts."""

    consumer: ConsumerId
    borrower: BorrowerId
    custodian: CustodianAddress
    certificate: str
    key: _Seed
    policy: AppraisalPolicy


class OperatorFile(Message, tag_field="party", tag="operator", omit_defaults=True):
    """Everything an operator needs. `keystore` is the X25519 key to which new model keys are wrapped.

    `key_set` is the version of the custodian's key set that it is from, as far as known: no older one is believed.
    """

    operator: OperatorId
    custodian: CustodianAddress
    certificate: str
    key: _Seed
    keystore: _Key
    key_set: Units = 0


class Invitation(Message):
    """What who is to become an operator must know of the custodian; nothing in it is secret.

    Whoever compares the custodian's fingerprint has compared all of it: the keystore key is in the key set, which the
    root key has signed.
    """

    custodian: CustodianAddress
    key_set: Envelope


def parse_url(text: str) -> str:
    """Return the address under which parties find a custodian or an enclave, if it is one that party files take.

    Raises:
        InvalidValueError: with reason `bad_url`.
    """
    try:
        url = convert(text, _Url)
        port = urlsplit(url).port
    except (AIGovToolError, ValueError):
        url, port = "", None
    if not url or port == 0:
        raise InvalidValueError(
            f"{text!r} is not an address that parties can use",
            reason="bad_url",
            fix="use https://HOST or https://HOST:PORT",
        )
    return url


PartyFile = BorrowerFile | ConsumerFile | OperatorFile


def known_key_set(party: PartyFile) -> int:
    """Return the version of the newest key set of the custodian that a file knows of; 0 for none."""
    return party.key_set if isinstance(party, OperatorFile) else 0
