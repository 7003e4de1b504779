"""What was measured into registers, as it travels: digests alone, and what they replay to (TCG PC Client, 10.2).

A firmware's event log says much that nothing proves: event types, and most event data. What cannot be verified does not
travel. The digests are believed because extending a register with them, in their order, gives the value that the
platform has signed.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from aigovtool.attestation.model import MeasuredEvents, MeasurementHex
from aigovtool.codec import Message
from aigovtool.errors import EvidenceError


class EventList(Message):
    """The registers whose events travel with evidence."""

    registers: Annotated[tuple[MeasuredEvents, ...], Meta(max_length=32)]


def replay(digests: Sequence[MeasurementHex], algorithm: str, start: bytes | None = None) -> MeasurementHex:
    """Return what a register holds after these digests were extended into it, from `start` (zero if not given).

    Args:
        digests: of `algorithm`, in hexadecimal, in their order.
        algorithm: `sha256` or `sha384`.
        start: the register's first value; locality 3 or 4 gives PCR 0 another one than zero.

    Raises:
        EvidenceError: `event_digest` when a digest is not one of this algorithm.
    """
    size = hashlib.new(algorithm).digest_size
    value = bytes(size) if start is None else start
    for digest in digests:
        extended = bytes.fromhex(digest)
        if len(extended) != size:
            raise EvidenceError("a measured event has a digest of another algorithm", reason="event_digest")
        value = hashlib.new(algorithm, value + extended).digest()
    return MeasurementHex(value.hex())
