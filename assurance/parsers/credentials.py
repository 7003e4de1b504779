"""Credentials in files: party files, certificates of identities, key files, the custodian's and a witness's own.

None of them is signed as a whole, so a changed one may be taken: for what an independent reading finds in it (JSON by
hand; certificates and keys by hand from their DER), and only if its parts belong together.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final, cast

from conformance.malformed import der, edits

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.cli.credentials import read_party
from aigovtool.cli.document import read_document
from aigovtool.cli.public_file import read_public
from aigovtool.cli.seen import Seen
from aigovtool.codec import Message, encode
from aigovtool.consumer.credential import Credential, read_consumer_file
from aigovtool.crypto import x509
from aigovtool.crypto.identity import Identity, read_credential
from aigovtool.custodian.app import Settings, read_settings
from aigovtool.errors import (
    InputError,
    UnauthenticatedError,
)
from aigovtool.ids import BorrowerId, ConsumerId, Digest, OperatorId
from aigovtool.operator.deposit import KeyDeposit, read_deposit
from aigovtool.protocol.party import (
    MAX_PARTY_FILE_BYTES,
    BorrowerFile,
    ConsumerFile,
    CustodianAddress,
    Invitation,
    OperatorFile,
)
from aigovtool.protocol.views import PartyCertificate
from assurance.parsers import certificates, documents, key_files
from assurance.parsers.certificates import NotDerError
from assurance.parsers.envelopes import key
from assurance.parsers.files import in_file, in_folder
from assurance.parsers.key_files import BAD_KEYS, CUSTODIAN, REFUSALS, edit_second, kind_of
from assurance.parsers.parser import Kind, Parser, Parts, edit_one
from assurance.parsers.reading import by_hand, unwrapped

_PARTY: Final[Any] = BorrowerFile | ConsumerFile | OperatorFile


# --- Party files ---------------------------------------------------------------------------------


def _seed(name: str) -> bytes:
    return key(name).to_secret().reveal()


def _certificate(kind: str, name: str, borrower: str | None = None) -> str:
    return certificates.pem(certificates.client(kind, name, borrower)).decode()


@cache
def _parties() -> tuple[Parts, ...]:
    address = CustodianAddress(
        url="https://custodian.example:8443",
        root=key("root").public.raw,
        tls_ca=certificates.pem(certificates.authority("tls", tls=True)).decode(),
    )
    (policy,) = documents.drawn(AppraisalPolicy, 1)
    # Certificates of consumers say whose they are, but for those that earlier versions issued.
    found: list[Message] = [
        BorrowerFile(
            borrower=BorrowerId("st-mary"),
            custodian=address,
            certificate=_certificate("borrower", "st-mary"),
            enrolment_key=_seed("st-mary"),
        ),
        OperatorFile(
            operator=OperatorId("alice"),
            custodian=address,
            certificate=_certificate("operator", "alice"),
            key=_seed("alice"),
            keystore=bytes(range(32)),
        ),
        *(
            ConsumerFile(
                consumer=ConsumerId("ward-7"),
                borrower=BorrowerId("st-mary"),
                custodian=address,
                certificate=_certificate("consumer", "ward-7", borrower),
                key=_seed("ward-7"),
                policy=policy,
            )
            for borrower in (None, "st-mary")
        ),
    ]
    return tuple((encode(one),) for one in found)


def _edit_party(parts: Parts, chance: Random) -> Parts:
    """Change it, or exchange a member with another party's of the same kind of value."""
    (data,) = parts
    if chance.random() < 0.1:
        certificate = _certificate("consumer", "ward-7", chance.choice((None, "st-mary", "st-john", "ward-7")))
        return (documents.spelled({**by_hand(data), "certificate": certificate}).encode(),)
    if chance.random() < 0.3:
        (other,) = chance.choice(_parties())
        mine, theirs = by_hand(data), by_hand(other)
        name = chance.choice(("certificate", "key", "custodian", "consumer", "operator", "borrower", "policy", "party"))
        if name in theirs:
            return (documents.spelled({**mine, name: theirs[name]}).encode(),)
    return edit_one(parts, chance)


def _wrong_party(parts: Parts, value: object) -> str | None:
    return documents.disagreement(parts[0], _PARTY, value, MAX_PARTY_FILE_BYTES)


