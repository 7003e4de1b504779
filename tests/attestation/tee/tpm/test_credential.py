"""Rules and attacks on credentials: only the TPM that holds both keys learns the secret."""

import hashlib
import hmac
import importlib.util
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.attestation.tee.tpm.maker import HASHES, SHA256, SHA384, Forgery, ecc_key, rsa_key

from aigovtool.attestation.model import ActivationCredential
from aigovtool.attestation.tee.tpm.activation import challenge, ek_digest, require_activated, secret_for
from aigovtool.attestation.tee.tpm.credential import (
    ENTROPY_BYTES,
    ek_public,
    kdfa,
    make_credential,
)
from aigovtool.attestation.tee.tpm.structures import parse_public
from aigovtool.errors import EvidenceError

ENTROPY = bytes(range(ENTROPY_BYTES))
NAME = b"\x00\x0b" + bytes(32)
SECRET = b"\x5a" * 32
EKS: dict[str, Any] = {"rsa": rsa_key("ek"), "p256": ecc_key("ek"), "p384": ecc_key("ek", ec.SECP384R1())}


def parted(data: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(data[:2])
    return data[2 : 2 + size], data[2 + size :]


def counter_mode(hash_name: str, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """Return SP 800-108 output of at most one block, written out anew."""
    message = b"\0\0\0\1" + label + b"\0" + context + bits.to_bytes(4)
    return hmac.digest(key, message, hash_name)[: bits // 8]


def opened(key: Any, credential: ActivationCredential, name: bytes) -> bytes:
    """Do what TPM2_ActivateCredential does (Part 1, section 24), by the private key."""
    strong = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size == 384
    hash_id, bits = (SHA384, 256) if strong else (SHA256, 128)
    hash_name = HASHES[hash_id].name
    encrypted, rest = parted(credential.secret)
    assert rest == b""
    if isinstance(key, rsa.RSAPrivateKey):
        oaep = padding.OAEP(padding.MGF1(HASHES[hash_id]), HASHES[hash_id], b"IDENTITY\0")
        seed = key.decrypt(encrypted, oaep)
    else:
        x, y = parted(encrypted)
        y, rest = parted(y)
        assert rest == b""
        numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), key.curve)
        shared = key.exchange(ec.ECDH(), numbers.public_key())
        own = key.public_key().public_numbers().x.to_bytes(key.curve.key_size // 8)
        seed = hashlib.new(hash_name, b"\0\0\0\1" + shared + b"IDENTITY\0" + x + own).digest()
    blob, rest = parted(credential.blob)
    assert rest == b""
    integrity, identity = parted(blob)
    integrity_key = counter_mode(hash_name, seed, b"INTEGRITY", b"", HASHES[hash_id].digest_size * 8)
    if not hmac.compare_digest(hmac.digest(integrity_key, identity + name, hash_name), integrity):
        raise PermissionError
    decryptor = Cipher(AES(counter_mode(hash_name, seed, b"STORAGE", name, bits)), CFB(bytes(16))).decryptor()
    secret, rest = parted(decryptor.update(identity) + decryptor.finalize())
    assert rest == b""
    return secret


@pytest.mark.parametrize("kind", [*EKS])
def test_a_credential_opens_with_the_key_and_the_name_that_it_was_made_for(kind: str) -> None:
    """Another endorsement key or another attestation key learns nothing."""
    key = EKS[kind]
    credential = make_credential(ek_public(key.public_key()), NAME, SECRET, ENTROPY)
    assert opened(key, credential, NAME) == SECRET
    with pytest.raises(PermissionError):
        opened(key, credential, b"\x00\x0b" + bytes(31) + b"\1")
    stranger = rsa_key("ak") if kind == "rsa" else ecc_key("stranger", key.curve)
    with pytest.raises((PermissionError, ValueError)):
        opened(stranger, credential, NAME)


@pytest.mark.parametrize("kind", [*EKS])
def test_a_changed_credential_does_not_open(kind: str) -> None:
    """The secret is authenticated, so nobody on the way can turn it into another."""
    key = EKS[kind]
    made = make_credential(ek_public(key.public_key()), NAME, SECRET, ENTROPY)
    for at in range(4, len(made.blob), 7):
        changed = bytearray(made.blob)
        changed[at] ^= 1
        with pytest.raises((PermissionError, AssertionError)):
            opened(key, msgspec.structs.replace(made, blob=bytes(changed)), NAME)


@pytest.mark.parametrize("kind", [*EKS])
def test_randomness_is_what_is_given(kind: str) -> None:
    """The same entropy gives the same credential, and each half of it matters."""
    area = ek_public(EKS[kind].public_key())
    made = make_credential(area, NAME, SECRET, ENTROPY)
    assert make_credential(area, NAME, SECRET, ENTROPY) == made
    other = make_credential(area, NAME, SECRET, b"\1" + ENTROPY[1:])
    assert made.blob != other.blob
    assert made.secret != other.secret


@pytest.mark.parametrize(("secret", "entropy"), [(b"", ENTROPY), (bytes(33), ENTROPY), (SECRET, ENTROPY[1:])])
def test_a_credential_of_other_sizes_is_not_made(secret: bytes, entropy: bytes) -> None:
    """A TPM takes secrets of up to a digest; less chance than needed is an error, not padding."""
    with pytest.raises(EvidenceError) as caught:
        make_credential(ek_public(EKS["rsa"].public_key()), NAME, secret, entropy)
    assert caught.value.reason == "credential"


def test_keys_that_no_template_makes_are_refused() -> None:
    """An endorsement key is RSA of a known size, P-256 or P-384."""
    odd = rsa.RSAPublicNumbers(65537, (1 << 2055) + 1).public_key()
    small = rsa.RSAPublicNumbers(3, rsa_key("ek").public_key().public_numbers().n).public_key()
    for key in (ecc_key("ek", ec.SECP521R1()).public_key(), ecc_key("ek", ec.SECP256K1()).public_key(), odd, small):
        with pytest.raises(EvidenceError) as caught:
            ek_public(key)
        assert caught.value.reason == "ek_kind"


def test_key_derivation_matches_the_published_formula_over_several_blocks() -> None:
    """KDFa counts blocks from 1 and cuts the last."""
    blocks = [
        hmac.digest(b"key", number.to_bytes(4) + b"LABEL\0" + b"context" + (768).to_bytes(4), "sha256")
        for number in (1, 2, 3)
    ]
    assert kdfa("sha256", b"key", b"LABEL", b"context", 768) == b"".join(blocks)
    assert kdfa("sha256", b"key", b"LABEL", b"context", 776)[:-1] != b"".join(blocks)
    assert len(kdfa("sha256", b"key", b"LABEL", b"context", 776)) == 97


@pytest.mark.skipif(
    importlib.util.find_spec("tpm2_pytss") is None,
    reason="tpm2-pytss is not installed: credentials were not compared with those of another implementation",
)
@pytest.mark.parametrize("kind", [*EKS])
def test_credentials_of_tpm2_pytss_are_the_same_but_for_chance(kind: str) -> None:
    """An independent implementation makes a credential of the same form for the same public area and Name."""
    pytss = importlib.import_module("tpm2_pytss")
    make = importlib.import_module("tpm2_pytss.utils").make_credential
    area = ek_public(EKS[kind].public_key())
    public, _ = pytss.TPM2B_PUBLIC.unmarshal(len(area.encoded).to_bytes(2) + area.encoded)
    assert bytes(public.get_name()) == area.name
    pem = EKS[kind].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert public.to_pem() == pem
    blob, secret = make(public, SECRET, pytss.TPM2B_NAME(NAME))
    theirs = ActivationCredential(blob=blob.marshal(), secret=secret.marshal())
    ours = make_credential(area, NAME, SECRET, ENTROPY)
    assert opened(EKS[kind], theirs, NAME) == opened(EKS[kind], ours, NAME) == SECRET
    assert (len(theirs.blob), len(theirs.secret)) == (len(ours.blob), len(ours.secret))


def test_a_name_is_the_hash_of_the_public_area() -> None:
    """The verifier computes the Name itself: one that is sent along would prove nothing."""
    for forgery in (Forgery(), Forgery(ak_name_alg=SHA384), Forgery(ak=rsa_key("ak"))):
        assert parse_public(forgery.ak_public()).name == forgery.ak_name()


# -- The custodian's challenge ------------------------------------------------------------------------------

KEY, NONCE = b"\x77" * 32, b"\x22" * 32


def test_a_challenge_carries_the_secret_of_this_exchange() -> None:
    """What the TPM finds is what the custodian computes again later, from key, nonce and both public keys."""
    forgery = Forgery()
    for key in EKS.values():
        certificate = replace(forgery, ek=key).leaf_certificate()
        credential = challenge(KEY, NONCE, certificate, forgery.ak_public(), bytes(32))
        found = opened(key, credential, forgery.ak_name())
        expected = secret_for(KEY, NONCE)(ek_digest(key.public_key()), forgery.ak_name())
        require_activated(found, expected)
        with pytest.raises(EvidenceError) as caught:
            require_activated(found, secret_for(KEY, bytes(32))(ek_digest(key.public_key()), forgery.ak_name()))
        assert caught.value.reason == "activation"


def test_every_part_of_an_exchange_makes_another_secret() -> None:
    """Key, nonce, endorsement key and attestation key all matter, and the label keeps other uses of the key apart."""
    secrets = {
        secret_for(KEY, NONCE)(b"\1" * 32, NAME),
        secret_for(b"\x78" * 32, NONCE)(b"\1" * 32, NAME),
        secret_for(KEY, b"\x23" * 32)(b"\1" * 32, NAME),
        secret_for(KEY, NONCE)(b"\2" * 32, NAME),
        secret_for(KEY, NONCE)(b"\1" * 32, NAME[:-1] + b"\1"),
        hmac.digest(KEY, NONCE + b"\1" * 32 + NAME, "sha256"),
    }
    assert len(secrets) == 6
    assert secret_for(KEY, NONCE)(b"\1" * 32, NAME) == hmac.digest(
        KEY, b"aigovtool tpm activation v1\0" + NONCE + b"\1" * 32 + NAME, "sha256"
    )


def test_weak_arguments_are_refused() -> None:
    """A short key, a nonce of another size, or less chance than 32 bytes."""
    ek, ak = Forgery().leaf_certificate(), Forgery().ak_public()
    for action in (
        lambda: secret_for(bytes(31), NONCE),
        lambda: secret_for(KEY, bytes(31)),
        lambda: challenge(KEY, NONCE, ek, ak, bytes(31)),
    ):
        with pytest.raises(EvidenceError) as caught:
            action()
        assert caught.value.reason == "activation_key"
    for certificate, public, expected in ((ek, ak[:-1], "public_area"), (ek[:-1], ak, "certificate_encoding")):
        with pytest.raises(EvidenceError) as malformed:
            challenge(KEY, NONCE, certificate, public, bytes(32))
        assert malformed.value.reason == expected
