"""Checkpoints are signed notes: one text, one encoding, one log."""

import base64
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import LogError
from aigovtool.ids import KeyId
from aigovtool.ledger.checkpoint import (
    MAX_CHECKPOINT_BYTES,
    Checkpoint,
    open_checkpoint,
    parse_checkpoint,
    plain_note,
    sign_checkpoint,
    split_note,
)
from aigovtool.limits import MAX_WITNESSES

LOG = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of the log"))
OTHER = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of another"))
CUSTODIAN = KeyId("c" * 64)
CHECKPOINT = Checkpoint(custodian=CUSTODIAN, size=12, root=sha256(b"root").digest())
NOTE = sign_checkpoint(CHECKPOINT, LOG)
TEXT, _, SIGNATURE = NOTE.partition("\n\n")
#: In the standard's form, and signed by nobody: one in the log's own name, and a witness's.
JUNK = f"\N{EM DASH} {CHECKPOINT.origin()} {base64.b64encode(bytes(68)).decode()}\n"
WITNESS = "\N{EM DASH} witness.example/1 " + base64.b64encode(bytes(76)).decode() + "\n"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def refused(note: str) -> bool:
    try:
        open_checkpoint(note, [LOG.public])
    except LogError as error:
        return error.reason == "checkpoint"
    return False


def test_a_checkpoint_is_read_back_as_it_was_signed() -> None:
    """Signing and opening are inverse, also when the log's key was just rotated."""
    assert open_checkpoint(NOTE, [LOG.public]) == CHECKPOINT
    assert open_checkpoint(NOTE, [OTHER.public, LOG.public]) == CHECKPOINT


def test_the_note_has_the_standard_form() -> None:
    """C2SP signed note: origin, size, root, an empty line, and a signature with the hash of name and key."""
    origin, size, root, empty, signature, end = NOTE.split("\n")
    assert (origin, size, empty, end) == (f"aigovtool/{CUSTODIAN}", "12", "", "")
    assert base64.b64decode(root) == CHECKPOINT.root
    dash, name, blob = signature.split(" ")
    raw = base64.b64decode(blob)
    assert (dash, name, len(raw)) == ("\N{EM DASH}", origin, 68)
    assert raw[:4] == sha256(origin.encode() + b"\n\x01" + LOG.public.raw).digest()[:4]
    LOG.public.verify(raw[4:], f"{origin}\n{size}\n{root}\n".encode())


def test_no_character_of_a_note_can_change() -> None:
    """Every other printable character, at every place, makes the note worthless, unused bits included."""
    survivors = [
        (place, other)
        for place, character in enumerate(NOTE)
        for other in (ALPHABET if character in ALPHABET else "\n =-")
        if other != character and not refused(NOTE[:place] + other + NOTE[place + 1 :])
    ]
    assert survivors == []


@pytest.mark.parametrize("keys", [[], [OTHER.public]], ids=["none", "another"])
def test_a_checkpoint_that_the_log_did_not_sign_is_refused(keys: list[object]) -> None:
    """Neither no key nor another key opens it."""
    with pytest.raises(LogError):
        open_checkpoint(NOTE, keys)  # type: ignore[arg-type]


def test_the_log_of_another_custodian_is_another_text() -> None:
    """A signature for one custodian's log does not carry over to another's, though the key is the same."""
    elsewhere = Checkpoint(custodian=KeyId("d" * 64), size=12, root=CHECKPOINT.root)
    signature = NOTE.partition("\n\n")[2]
    assert refused(f"{elsewhere.text()}\n{signature}")
    assert refused(f"{elsewhere.text()}\n{signature.replace(CUSTODIAN, elsewhere.custodian)}")


