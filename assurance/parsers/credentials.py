"""Credentials in files: party files, certificates of identities, key files, the custodian's and a witness's own.

None of them is signed as a whole, so a changed one may be taken: for what an independent reading finds in it (JSON by
hand; certificates and keys by hand from their DER), and only if its parts belong together.
"""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final, cast

from conformance.malformed import der, edits, structured
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.cli.audit.root import root_of
from aigovtool.cli.credentials import read_party
from aigovtool.cli.document import read_document
from aigovtool.cli.public_file import read_public
from aigovtool.cli.seen import Seen
from aigovtool.codec import Message, encode
from aigovtool.consumer.credential import Credential, read_consumer_file
from aigovtool.crypto import x509
from aigovtool.crypto.identity import Identity, read_credential
from aigovtool.crypto.keyfile import read_signing_key, read_tls_key
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, VerifyKey, seal
from aigovtool.crypto.tlskey import TlsKey, key_to_pem
from aigovtool.crypto.wrap import WrapKey
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.app import Settings, read_settings
from aigovtool.errors import (
    ConfigurationError,
    InputError,
    UnauthenticatedError,
    VerificationError,
)
from aigovtool.ids import BorrowerId, ConsumerId, Digest, OperatorId, key_id_of
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.cosignature import WitnessKey, cosign
from aigovtool.operator.deposit import KeyDeposit, read_deposit
from aigovtool.operator.witness_home import FORMAT, Memory, Remembered, WitnessHome
from aigovtool.protocol.party import (
    MAX_PARTY_FILE_BYTES,
    BorrowerFile,
    ConsumerFile,
    CustodianAddress,
    Invitation,
    OperatorFile,
)
from aigovtool.protocol.trust import KEY_SET, KeySet
from aigovtool.protocol.views import PartyCertificate
from assurance.parsers import certificates, documents
from assurance.parsers.certificates import NotDerError
from assurance.parsers.envelopes import edited, key, verified_by_hand
from assurance.parsers.files import in_file, in_folder
from assurance.parsers.parser import Kind, Parser, Parts, edit_one
from assurance.parsers.reading import by_hand, unwrapped

_PARTY: Final[Any] = BorrowerFile | ConsumerFile | OperatorFile
_REFUSALS: Final = (ConfigurationError, InputError, VerificationError)


# --- Party files ---------------------------------------------------------------------------------


def _seed(name: str) -> bytes:
    return key(name).to_secret().reveal()


def _certificate(kind: str, name: str) -> str:
    return certificates.pem(certificates.client(kind, name)).decode()


@cache
def _parties() -> tuple[Parts, ...]:
    address = CustodianAddress(
        url="https://custodian.example:8443",
        root=key("root").public.raw,
        tls_ca=certificates.pem(certificates.authority("tls", tls=True)).decode(),
    )
    (policy,) = documents.drawn(AppraisalPolicy, 1)
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
        ConsumerFile(
            consumer=ConsumerId("ward-7"),
            borrower=BorrowerId("st-mary"),
            custodian=address,
            certificate=_certificate("consumer", "ward-7"),
            key=_seed("ward-7"),
            policy=policy,
        ),
    ]
    return tuple((encode(one),) for one in found)


def _edit_party(parts: Parts, chance: Random) -> Parts:
    """Change it, or exchange a member with another party's of the same kind of value."""
    (data,) = parts
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
        "name": leaf.identity() == ("consumer", read["consumer"]) and credential.consumer == read["consumer"],
        "borrower": credential.borrower == read["borrower"],
        "address": credential.custodian_url == read["custodian"]["url"],
        "root": credential.custodian_root.raw == unwrapped(read["custodian"]["root"]),
        "policy": not documents.disagreement(policy, AppraisalPolicy, credential.policy, MAX_PARTY_FILE_BYTES),
    }
    wrong = [name for name, holds in same.items() if not holds]
    return f"a consumer file read as something else: {', '.join(wrong)}" if wrong else None


# --- Certificates --------------------------------------------------------------------------------

#: Keys that no signature may be believed under: of small order, a second encoding of one, or none at all.
_BAD_KEYS: Final = (
    bytes(32),
    b"\1" + bytes(31),
    b"\xff" * 32,
    (2**255 - 19).to_bytes(32, "little"),
    bytes(31),
    b"\1" * 33,
)


