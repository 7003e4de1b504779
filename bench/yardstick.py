"""How fast a machine is at what all of this is made of: without it, times of two machines say nothing to each other."""

import hashlib
import time
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aigovtool.codec import Message

_ADDITIONS: Final = 10_000_000
_BYTES: Final = 64 << 20
_SEGMENT_BYTES: Final = 1 << 20
_TRIES: Final = 5


class Yardstick(Message):
    """One core, at its best of some tries: seconds for ten million additions in Python, and bytes a second."""

    additions_s: float
    aes_gcm_per_s: float
    sha256_per_s: float

    def words(self) -> str:
        """Say it in one line."""
        return (
            f"one core takes {self.additions_s:.2f} s for ten million additions in Python, encrypts "
            f"{self.aes_gcm_per_s / 1e9:.1f} GB a second (AES-256-GCM), and hashes {self.sha256_per_s / 1e9:.1f} "
            "(SHA-256)"
        )


def this_yardstick() -> Yardstick:
    """Measure this machine: some seconds of one core."""
    return Yardstick(
        additions_s=_least_s(_add),
        aes_gcm_per_s=_BYTES / _least_s(_encrypt),
        sha256_per_s=_BYTES / _least_s(_hash),
    )


def _least_s(work: Callable[[], None]) -> float:
    """Return the processor time of the fastest try: whatever else the machine does only makes it slower."""
    seen = []
    for _ in range(_TRIES):
        began = time.thread_time()
        work()
        seen.append(time.thread_time() - began)
    return min(seen)


def _add() -> None:
    total = 0
    for number in range(_ADDITIONS):
        total += number


def _encrypt() -> None:
    cipher, plain, sealed = AESGCM(bytes(32)), bytes(_SEGMENT_BYTES), bytearray(_SEGMENT_BYTES + 16)
    for number in range(_BYTES // _SEGMENT_BYTES):
        cipher.encrypt_into(number.to_bytes(12, "big"), plain, None, sealed)


def _hash() -> None:
    hashed, data = hashlib.sha256(), bytes(_SEGMENT_BYTES)
    for _ in range(_BYTES // _SEGMENT_BYTES):
        hashed.update(data)
