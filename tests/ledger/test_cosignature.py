"""Co-signatures are those of C2SP tlog-cosignature, in one spelling, and worth nothing over anything else."""

import base64
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import AIGovToolError, InvalidValueError, LogError
from aigovtool.ids import KeyId
from aigovtool.ledger.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint, open_checkpoint, sign_checkpoint
from aigovtool.ledger.cosignature import (
    WitnessKey,
    cosign,
    cosigner_name,
    open_cosigned,
    parse_witness_key,
    parse_witness_name,
    with_cosignatures,
    witnessed,
)
from aigovtool.limits import MAX_WITNESSES

VECTORS = Path(__file__).parents[1] / "vectors" / "cosignature"
LOG = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of the log"))
KEY = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of witness"))
OTHER = SigningKey.from_secret(Secret(b"TEST-ONLY signing key of another"))
NAME = "witness.example.com/w1"
WITNESS = WitnessKey(name=NAME, key=KEY.public)
CHECKPOINT = Checkpoint(custodian=KeyId("c" * 64), size=12, root=sha256(b"root").digest(), generation=3)
NOTE = sign_checkpoint(CHECKPOINT, LOG)
TIME = 1_679_315_147
LINE = cosign(CHECKPOINT.text(), NAME, KEY, TIME)
COSIGNED = NOTE + LINE
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

WEAK = b"w\n\x04\x01" + bytes(31)

#: Verifier keys of public witnesses, as their operators publish them.
PUBLIC = (
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
)


def refusal(note: str, *witnesses: WitnessKey) -> str | None:
    with pytest.raises(LogError) as refused:
        open_cosigned(note, [LOG.public], witnesses or [WITNESS])
    return refused.value.reason


def blob_of(line: str) -> bytes:
    return base64.b64decode(line.removesuffix("\n").rpartition(" ")[2])


def line_of(name: str, blob: bytes) -> str:
    return f"\N{EM DASH} {name} {base64.b64encode(blob).decode()}\n"


# --- The standard ---------------------------------------------------------------------------------------


def test_co_signatures_of_public_witnesses_over_a_public_log_verify() -> None:
    """What others' programs signed, by the keys that they publish; not one of them over another size."""
    note = (VECTORS / "public-checkpoint.txt").read_text()
    witnesses = [parse_witness_key(text) for text in PUBLIC]
    assert [(one.witness.text(), one.time_s) for one in witnessed(note, witnesses)] == [
        (text, 1_779_573_024) for text in PUBLIC
    ]
    for witness in witnesses:
        with pytest.raises(LogError):
            witnessed(note.replace("1432088532", "1432088533"), [witness])


def test_a_co_signature_is_what_the_standard_says_byte_by_byte() -> None:
    """Made here once more, of the standard's words and a library's Ed25519 alone."""
    key = Ed25519PrivateKey.from_private_bytes(b"TEST-ONLY signing key of witness")
    public = key.public_key().public_bytes_raw()
    key_hash = sha256(b"witness.example.com/w1\n\x04" + public).digest()[:4]
    text = "aigovtool/" + "c" * 64 + "\n12\n" + base64.b64encode(sha256(b"root").digest()).decode() + "\ngeneration 3\n"
    signature = key.sign(b"cosignature/v1\ntime 1679315147\n" + text.encode())
    blob = key_hash + bytes.fromhex("00000000641850cb") + signature
    assert "\N{EM DASH} witness.example.com/w1 " + base64.b64encode(blob).decode() + "\n" == LINE
    assert len(blob) == 76
    verifier_key = f"witness.example.com/w1+{key_hash.hex()}+{base64.b64encode(bytes([4]) + public).decode()}"
    assert WITNESS.text() == verifier_key


