"""Sealed frames: what opens, in which order, and what is found when it does not."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigovtool.crypto.frames import FRAME_BYTES, LENGTH_BYTES, TAG_BYTES, FrameOpener, FrameSealer, sealed_size_bytes
from aigovtool.errors import AIGovToolError, InvalidValueError

SECRET = b"\x01" * 32
SALT = b"\x02" * 32
INFO = b"one direction"
LAST = 0x80


def sealed(*texts: bytes) -> list[bytes]:
    """Return a conversation of these frames."""
    sealer = FrameSealer(SECRET, SALT, INFO)
    return [sealer.seal(text, last=number == len(texts) - 1) for number, text in enumerate(texts)]


def opened(data: bytes, secret: bytes = SECRET, salt: bytes = SALT, info: bytes = INFO) -> list[bytes]:
    """Return the texts of a whole conversation."""
    opener = FrameOpener(secret, salt, info)
    texts = list(opener.feed(data))
    opener.require_complete()
    return texts


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.lists(st.integers(1, 700), max_size=6))
def test_what_was_sealed_opens_however_it_is_cut_into_pieces(texts: list[bytes], cuts: list[int]) -> None:
    """Frames are whole or nothing: pieces of any size give the same texts."""
    data, opener = b"".join(sealed(*texts)), FrameOpener(SECRET, SALT, INFO)
    found: list[bytes] = []
    places = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    for start, end in zip([0, *places], places, strict=False):
        found += opener.feed(data[start:end])
    opener.require_complete()
    assert found == texts


@pytest.mark.parametrize("size", [0, 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES + 7])
def test_a_long_text_has_full_frames(size: int) -> None:
    """And so many bytes as can be told before."""
    text = bytes(range(256)) * (size // 256 + 1)
    data = b"".join(FrameSealer(SECRET, SALT, INFO).seal_all(text[:size]))
    assert len(data) == sealed_size_bytes(size)
    assert b"".join(opened(data)) == text[:size]


@pytest.mark.parametrize(
    ("secret", "salt", "info"),
    [(b"\x09" * 32, SALT, INFO), (SECRET, b"\x09" * 32, INFO), (SECRET, b"", INFO), (SECRET, SALT, b"the other")],
    ids=["secret", "salt", "no salt", "direction"],
)
def test_a_frame_opens_in_no_other_conversation(secret: bytes, salt: bytes, info: bytes) -> None:
    """Another secret, another answer to the same request, or the other direction."""
    with pytest.raises(AIGovToolError) as caught:
        opened(b"".join(sealed(b"a scan")), secret, salt, info)
    assert caught.value.reason == "wrong_frame"


def dropped(frames: list[bytes]) -> bytes:
    """Leave out the second."""
    return frames[0] + frames[2]


def exchanged(frames: list[bytes]) -> bytes:
    """Put the second before the first."""
    return frames[1] + frames[0] + frames[2]


def repeated(frames: list[bytes]) -> bytes:
    """Send the first twice."""
    return frames[0] + frames[0] + frames[1]


def ended_early(frames: list[bytes]) -> bytes:
    """Say of the second that it is the last."""
    return frames[0] + bytes([frames[1][0] | LAST]) + frames[1][1:]


def never_ended(frames: list[bytes]) -> bytes:
    """Say of the last that it is not."""
    return frames[0] + frames[1] + bytes([frames[2][0] & ~LAST]) + frames[2][1:]


def changed(frames: list[bytes]) -> bytes:
    """Change one bit."""
    return frames[0][:-1] + bytes([frames[0][-1] ^ 1])


def cut_off(frames: list[bytes]) -> bytes:
    """End after the second."""
    return frames[0] + frames[1]


def cut_within(frames: list[bytes]) -> bytes:
    """End within the last."""
    return b"".join(frames)[:-1]


def gone_on(frames: list[bytes]) -> bytes:
    """Send something after the last."""
    return b"".join(frames) + frames[0]


def trailed(frames: list[bytes]) -> bytes:
    """Send less than a length after the last."""
    return b"".join(frames) + b"\x00"


def too_large(_frames: list[bytes]) -> bytes:
    """Announce more than a frame has."""
    return (FRAME_BYTES + TAG_BYTES + 1).to_bytes(LENGTH_BYTES, "big")


def too_small(_frames: list[bytes]) -> bytes:
    """Announce less than a tag."""
    return (TAG_BYTES - 1).to_bytes(LENGTH_BYTES, "big")


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (dropped, "wrong_frame"),
        (exchanged, "wrong_frame"),
        (repeated, "wrong_frame"),
        (ended_early, "wrong_frame"),
        (never_ended, "wrong_frame"),
        (changed, "wrong_frame"),
        (cut_off, "cut_off"),
        (cut_within, "cut_off"),
        (gone_on, "after_last_frame"),
        (trailed, "after_last_frame"),
        (too_large, "frame_size"),
        (too_small, "frame_size"),
    ],
)
def test_whoever_passes_frames_on_changes_nothing_unseen(attack: Callable[[list[bytes]], bytes], reason: str) -> None:
    """Order, number, ends and bytes are all bound."""
    with pytest.raises(AIGovToolError) as caught:
        opened(attack(sealed(b"one", b"two", b"three")))
    assert caught.value.reason == reason


def test_nothing_is_sealed_after_the_last() -> None:
    """No nonce is used twice, and none is used for what would never be read."""
    sealer = FrameSealer(SECRET, SALT, INFO)
    sealer.seal(b"all", last=True)
    with pytest.raises(InvalidValueError) as caught:
        sealer.seal(b"more", last=True)
    assert caught.value.reason == "frames_complete"


@pytest.mark.parametrize(("secret", "salt"), [(b"short", SALT), (SECRET, b"short")])
def test_a_secret_and_a_salt_have_their_length(secret: bytes, salt: bytes) -> None:
    """Nothing is derived from less."""
    with pytest.raises(InvalidValueError) as caught:
        FrameSealer(secret, salt, INFO)
    assert caught.value.reason == "bad_length"


def test_a_frame_is_not_larger_than_it_may_be() -> None:
    """Whoever opens it holds one of that size."""
    with pytest.raises(InvalidValueError) as caught:
        FrameSealer(SECRET, SALT, INFO).seal(bytes(FRAME_BYTES + 1), last=True)
    assert caught.value.reason == "frame_size"
