"""Keys in files: of one's own, of a custodian, and of a witness."""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final, cast

from conformance.malformed import edits, structured
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aigovtool.cli.audit.root import root_of
from aigovtool.codec import encode
from aigovtool.crypto.keyfile import read_signing_key, read_tls_key
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, VerifyKey, seal
from aigovtool.crypto.tlskey import TlsKey, key_to_pem
from aigovtool.crypto.wrap import WrapKey
from aigovtool.custodian import keys as custodian_keys
from aigovtool.errors import (
    ConfigurationError,
    InputError,
    VerificationError,
)
from aigovtool.ids import key_id_of
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.cosignature import WitnessKey, cosign
from aigovtool.operator.witness_home import FORMAT, Memory, Remembered, WitnessHome
from aigovtool.protocol.trust import KEY_SET, KeySet
from assurance.parsers import certificates, documents
from assurance.parsers.certificates import NotDerError
from assurance.parsers.envelopes import edited, key, verified_by_hand
from assurance.parsers.files import in_file, in_folder
from assurance.parsers.parser import Kind, Parts, edit_one
from assurance.parsers.reading import by_hand, unwrapped

REFUSALS: Final = (ConfigurationError, InputError, VerificationError)


#: Keys that no signature may be believed under: of small order, a second encoding of one, or none at all.
BAD_KEYS: Final = (
    bytes(32),
    b"\1" + bytes(31),
    b"\xff" * 32,
    (2**255 - 19).to_bytes(32, "little"),
    bytes(31),
    b"\1" * 33,
)


def _keys() -> tuple[Parts, ...]:
    ours: tuple[tuple[bytes, SigningKey | TlsKey], ...] = (
        *((b"ed25519", key(name)) for name in ("alice", "bob")),
        *((b"p256", certificates.tls_key(name)) for name in ("tls", "custodian")),
    )
    return tuple((kind, key_to_pem(one).reveal()) for kind, one in ours)


def edit_second(parts: Parts, chance: Random) -> Parts:
    """Change what follows the first part, which says what it is; now and then let that say something else."""
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
    return None if raw == found.raw and raw not in BAD_KEYS else "a root key read as another"


_KEY_FILES: Final = (
    *("root.pub", "key-set.json", "commands.key", "log.key", "credentials.key", "keystore.key", "tls.key", "tls.pem"),
    *("tls-ca.pem", "attestation.key"),
)


@cache
def _custodians() -> tuple[Parts, ...]:
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
    (genuine,) = _custodians()
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


CUSTODIAN: Final = key_id_of(key("root").public.raw)


@cache
def _witnesses() -> tuple[Parts, ...]:
    witness = WitnessKey(name="witness.example/w1", key=key("w1").public)
    notes = []
    for size in (7, 9):
        checkpoint = Checkpoint(
            custodian=CUSTODIAN, size=size, root=sha256(bytes([size])).digest(), generation=size - 7
        )
        note = sign_checkpoint(checkpoint, key("log"))
        notes.append(note + cosign(checkpoint.text(), witness.name, key("w1"), 1_700_000_000))
    earlier = (Remembered(generation=0, size=3, root=bytes(32), time_s=5),)
    memory = Memory(format=FORMAT, custodian=CUSTODIAN, note=notes[1], time_s=9, earlier=earlier, lost=(notes[0],))
    return ((key_to_pem(key("w1")).reveal(), f"{witness.text()}\n".encode(), encode(memory)),)


def _edit_witness(parts: Parts, chance: Random) -> Parts:
    if chance.random() < 0.5:
        return (*parts[:2], edited(parts[2], chance))
    return _edit_files(parts, chance)


def _read_witness(parts: Parts) -> tuple[WitnessKey, Memory | None]:
    def read(folder: Path) -> tuple[WitnessKey, Memory | None]:
        with WitnessHome(folder) as home:
            return home.witness, home.memory(CUSTODIAN)

    return in_folder({"witness.key": parts[0], "witness.vkey": parts[1], f"{CUSTODIAN}.json": parts[2]}, read)


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
    if read["custodian"] != CUSTODIAN or not read["note"].startswith(f"aigovtool/{CUSTODIAN}\n"):
        return "a memory of another log"
    return documents.disagreement(parts[2], Memory, memory) or documents.misspelled(parts[2], Memory)


def kind_of(name: str, genuine: tuple[Parts, ...], edit: Any, read: Any, wrong: Any, **more: Any) -> Kind:  # noqa: ANN401
    """Return a kind of inputs that is refused as a file that cannot be used, if nothing else is said."""
    return Kind(
        name=name, genuine=genuine, edit=edit, read=read, wrong=wrong, **{"refusals": (ConfigurationError,), **more}
    )


def _roots() -> tuple[Parts, ...]:
    raw = key("root").public.raw
    return ((raw.hex().encode(),), (b64encode(raw),))


def kinds() -> tuple[Kind, ...]:
    """Return the kinds of inputs that are keys, or directories of them."""
    return (
        kind_of("key-files", _keys(), edit_second, _read_key, _wrong_key, weight=3),
        kind_of("root-keys", _roots(), _edit_text, _read_root, _wrong_root, refusals=REFUSALS),
        kind_of("custodians-keys", _custodians(), _edit_files, _load, _wrong_custodian, refusals=REFUSALS),
        kind_of("witnesses", _witnesses(), _edit_witness, _read_witness, _wrong_witness, weight=3),
    )