def test_the_line_of_the_standards_example_is_taken_apart_alike() -> None:
    """Its key is not published: name, key hash and time are, and a key of another hash is not asked."""
    line = (
        "\N{EM DASH} witness.example.com/w1 "
        "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    )
    assert (blob_of(line)[:4].hex(), int.from_bytes(blob_of(line)[4:12], "big")) == ("8d66cf3f", TIME)
    assert (len(line), blob_of(line)[4:12]) == (len(LINE), blob_of(LINE)[4:12])
    assert witnessed("example.com/behind-the-sofa\n20852163\nCsUY\n\n" + line, [WITNESS]) == ()


def test_a_witness_may_sign_for_a_reader_that_knows_nothing_of_witnesses() -> None:
    """The note with a co-signature is still the log's note; without it, it is the very note that the log signed."""
    assert open_checkpoint(COSIGNED, [LOG.public]) == CHECKPOINT
    assert COSIGNED.removesuffix(LINE) == NOTE
    (by,) = open_cosigned(COSIGNED, [LOG.public], [WITNESS])[1]
    assert (by.witness, by.time_s, by.line) == (WITNESS, TIME, LINE)
    assert cosigner_name(COSIGNED, CHECKPOINT.origin()) == NAME


# --- Verifier keys ----------------------------------------------------------------------------------------


def test_a_verifier_key_is_read_back_as_it_was_written() -> None:
    """Also those of others."""
    for text in (WITNESS.text(), *PUBLIC):
        assert parse_witness_key(text).text() == text


def test_no_character_of_a_verifier_key_can_change() -> None:
    """The hash is over name and key: whoever changes one must change it too, and then it is another witness."""
    text = WITNESS.text()
    for place in range(len(text)):
        for other in "A5a+ \n":
            if text[place] != other:
                with pytest.raises(InvalidValueError) as refused:
                    parse_witness_key(text[:place] + other + text[place + 1 :])
                assert refused.value.reason == "bad_witness_key"


@pytest.mark.parametrize(
    "text",
    [
        "",
        NAME,
        WITNESS.text() + "\n",
        " " + WITNESS.text(),
        WITNESS.text() + "=",
        WITNESS.text().replace("+" + WITNESS.key_hash().hex(), "+" + WITNESS.key_hash().hex().upper()),
        "a" * 101 + WITNESS.text(),
        WITNESS.text() * 100,
        # The key of a log (type 1), under the hash that it has as such.
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        # A point of order 1, under which one signature fits every message.
        f"w+{sha256(WEAK).hexdigest()[:8]}+{base64.b64encode(WEAK[2:]).decode()}",
    ],
    ids=range(10),
)
def test_what_is_no_verifier_key_of_a_witness_is_refused(text: str) -> None:
    """Other spellings, other lengths, the key of a log, a key that verifies everything."""
    with pytest.raises(InvalidValueError) as refused:
        parse_witness_key(text)
    assert refused.value.reason == "bad_witness_key"


@pytest.mark.parametrize(
    "name", ["", "a b", "a+b", "a\n", "-a", "a/", "\N{LATIN SMALL LETTER E WITH ACUTE}", "a" * 101]
)
def test_a_witness_has_a_plain_name(name: str) -> None:
    """No space or plus, which the standard forbids; and nothing that two people could read differently."""
    with pytest.raises(InvalidValueError) as refused:
        parse_witness_name(name)
    assert refused.value.reason == "bad_witness_name"


@given(st.text(max_size=300))
def test_any_text_is_a_verifier_key_or_a_typed_refusal(text: str) -> None:
    """Whatever is typed."""
    with pytest.raises(InvalidValueError):
        parse_witness_key(text)


# --- Notes with co-signatures ------------------------------------------------------------------------------


def test_no_character_of_a_co_signed_note_can_change() -> None:
    """At no place, unused bits and the time included."""
    survivors = []
    for place, character in enumerate(COSIGNED):
        near = ALPHABET.find(character)
        for other in "\n =-A" if near < 0 else ALPHABET[max(0, near - 2) : near + 3] + "\n=":
            if other == character:
                continue
            try:
                open_cosigned(COSIGNED[:place] + other + COSIGNED[place + 1 :], [LOG.public], [WITNESS])
            except LogError:
                continue
            survivors.append((place, other))
    assert survivors == []


def test_a_co_signature_is_over_one_state_at_one_time_by_one_key() -> None:
    """Attacks: moved to another checkpoint, given another time, made by another key under the witness's name."""
    grown = CHECKPOINT.text().replace("\n12\n", "\n13\n")
    elsewhere = sign_checkpoint(Checkpoint(custodian=KeyId("c" * 64), size=13, root=CHECKPOINT.root, generation=3), LOG)
    assert elsewhere.startswith(grown)
    assert refusal(elsewhere + LINE) == "cosignature"
    blob = blob_of(LINE)
    assert refusal(NOTE + line_of(NAME, blob[:4] + (TIME + 1).to_bytes(8, "big") + blob[12:])) == "cosignature"
    forged = blob_of(cosign(CHECKPOINT.text(), NAME, OTHER, TIME))
    assert refusal(NOTE + line_of(NAME, blob[:4] + forged[4:])) == "cosignature"
    # The log's own signature over the note is no co-signature, even if the witness's key made it.
    plain = blob[:4] + TIME.to_bytes(8, "big") + KEY.sign(CHECKPOINT.text().encode())
    assert refusal(NOTE + line_of(NAME, plain)) == "cosignature"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(64),
        bytes(71),
        bytes(73),
        (2**53).to_bytes(8, "big") + KEY.sign(f"cosignature/v1\ntime {2**53}\n{CHECKPOINT.text()}".encode()),
        (2**64 - 1).to_bytes(8, "big") + KEY.sign(f"cosignature/v1\ntime {2**64 - 1}\n{CHECKPOINT.text()}".encode()),
    ],
    ids=["nothing", "no_time", "short", "long", "time_too_large", "time_beyond_the_standard"],
)
def test_a_line_in_a_witnesss_name_that_is_no_co_signature_refuses_the_note(content: bytes) -> None:
    """It is not ignored: somebody uses the name and hash of a key that is believed."""
    note = NOTE + line_of(NAME, WITNESS.key_hash() + content)
    with pytest.raises(LogError) as refused:
        witnessed(note, [WITNESS])
    assert refused.value.reason in {"cosignature", "checkpoint"}