def _wrong_consumer(parts: Parts, value: object) -> str | None:
    """What was read must be in the file, and the certificate must be that of the key and of the name in it."""
    credential = cast("Credential", value)
    read = by_hand(parts[0])
    try:
        chain = certificates.unarmoured(read["certificate"].encode(), b"CERTIFICATE")
        authorities = certificates.unarmoured(read["custodian"]["tls_ca"].encode(), b"CERTIFICATE")
        leaf = certificates.read_certificate(chain[0])
    except NotDerError as error:
        return f"accepted with a certificate that is none: {error}"
    secret, policy = unwrapped(read["key"]) or b"", documents.spelled(read["policy"]).encode()
    same = {
        "chain": list(credential.chain) == chain,
        "authorities": list(credential.custodian_authorities) == authorities,
        "key": credential.key.public.raw == leaf.ed25519() and leaf.spki == certificates.public_of("ed25519", secret),
        "name": credential.consumer == read["consumer"],
        "borrower": credential.borrower == read["borrower"],
        "identity": leaf.identity() in {("consumer", read["consumer"], of) for of in (None, read["borrower"])},
        "address": credential.custodian_url == read["custodian"]["url"],
        "root": credential.custodian_root.raw == unwrapped(read["custodian"]["root"]),
        "policy": not documents.disagreement(policy, AppraisalPolicy, credential.policy, MAX_PARTY_FILE_BYTES),
    }
    wrong = [name for name, holds in same.items() if not holds]
    return f"a consumer file read as something else: {', '.join(wrong)}" if wrong else None


# --- Certificates --------------------------------------------------------------------------------


def _ders() -> tuple[Parts, ...]:
    parties = (("consumer", "ward-7"), ("operator", "alice"), ("borrower", "st-mary"))
    named = (certificates.client("consumer", "ward-7", "st-mary"), certificates.client("consumer", "a", "b" * 63))
    return (*((certificates.client(kind, name),) for kind, name in parties), *((one,) for one in named))


def _edit_der(parts: Parts, chance: Random) -> Parts:
    (data,) = parts
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        match chance.randrange(6):
            case 0:
                data = edits.edit(data, chance)
            case 1:
                names = (b"consumer", b"operator", b"borrower", b"ward-7", b"st-mary", b"aigovtool", b"urn", b":")
                others = (b"con\0umer", b"w\xc3rd-7", b"AARD-7", b"st:mary", b":t-mary", b"st-mar:", b"ward7:7", b".")
                data = data.replace(chance.choice(names), chance.choice((*names, *others)))
            case 2:
                at = data.find(bytes.fromhex("032100"))
                data = data[: at + 3] + chance.choice(BAD_KEYS)[:32].ljust(32, b"\0") + data[at + 35 :]
            case _:
                data = der.edit(data, chance)
    return (data or b"0",)


def _wrong_certificate(parts: Parts, value: object) -> str | None:
    found = cast("Identity", value)
    try:
        read = certificates.read_certificate(parts[0])
        said = read.identity(), read.ed25519(), read.is_for_clients()
    except (NotDerError, ValueError) as error:
        return f"accepted a certificate that is none: {error}"
    same = {
        "version": read.version == 3,
        "name": said[0] == (found.kind.value, found.name, found.borrower),
        "key": said[1] == found.public_key.raw and said[1] not in BAD_KEYS,
        "use": said[2],
        "validity": (read.since_ms, read.until_ms) == (found.not_before_ms, found.not_after_ms),
        "serial number": read.serial == found.serial > 0,
    }
    wrong = [name for name, holds in same.items() if not holds]
    return f"a certificate read as something else: {', '.join(wrong)}" if wrong else None


def _pems() -> tuple[Parts, ...]:
    chain = (certificates.authority("tls", tls=True), certificates.server("custodian"), *(one for (one,) in _ders()))
    return tuple((certificates.pem(*some),) for some in (chain[:1], chain[:2], chain[2:], chain))


def _read_pem(parts: Parts) -> list[tuple[bytes, bytes, x509.CertificateFacts, bool]]:
    ders = x509.from_pem(parts[0])
    return [(one, x509.spki_sha256(one), x509.describe(one), x509.is_issued_by(one, ders[0])) for one in ders]


def _wrong_pem(parts: Parts, value: object) -> str | None:
    found = cast("list[tuple[bytes, bytes, x509.CertificateFacts, bool]]", value)
    try:
        blocks = certificates.unarmoured(parts[0], b"CERTIFICATE")
        read = [certificates.read_certificate(one) for one in blocks]
    except (NotDerError, ValueError) as error:
        return f"accepted a certificate that is none: {error}"
    if [one for one, *_ in found] != blocks or not 1 <= len(found) <= 8:
        return "other certificates than are there"
    for (whole, spki, facts, _), one in zip(found, read, strict=True):
        times = facts.not_before_ms, facts.not_after_ms
        if spki != sha256(one.spki).digest() or facts.sha256 != sha256(whole).hexdigest():
            return "a certificate pinned by something else than its key"
        if times != (one.since_ms, one.until_ms):
            return "a certificate with another validity"
    return None


