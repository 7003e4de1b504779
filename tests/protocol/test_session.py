"""A quote that several consumers share: each proves its own place in it, and nobody else's."""

import msgspec
import pytest
from tests.attestation.test_binding import binding

from aigovtool.attestation.binding import Audience
from aigovtool.errors import EvidenceError
from aigovtool.ids import Nonce
from aigovtool.protocol.session import SHARED_AUDIENCE, expected_of, shares_of

CLAIMS = binding()
CALLERS = [(Audience(f"consumer:ward{number}"), Nonce(f"{number:064x}")) for number in range(1, 8)]


@pytest.mark.parametrize("size", [2, 3, 7])
def test_each_sharer_finds_its_nonce_in_the_quote(size: int) -> None:
    """What is quoted is the root of the tree of all; with its share each gets there from its own name and nonce."""
    quoted, shares = shares_of(CALLERS[:size])
    claims = msgspec.structs.replace(CLAIMS, nonce=quoted)
    for (audience, nonce), share in zip(CALLERS, shares, strict=False):
        assert expected_of(share, claims, audience, nonce) == (SHARED_AUDIENCE, quoted)


def test_a_quote_of_ones_own_is_for_oneself() -> None:
    """Without a share, nobody else's name and nonce are expected."""
    assert expected_of(None, CLAIMS, *CALLERS[0]) == CALLERS[0]


def test_nobody_takes_anothers_place() -> None:
    """Attack: the share of another caller, an old nonce, another name, a place beyond, another quote."""
    quoted, shares = shares_of(CALLERS)
    claims = msgspec.structs.replace(CLAIMS, nonce=quoted)
    audience, nonce = CALLERS[2]
    share = shares[2]
    attempts = [
        (shares[3], claims, audience, nonce),
        (share, claims, audience, CALLERS[3][1]),
        (share, claims, CALLERS[3][0], nonce),
        (share, CLAIMS, audience, nonce),
        (msgspec.structs.replace(share, index=3), claims, audience, nonce),
        (msgspec.structs.replace(share, index=9), claims, audience, nonce),
        (msgspec.structs.replace(share, size=3), claims, audience, nonce),
        (msgspec.structs.replace(share, proof=share.proof[:-1]), claims, audience, nonce),
        (msgspec.structs.replace(share, proof=(*share.proof, bytes(32))), claims, audience, nonce),
        (msgspec.structs.replace(share, proof=(bytes(31), *share.proof[1:])), claims, audience, nonce),
    ]
    for attempt in attempts:
        with pytest.raises(EvidenceError) as caught:
            expected_of(*attempt)
        assert caught.value.reason == "binding_nonce"


def test_a_root_is_no_callers_nonce() -> None:
    """Attack: a nonce that is itself the root of other callers' nonces, so that one quote would serve two questions."""
    inner, _ = shares_of(CALLERS[:2])
    quoted, shares = shares_of([(CALLERS[0][0], inner), CALLERS[3]])
    claims = msgspec.structs.replace(CLAIMS, nonce=quoted)
    with pytest.raises(EvidenceError):
        expected_of(shares[0], claims, *CALLERS[0])