def _ders() -> tuple[Parts, ...]:
    parties = (("consumer", "ward-7"), ("operator", "alice"), ("borrower", "st-mary"))
    return tuple((certificates.client(kind, name),) for kind, name in parties)


def _edit_der(parts: Parts, chance: Random) -> Parts:
    (data,) = parts
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        match chance.randrange(6):
            case 0:
                data = edits.edit(data, chance)
            case 1:
                names = (b"consumer", b"operator", b"borrower", b"ward-7", b"aigovtool", b"urn")
                data = data.replace(
                    chance.choice(names), chance.choice((*names, b"con\0umer", b"w\xc3rd-7", b"AARD-7"))
                )
            case 2:
                at = data.find(bytes.fromhex("032100"))
                data = data[: at + 3] + chance.choice(_BAD_KEYS)[:32].ljust(32, b"\0") + data[at + 35 :]
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
        "name": said[0] == (found.kind.value, found.name),
        "key": said[1] == found.public_key.raw and said[1] not in _BAD_KEYS,
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


# --- Keys ----------------------------------------------------------------------------------------


def _keys() -> tuple[Parts, ...]:
    ours: tuple[tuple[bytes, SigningKey | TlsKey], ...] = (
        *((b"ed25519", key(name)) for name in ("alice", "bob")),
        *((b"p256", certificates.tls_key(name)) for name in ("tls", "custodian")),
    )
    return tuple((kind, key_to_pem(one).reveal()) for kind, one in ours)


def _edit_second(parts: Parts, chance: Random) -> Parts:
    if chance.random() < 0.05:
        return {b"ed25519": b"p256", b"p256": b"ed25519"}.get(parts[0], parts[0]), parts[1]
    return parts[0], *edit_one(parts[1:], chance)


def _read_key(parts: Parts) -> SigningKey | TlsKey:
    read: Any = read_signing_key if parts[0] == b"ed25519" else read_tls_key
    return cast("SigningKey | TlsKey", in_file(parts[1], read))


def _wrong_key(parts: Parts, value: object) -> str | None:
    found = cast("SigningKey | TlsKey", value)
    try:
        kind, secret = certificates.private_key(parts[1])
    except NotDerError as error:
        return f"accepted a key that is none: {error}"
    public = found.private().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if kind.encode() != parts[0] or public != certificates.public_of(kind, secret):
        return "another key than is in the file"
    return None


def _edit_text(parts: Parts, chance: Random) -> Parts:
    data = edits.edit(parts[0], chance)
    return (chance.choice((data, parts[0].upper(), parts[0] + b" ", parts[0][:-1], b"", bytes(64), b"0" * 64)),)


def _read_root(parts: Parts) -> VerifyKey:
    return root_of(parts[0].decode("utf-8", "surrogateescape"), None)


def _wrong_root(parts: Parts, value: object) -> str | None:
    found, (text,) = cast("VerifyKey", value), parts
    raw = bytes.fromhex(text.decode("ascii")) if len(text) == 64 else unwrapped(text.decode("ascii"))
    return None if raw == found.raw and raw not in _BAD_KEYS else "a root key read as another"


# --- Directories ---------------------------------------------------------------------------------

_KEY_FILES: Final = (
    *("root.pub", "key-set.json", "commands.key", "log.key", "credentials.key", "keystore.key", "tls.key", "tls.pem"),
    *("tls-ca.pem", "attestation.key"),
)


@cache
def _custodian() -> tuple[Parts, ...]:
    key_set = KeySet(
        custodian=key_id_of(key("root").public.raw),
        version=3,
        issued_at_ms=1,
        commands=[key("commands").public.raw],
        log=[key("log").public.raw],
        credentials=[certificates.authority("credentials")],
        keystore=WrapKey.from_secret(Secret(bytes(range(32)))).public,
        attestation=(certificates.authority("attestation", tls=True),),
    )
    pems = [key_to_pem(key(name)).reveal() for name in ("commands", "log", "credentials")]
    tls = [key_to_pem(certificates.tls_key(name)).reveal() for name in ("custodian", "attestation")]
    chain = [
        certificates.pem(one) for one in (certificates.server("custodian"), certificates.authority("tls", tls=True))
    ]
    sealed = encode(seal(KEY_SET, key_set, key("root")))
    return ((key("root").public.raw, sealed, *pems, bytes(range(32)), tls[0], *chain, tls[1]),)


