"""The certificates by which parties are known on a connection."""

from typing import Final

from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.sign import VerifyKey
from aigovtool.crypto.x509 import issue_client_certificate, to_pem
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.keys import CustodianKeys
from aigovtool.custodian.store import parties
from aigovtool.custodian.store.records import Party
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.ledger.entry import PartyRole
from aigovtool.protocol.views import PartyCertificate

_BACKDATE_MS: Final = 3_600_000


def certificate_for(keys: CustodianKeys, party: Party, *, now_ms: int) -> str:
    """Return the client certificate (PEM) of a party; of a consumer it says whose it is."""
    certificate = issue_client_certificate(
        keys.credentials,
        keys.credentials_ca,
        VerifyKey(party.key),
        IdentityKind(party.role.value),
        party.name,
        not_before_ms=now_ms - _BACKDATE_MS,
        not_after_ms=party.not_after_ms,
        borrower=party.borrower,
    )
    return to_pem(certificate).decode()


async def show_certificate(custodian: Custodian, role: PartyRole, name: str) -> PartyCertificate:
    """Issue the certificate of an enrolled party again, for the same key and until the same end.

    For whoever made the key but did not see the answer to the enrolment, because a second operator sent the order.

    Raises:
        ForbiddenError: there is no such party, or it was revoked (`not_enrolled`).
        InvalidValueError: its time is over.
    """

    def job(transaction: Transaction) -> PartyCertificate:
        party, now_ms = parties.require(transaction, role, name), custodian.now(transaction)
        made = certificate_for(custodian.keys, party, now_ms=now_ms)
        return PartyCertificate(key=party.key, certificate=made)

    return await custodian.database.run(job)