def test_lines_of_others_are_ignored_or_refused_as_the_reader_needs() -> None:
    """A reader of notes ignores strangers, as the standard says; in a copy of a log there is nothing to ignore."""
    stranger = cosign(CHECKPOINT.text(), "stranger.example", OTHER, TIME)
    same_name = cosign(CHECKPOINT.text(), NAME, OTHER, TIME)
    for line in (stranger, same_name):
        assert [one.witness for one in witnessed(with_cosignatures(NOTE, [LINE, line]), [WITNESS])] == [WITNESS]
        assert refusal(with_cosignatures(NOTE, [LINE, line])) == "cosignature"
        assert refusal(NOTE + line) == "cosignature"
    assert witnessed(NOTE + stranger, [WITNESS]) == ()


def test_nobody_counts_twice() -> None:
    """Neither a witness that signed at two times, nor a log that signed twice."""
    again = cosign(CHECKPOINT.text(), NAME, KEY, TIME + 1)
    for lines in ([LINE, again], [LINE, LINE]):
        assert refusal(with_cosignatures(NOTE, lines)) == "cosignature"
        with pytest.raises(LogError):
            witnessed(with_cosignatures(NOTE, lines), [WITNESS])
    own = NOTE.partition("\n\n")[2]
    assert refusal(NOTE + own + LINE) == "cosignature"


def test_a_note_has_room_for_every_witness_and_for_no_more() -> None:
    """Fifteen with the longest names stay under the bound of a note; a seventeenth signature is refused."""
    keys = [SigningKey.from_secret(Secret(bytes([number]) * 32)) for number in range(MAX_WITNESSES + 1)]
    witnesses = [WitnessKey(name=f"{number:0>100}", key=key.public) for number, key in enumerate(keys)]
    large = Checkpoint(custodian=KeyId("c" * 64), size=2**53 - 1, root=CHECKPOINT.root, generation=2**53 - 1)
    lines = [cosign(large.text(), witness.name, key, 2**53 - 1) for witness, key in zip(witnesses, keys, strict=True)]
    note = with_cosignatures(sign_checkpoint(large, LOG), lines[:MAX_WITNESSES])
    assert len(note.encode()) <= MAX_CHECKPOINT_BYTES
    opened, by = open_cosigned(note, [LOG.public], witnesses)
    assert (opened, len(by)) == (large, MAX_WITNESSES)
    with pytest.raises(LogError) as refused:
        open_cosigned(with_cosignatures(sign_checkpoint(large, LOG), lines), [LOG.public], witnesses)
    assert refused.value.reason == "checkpoint"


def test_the_order_of_co_signatures_has_one_spelling() -> None:
    """In whatever order they came."""
    other = cosign(CHECKPOINT.text(), "another.example", OTHER, TIME)
    assert with_cosignatures(NOTE, [LINE, other]) == with_cosignatures(NOTE, [other, LINE])


@pytest.mark.parametrize(
    "note",
    [
        NOTE,
        COSIGNED + LINE,
        LINE.join(NOTE.rsplit("\N{EM DASH}", 1)),
        NOTE.partition("\n\n")[0] + "\n\n" + LINE,
        COSIGNED.replace("\N{EM DASH} w", "- w"),
        COSIGNED[:-1],
        COSIGNED.replace("\n\N{EM DASH} w", "\r\n\N{EM DASH} w"),
        COSIGNED.replace("\n\N{EM DASH} w", "\N{LINE SEPARATOR}\N{EM DASH} w"),
        COSIGNED + "\x00" * MAX_CHECKPOINT_BYTES,
    ],
    ids=range(9),
)
def test_who_co_signed_is_asked_of_notes_with_one_co_signature_only(note: str) -> None:
    """The log's line and then one more, in the standard's form."""
    with pytest.raises(LogError):
        cosigner_name(note, CHECKPOINT.origin())


@given(
    st.text(max_size=600)
    | st.text(alphabet="\N{EM DASH} \naA+/=0123456789", max_size=600).map(lambda text: NOTE + text)
)
def test_any_text_is_a_note_or_a_typed_refusal(text: str) -> None:
    """No other error ever leaves."""
    for look in (
        lambda: witnessed(text, [WITNESS]),
        lambda: open_cosigned(text, [LOG.public], [WITNESS]),
        lambda: cosigner_name(text, CHECKPOINT.origin()),
    ):
        try:
            look()
        except AIGovToolError as error:
            assert isinstance(error, LogError)