def _edit_files(parts: Parts, chance: Random) -> Parts:
    at = chance.randrange(len(parts))
    changed = list(parts)
    changed[at] = chance.choice(parts) if chance.random() < 0.2 else structured.edit(parts[at], chance)
    return tuple(changed)


def _load(parts: Parts) -> custodian_keys.CustodianKeys:
    files = {f"keys/{name}": part for name, part in zip(_KEY_FILES, parts, strict=True)}
    return in_folder(files, custodian_keys.load)


def _wrong_custodian(parts: Parts, value: object) -> str | None:
    """Each private key must be that of the public one in the key set, which the root has signed."""
    found = cast("custodian_keys.CustodianKeys", value)
    (genuine,) = _custodian()
    payload = verified_by_hand(by_hand(parts[1]), KEY_SET, [parts[0]])
    if isinstance(payload, str):
        return payload
    read = by_hand(payload)
    secrets = [certificates.private_key(parts[at])[1] for at in (2, 3, 4, 6, 9)]
    raws = [key_of(secret) for secret in secrets[:3]]
    tls, attestation = (certificates.public_of("p256", secret) for secret in secrets[3:])
    (served,) = (certificates.read_certificate(one) for one in certificates.unarmoured(parts[7], b"CERTIFICATE")[:1])
    same = {
        "root": found.root.raw == parts[0] == genuine[0],
        "commands": b64encode(raws[0]).decode() in read["commands"] and found.commands.public.raw == raws[0],
        "log": b64encode(raws[1]).decode() in read["log"] and found.log.public.raw == raws[1],
        "credentials": certificates.read_certificate(found.credentials_ca).ed25519() == raws[2],
        "keystore": unwrapped(read["keystore"]) == found.keystore.public
        and found.keystore.to_secret().reveal() == parts[5],
        "TLS": served.spki == tls == found.tls.spki_der,
        "attestation": certificates.read_certificate(unwrapped(read["attestation"][0]) or b"").spki == attestation,
    }
    wrong = [name for name, holds in same.items() if not holds]
    return f"keys of a custodian that do not belong together: {', '.join(wrong)}" if wrong else None


def key_of(secret: bytes) -> bytes:
    """Return the raw Ed25519 key that belongs to a secret."""
    return certificates.public_of("ed25519", secret)[-32:]


_CUSTODIAN: Final = key_id_of(key("root").public.raw)


@cache
def _witness() -> tuple[Parts, ...]:
    witness = WitnessKey(name="witness.example/w1", key=key("w1").public)
    notes = []
    for size in (7, 9):
        checkpoint = Checkpoint(
            custodian=_CUSTODIAN, size=size, root=sha256(bytes([size])).digest(), generation=size - 7
        )
        note = sign_checkpoint(checkpoint, key("log"))
        notes.append(note + cosign(checkpoint.text(), witness.name, key("w1"), 1_700_000_000))
    earlier = (Remembered(generation=0, size=3, root=bytes(32), time_s=5),)
    memory = Memory(format=FORMAT, custodian=_CUSTODIAN, note=notes[1], time_s=9, earlier=earlier, lost=(notes[0],))
    return ((key_to_pem(key("w1")).reveal(), f"{witness.text()}\n".encode(), encode(memory)),)


def _edit_witness(parts: Parts, chance: Random) -> Parts:
    if chance.random() < 0.5:
        return (*parts[:2], edited(parts[2], chance))
    return _edit_files(parts, chance)


def _read_witness(parts: Parts) -> tuple[WitnessKey, Memory | None]:
    def read(folder: Path) -> tuple[WitnessKey, Memory | None]:
        with WitnessHome(folder) as home:
            return home.witness, home.memory(_CUSTODIAN)

    return in_folder({"witness.key": parts[0], "witness.vkey": parts[1], f"{_CUSTODIAN}.json": parts[2]}, read)


