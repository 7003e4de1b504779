"""What came along with a report, recognised by its content (spec: attestation/snp, 3).

A host's certificate table, certificates in DER or PEM, revocation lists: in any number and order. The names in a
certificate say what it is meant to be, and each is there at most once; whether it is that is for the chain to show.
"""

import re
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography import x509

from aigovtool.attestation.certificates import fingerprint, read_certificates, read_revocation_list
from aigovtool.attestation.tee.snp.endorsement_key import common_name
from aigovtool.attestation.tee.snp.table import Content, looks_like_table, read_table
from aigovtool.errors import EvidenceError

_Part = x509.Certificate | x509.CertificateRevocationList

#: AMD keeps one list for VCEKs and one for VLEKs, both signed by the same ARK; older ones may come along.
_MOST_LISTS: Final = 4


class Role(StrEnum):
    """What a certificate is meant to be."""

    VCEK = "vcek"
    VLEK = "vlek"
    AUTHORITY = "authority"
    ROOT = "root"


_NAMES: Final = (
    (re.compile(r"SEV-VCEK"), Role.VCEK),
    (re.compile(r"SEV-VLEK"), Role.VLEK),
    (re.compile(r"SEV-(VLEK-)?[A-Z][a-z]+"), Role.AUTHORITY),
    (re.compile(r"ARK-[A-Z][a-z]+"), Role.ROOT),
)
#: What an entry of the host's table may hold; a list is none of these.
_ROLES: Final = {
    Content.ARK: Role.ROOT,
    Content.ASK: Role.AUTHORITY,
    Content.VCEK: Role.VCEK,
    Content.VLEK: Role.VLEK,
}


@dataclass(frozen=True, slots=True)
class Endorsements:
    """What came along. `authority` is an ASK or ASVK, `root` an ARK; what is None was left out."""

    leaf: x509.Certificate
    authority: x509.Certificate | None
    root: x509.Certificate | None
    lists: tuple[x509.CertificateRevocationList, ...]


def read_endorsements(endorsements: Sequence[bytes]) -> Endorsements:
    """Return what came along, sorted; nothing is verified.

    Raises:
        EvidenceError: `endorsement_unknown` for anything else than the parts named above, `endorsement_twice` for two
            of a kind, `leaf_missing`, and those of `read_table` and `read_certificates`.
    """
    certificates, lists = read_parts(endorsements)
    if Role.VCEK not in certificates:
        raise EvidenceError("no certificate of the key that signed the report came along", reason="leaf_missing")
    return Endorsements(
        leaf=certificates[Role.VCEK],
        authority=certificates.get(Role.AUTHORITY),
        root=certificates.get(Role.ROOT),
        lists=lists,
    )


def read_parts(
    endorsements: Sequence[bytes],
) -> tuple[dict[Role, x509.Certificate], tuple[x509.CertificateRevocationList, ...]]:
    """Return what came along, sorted: certificates, of which the leaf of either kind is there as a VCEK, and lists.

    Raises:
        EvidenceError: as `read_endorsements`, but for `leaf_missing`.
    """
    certificates: dict[Role, x509.Certificate] = {}
    lists: dict[bytes, x509.CertificateRevocationList] = {}
    for part in _parts(endorsements):
        if isinstance(part, x509.Certificate):
            role = Role.VCEK if (found := role_of(part)) is Role.VLEK else found  # a bundle has one leaf of either kind
            # The same certificate may come along twice: in the host's table, and from whoever completed the evidence.
            _require_first(certificates.get(role, part) != part, found)
            certificates[role] = part
        else:
            lists[part.signature] = part  # the verifier adds the newest one, which may have come along
            _require_few(lists)
    return certificates, tuple(lists.values())


def role_of(certificate: x509.Certificate) -> Role:
    """Return what the common name of `certificate` says it is.

    Raises:
        EvidenceError: `endorsement_unknown`.
    """
    name = common_name(certificate.subject)
    for pattern, role in _NAMES:
        if pattern.fullmatch(name):
            return role
    raise EvidenceError(
        f"a certificate that is none of AMD's came along ({fingerprint(certificate)})", reason="endorsement_unknown"
    )


def _parts(endorsements: Sequence[bytes]) -> Iterator[_Part]:
    for endorsement in endorsements:
        if looks_like_table(endorsement):
            yield from _table_parts(endorsement)
        else:
            yield from _file_parts(endorsement)


def _table_parts(data: bytes) -> Iterator[_Part]:
    for entry in read_table(data):
        if entry.content is Content.CRL:
            yield read_revocation_list(entry.data)
            continue
        certificates = read_certificates(entry.data)
        if [role_of(one) for one in certificates] != [_ROLES[entry.content]]:
            raise EvidenceError(f"the certificate table has another thing as its {entry.content}", reason="table_entry")
        yield from certificates


def _file_parts(data: bytes) -> Iterator[_Part]:
    """Read a file whose form says what it is, or DER, which may be a certificate or a list."""
    if data.startswith(b"-----BEGIN X509 CRL-----"):
        yield read_revocation_list(data)
    elif data.startswith(b"-----BEGIN "):
        yield from read_certificates(data)
    else:
        yield _der_part(data)


def _der_part(data: bytes) -> _Part:
    readers: tuple[Callable[[bytes], tuple[_Part, ...]], ...] = (
        read_certificates,
        lambda der: (read_revocation_list(der),),
    )
    for read in readers:
        with suppress(EvidenceError):
            (part,) = read(data)
            return part
    raise EvidenceError(
        f"an endorsement of {len(data)} bytes is no certificate table, certificate or revocation list",
        reason="endorsement_unknown",
    )


def _require_few(lists: Sized) -> None:
    if len(lists) > _MOST_LISTS:
        raise EvidenceError(f"more than {_MOST_LISTS} revocation lists came along", reason="endorsement_twice")


def _require_first(again: object, what: str) -> None:
    if again:
        raise EvidenceError(f"more than one {what} came along", reason="endorsement_twice")