# --- Documents that hold no secret, or are nobody else's -----------------------------------------

_MANIFEST: Final = Digest("sha256:" + "ab" * 32)


def _read_deposit(path: Path) -> Message:
    return read_deposit(path, custodian=CUSTODIAN, manifest=_MANIFEST)


#: Message, and how it is read from a file.
_OWN: Final[tuple[tuple[type[Message], Any], ...]] = (
    (Settings, lambda path: read_settings(path.parent)),
    (KeyDeposit, _read_deposit),
    (Invitation, lambda path: read_public(path, Invitation, "an invitation")),
    (PartyCertificate, lambda path: read_public(path, PartyCertificate, "a certificate")),
    (Seen, lambda path: read_document(path, "seen.v1", Seen, None, what="what was seen", begin="begin anew")),
)


def _own() -> tuple[Parts, ...]:
    deposit = KeyDeposit(custodian=CUSTODIAN, manifest=_MANIFEST, wrapped_key=bytes(80))
    values = [(deposit,) if kind is KeyDeposit else documents.drawn(kind, 2) for kind, _ in _OWN]
    return tuple((str(at).encode(), encode(one)) for at, some in enumerate(values) for one in some)


def _read_own(parts: Parts) -> object:
    _, read = _OWN[int(parts[0])]
    return in_folder({"custodian.json": parts[1]}, lambda folder: read(folder / "custodian.json"))


def _wrong_own(parts: Parts, value: object) -> str | None:
    if isinstance(value, KeyDeposit) and (value.custodian, value.manifest) != (CUSTODIAN, _MANIFEST):
        return "a deposit for another package"
    return documents.disagreement(parts[1], _OWN[int(parts[0])][0], value)


def _make() -> tuple[Kind, ...]:
    consumers = _parties()[2:]
    return (
        kind_of("party-files", _parties(), _edit_party, lambda p: in_file(p[0], read_party), _wrong_party, weight=3),
        kind_of(
            "consumer-files",
            consumers,
            _edit_party,
            lambda p: in_file(p[0], read_consumer_file),
            _wrong_consumer,
            weight=4,
        ),
        kind_of(
            "certificates",
            _ders(),
            _edit_der,
            lambda parts: read_credential(parts[0]),
            _wrong_certificate,
            refusals=(UnauthenticatedError,),
            weight=6,
        ),
        kind_of("pem-files", _pems(), edit_one, _read_pem, _wrong_pem, refusals=(InputError,), weight=3),
        *key_files.kinds(),
        kind_of("own-files", _own(), edit_second, _read_own, _wrong_own, refusals=REFUSALS, weight=2),
    )


PARSER: Final = Parser(
    name="credentials",
    claim="No file of a party, certificate or key is taken for another identity or another key than is in it.",
    counts="files of operators, borrowers and consumers, certificates of identities and PEM files of certificates, "
    "private keys, root keys as text, the directories of a custodian's keys and of a witness, and files of one's own, "
    "with members, elements of DER and whole parts changed or exchanged. What is taken is what JSON, certificates and "
    "keys say when they are read by hand, and its parts belong together: certificate and key, key and key set, name "
    "and verifier key. No key of small order is taken.",
    shows_not="chains and possession of keys, which OpenSSL verifies in the handshake; who may read a file.",
    covers=(
        *documents.COVERS,
        "src/aigovtool/attestation/model.py",
        "src/aigovtool/attestation/policy.py",
        "src/aigovtool/cli/audit/root.py",
        "src/aigovtool/cli/credentials.py",
        "src/aigovtool/cli/document.py",
        "src/aigovtool/cli/public_file.py",
        "src/aigovtool/cli/seen.py",
        "src/aigovtool/consumer/credential.py",
        "src/aigovtool/crypto",
        "src/aigovtool/custodian/activation_keys.py",
        "src/aigovtool/custodian/app.py",
        "src/aigovtool/custodian/keys.py",
        "src/aigovtool/ledger/checkpoint.py",
        "src/aigovtool/ledger/cosignature.py",
        "src/aigovtool/operator/deposit.py",
        "src/aigovtool/operator/witness_home.py",
        "src/aigovtool/protocol/party.py",
        "src/aigovtool/protocol/trust.py",
        "src/aigovtool/protocol/views.py",
        "assurance/machine.py",
        "assurance/parsers/certificates.py",
        "assurance/parsers/credentials.py",
        "assurance/parsers/envelopes.py",
        "assurance/parsers/files.py",
        "assurance/parsers/key_files.py",
    ),
    make=_make,
)