def test_witnesses_may_sign_too() -> None:
    """Lines of other signers before and after the log's own do no harm, and do not replace it."""
    assert open_checkpoint(f"{TEXT}\n\n{WITNESS}{SIGNATURE}{WITNESS}", [LOG.public]) == CHECKPOINT
    assert refused(f"{TEXT}\n\n{WITNESS}")


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        NOTE.partition("\n\n")[0],
        NOTE.partition("\n\n")[0] + "\n\n",
        NOTE.replace("\n12\n", "\n012\n"),
        NOTE.replace("\n12\n", "\n+12\n"),
        NOTE.replace("\n12\n", "\n-12\n"),
        NOTE.replace("\n12\n", "\n1_2\n"),
        NOTE.replace("\n12\n", "\n\N{ARABIC-INDIC DIGIT ONE}2\n"),
        NOTE.replace("\n12\n", "\n12\nextension\n"),
        NOTE.replace("\n12\n", "\n12\r\n"),
        NOTE.replace("\n12\n", "\n99999999999999999\n"),
        NOTE.replace("aigovtool/", "AIGovTool/"),
        NOTE.replace("\N{EM DASH}", "-"),
        " " + NOTE,
        NOTE[:-1],
        NOTE[:-3] + "\n",
        NOTE + "\x00" * MAX_CHECKPOINT_BYTES,
    ],
    ids=range(18),
)
def test_malformed_notes_are_refused(note: str) -> None:
    """Another spelling of the size, another line end, missing or additional parts, and too much of anything."""
    assert refused(note)


@pytest.mark.parametrize(
    "note",
    [
        f"{NOTE}\n{JUNK}",
        f"{NOTE}\n",
        f"{TEXT}\n\n{WITNESS}\n{SIGNATURE}",
        f"{TEXT}\n\n\n{SIGNATURE}",
        f"\n\n{NOTE}",
        f"{NOTE}no signature\n",
        f"{NOTE}{WITNESS[:-1]}",
        f"{NOTE}{WITNESS[:-3]}B=\n",
        *(f"{TEXT}\n\nanything{end}{SIGNATURE}" for end in "\r\v\f\x1c\x85\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}"),
        NOTE + WITNESS * (MAX_WITNESSES + 1),
    ],
    ids=range(16),
)
def test_a_note_has_one_reading(note: str) -> None:
    """Attack: what one reader takes for the text or a line, another does not: a second empty line, another line end."""
    assert refused(note)
    with pytest.raises(LogError):
        parse_checkpoint(note)
    with pytest.raises(LogError):
        plain_note(note, [LOG.public])


def test_only_the_logs_one_verified_signature_is_passed_on() -> None:
    """Lines in its name that nobody signed, its own a second time, and those of witnesses stay behind."""
    for note in (NOTE, NOTE + JUNK, TEXT + "\n\n" + JUNK + WITNESS + SIGNATURE, NOTE + SIGNATURE + WITNESS * 2):
        assert plain_note(note, [OTHER.public, LOG.public]) == NOTE
    for note in (TEXT + "\n\n" + JUNK, NOTE.replace("\n12\n", "\n13\n")):
        with pytest.raises(LogError) as failure:
            plain_note(note, [LOG.public])
        assert failure.value.reason == "checkpoint"


@given(st.lists(st.sampled_from([SIGNATURE, JUNK, WITNESS, "\n", "\r", " ", "\x85", "x"]), max_size=20))
def test_whatever_opens_is_taken_apart_by_every_reader_alike(pieces: list[str]) -> None:
    """The text that the log signed is the text of the note, and its plain form opens as the same checkpoint."""
    note = f"{TEXT}\n\n" + "".join(pieces)
    if not refused(note):
        assert split_note(note)[0] == CHECKPOINT.text()
        assert plain_note(note, [LOG.public]) == NOTE


def test_a_generation_is_an_extension_line_and_signed() -> None:
    """Absent in generation 0, so that older notes keep their only form; it cannot be added, changed or dropped."""
    later = msgspec.structs.replace(CHECKPOINT, generation=3)
    note = sign_checkpoint(later, LOG)
    assert open_checkpoint(note, [LOG.public]) == later
    assert note.split("\n")[3] == "generation 3"
    for changed in (
        note.replace("generation 3\n", ""),
        note.replace("generation 3", "generation 4"),
        note.replace("generation 3", "generation 03"),
        note.replace("generation 3", "generation 9007199254740993"),
        NOTE.replace("\n\n", "\ngeneration 0\n\n"),
        NOTE.replace("\n\n", "\ngeneration 1\n\n"),
    ):
        assert refused(changed)


def test_parsing_alone_verifies_nothing() -> None:
    """It is for looking whether a note is worth verifying: malformed ones are refused all the same."""
    assert parse_checkpoint(sign_checkpoint(CHECKPOINT, OTHER)) == CHECKPOINT
    with pytest.raises(LogError):
        parse_checkpoint(NOTE.replace("aigovtool", "another"))