def _wrong_witness(parts: Parts, value: object) -> str | None:
    witness, memory = cast("tuple[WitnessKey, Memory]", value)
    kind, secret = certificates.private_key(parts[0])
    raw = key_of(secret)
    name, key_hash, text = parts[1].decode("ascii").removesuffix("\n").split("+", 2)
    if kind != "ed25519" or witness.key.raw != raw or unwrapped(text) != b"\4" + raw or witness.name != name:
        return "a witness with another key or name than in its files"
    if sha256(name.encode() + b"\n\4" + raw).hexdigest()[:8] != key_hash:
        return "a witness whose verifier key has another hash"
    read = by_hand(parts[2])
    if read["custodian"] != _CUSTODIAN or not read["note"].startswith(f"aigovtool/{_CUSTODIAN}\n"):
        return "a memory of another log"
    return documents.disagreement(parts[2], Memory, memory) or documents.misspelled(parts[2], Memory)


# --- Documents that hold no secret, or are nobody else's -----------------------------------------

_MANIFEST: Final = Digest("sha256:" + "ab" * 32)


def _read_deposit(path: Path) -> Message:
    return read_deposit(path, custodian=_CUSTODIAN, manifest=_MANIFEST)


#: Message, and how it is read from a file.
_OWN: Final[tuple[tuple[type[Message], Any], ...]] = (
    (Settings, lambda path: read_settings(path.parent)),
    (KeyDeposit, _read_deposit),
    (Invitation, lambda path: read_public(path, Invitation, "an invitation")),
    (PartyCertificate, lambda path: read_public(path, PartyCertificate, "a certificate")),
    (Seen, lambda path: read_document(path, "seen.v1", Seen, None, what="what was seen", begin="begin anew")),
)


def _own() -> tuple[Parts, ...]:
    deposit = KeyDeposit(custodian=_CUSTODIAN, manifest=_MANIFEST, wrapped_key=bytes(80))
    values = [(deposit,) if kind is KeyDeposit else documents.drawn(kind, 2) for kind, _ in _OWN]
    return tuple((str(at).encode(), encode(one)) for at, some in enumerate(values) for one in some)


def _read_own(parts: Parts) -> object:
    _, read = _OWN[int(parts[0])]
    return in_folder({"custodian.json": parts[1]}, lambda folder: read(folder / "custodian.json"))


def _wrong_own(parts: Parts, value: object) -> str | None:
    if isinstance(value, KeyDeposit) and (value.custodian, value.manifest) != (_CUSTODIAN, _MANIFEST):
        return "a deposit for another package"
    return documents.disagreement(parts[1], _OWN[int(parts[0])][0], value)


def _kind(name: str, genuine: tuple[Parts, ...], edit: Any, read: Any, wrong: Any, **more: Any) -> Kind:  # noqa: ANN401
    return Kind(
        name=name, genuine=genuine, edit=edit, read=read, wrong=wrong, **{"refusals": (ConfigurationError,), **more}
    )


def _make() -> tuple[Kind, ...]:
    consumers = _parties()[2:]
    return (
        _kind("party-files", _parties(), _edit_party, lambda p: in_file(p[0], read_party), _wrong_party, weight=3),
        _kind(
            "consumer-files",
            consumers,
            _edit_party,
            lambda p: in_file(p[0], read_consumer_file),
            _wrong_consumer,
            weight=4,
        ),
        _kind(
            "certificates",
            _ders(),
            _edit_der,
            lambda parts: read_credential(parts[0]),
            _wrong_certificate,
            refusals=(UnauthenticatedError,),
            weight=6,
        ),
        _kind("pem-files", _pems(), edit_one, _read_pem, _wrong_pem, refusals=(InputError,), weight=3),
        _kind("key-files", _keys(), _edit_second, _read_key, _wrong_key, weight=3),
        _kind("root-keys", _roots(), _edit_text, _read_root, _wrong_root, refusals=_REFUSALS),
        _kind("custodians-keys", _custodian(), _edit_files, _load, _wrong_custodian, refusals=_REFUSALS),
        _kind("witnesses", _witness(), _edit_witness, _read_witness, _wrong_witness, weight=3),
        _kind("own-files", _own(), _edit_second, _read_own, _wrong_own, refusals=_REFUSALS, weight=2),
    )


def _roots() -> tuple[Parts, ...]:
    raw = key("root").public.raw
    return ((raw.hex().encode(),), (b64encode(raw),))


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
    ),
    make=_make,
)
