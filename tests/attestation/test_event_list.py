"""Registers replay to what was measured into them."""

import pytest

from aigovtool.attestation.event_list import replay
from aigovtool.attestation.model import MeasurementHex
from aigovtool.errors import EvidenceError

ONE, TWO = (MeasurementHex(digit * 64) for digit in "12")


def test_a_register_extends_from_zero_in_order() -> None:
    """SHA-256 of the value and the digest, one after the other; another order is another value."""
    assert replay([], "sha256") == "00" * 32
    assert replay([ONE], "sha256") == "8878b15a7d6a3a4f464e8f9f42591dbc0cf4bedea0ec309003d2b2ee53655ef8"
    assert replay([ONE, TWO], "sha256") != replay([TWO, ONE], "sha256")
    assert replay([ONE], "sha256", start=bytes(31) + b"\x03") != replay([ONE], "sha256")


def test_a_digest_of_another_algorithm_is_refused() -> None:
    """A shorter digest would extend to a value that somebody may know."""
    for algorithm, digest in (("sha384", ONE), ("sha256", MeasurementHex("11" * 48))):
        with pytest.raises(EvidenceError) as caught:
            replay([digest], algorithm)
        assert caught.value.reason == "event_digest"
