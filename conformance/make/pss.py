"""RSASSA-PSS with a salt that follows from the message (RFC 8017, 8.1 and 9.1), for TEST-ONLY keys.

The library draws the salt at random, which is right for everybody else; a vector must have the same bytes every time.
"""
# ruff: noqa: ANN401 - a maker takes any value of any field

from hashlib import new
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

Signed = x509.Certificate | x509.CertificateRevocationList


def signature(key: rsa.RSAPrivateKey, message: bytes, algorithm: HashAlgorithm) -> bytes:
    """Return a signature whose salt has the size of the hash."""
    name, size = algorithm.name, algorithm.digest_size
    salt = new(name, b"TEST-ONLY salt" + message).digest()
    hashed = new(name, bytes(8) + new(name, message).digest() + salt).digest()
    bits = key.key_size - 1
    length = -(-bits // 8)
    block = bytes(length - 2 * size - 2) + b"\x01" + salt
    masked = bytearray(one ^ other for one, other in zip(block, _mask(hashed, len(block), name), strict=True))
    masked[0] &= 0xFF >> (8 * length - bits)
    number = int.from_bytes(bytes(masked) + hashed + b"\xbc")
    return _private(key, number).to_bytes(key.key_size // 8)


def _mask(seed: bytes, length: int, name: str) -> bytes:
    rounds = -(-length // new(name).digest_size)
    return b"".join(new(name, seed + number.to_bytes(4)).digest() for number in range(rounds))[:length]


def _private(key: rsa.RSAPrivateKey, number: int) -> int:
    """Return number^d mod n, by the Chinese remainder theorem."""
    private = key.private_numbers()
    first = pow(number, private.dmp1, private.p)
    second = pow(number, private.dmq1, private.q)
    return second + (first - second) * private.iqmp % private.p * private.q


def signed_again(made: Signed, signer: Any) -> Signed:
    """Return a certificate or list whose RSASSA-PSS signature is the deterministic one; any other as it is."""
    padding = getattr(made, "signature_algorithm_parameters", None)
    algorithm = made.signature_hash_algorithm
    if not isinstance(signer, rsa.RSAPrivateKey) or type(padding).__name__ != "PSS" or algorithm is None:
        return made
    if isinstance(made, x509.Certificate):
        own = signature(signer, made.tbs_certificate_bytes, algorithm)
        return x509.load_der_x509_certificate(made.public_bytes(Encoding.DER)[: -len(own)] + own)
    own = signature(signer, made.tbs_certlist_bytes, algorithm)
    return x509.load_der_x509_crl(made.public_bytes(Encoding.DER)[: -len(own)] + own)
