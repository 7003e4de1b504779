from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.errors import AIGovToolError, ConfigurationError, ConflictError, LogError, SignatureInvalidError
from aigovtool.ids import Digest, MessageId, OperatorId
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.cosignature import WitnessKey, cosign
from aigovtool.ledger.entry import (
    Command,
    Entry,
    EntryBody,
    Genesis,
    KeySetPublished,
    PartyAdded,
    PartyRole,
    WitnessEnrolled,
)
from aigovtool.ledger.merkle import root_of
from aigovtool.operator.audit_file import AuditHeader, verify_audit_file, write_audit_file
from aigovtool.protocol.trust import KEY_SET, KeySet
from aigovtool.protocol.views import LogHead

ROOT, LOG_KEY = SigningKey.generate(), SigningKey.generate()
WITNESS_KEY = SigningKey.generate()
WITNESS = WitnessKey(name="witness.example/w1", key=WITNESS_KEY.public)
BY_ALICE = Command(operator=OperatorId("alice"), command_id=MessageId("0" * 32), digest=Digest("sha256:" + "0" * 64))
BODIES: list[EntryBody] = [
    Genesis(custodian=ROOT.public.key_id),
    PartyAdded(
        role=PartyRole.OPERATOR, name="alice", key=ROOT.public.key_id, borrower=None, not_after_ms=9_000, command=None
    ),
    WitnessEnrolled(witness=WITNESS.text(), command=BY_ALICE),
    *(KeySetPublished(version=n, digest=Digest("sha256:" + "0" * 64)) for n in range(1, 5)),
]
ENTRIES = [Entry(index=n, at_ms=1000 + n, generation=0, body=body) for n, body in enumerate(BODIES)]


def cosigned(size: int) -> str:
    root = root_of([entry.leaf() for entry in ENTRIES[:size]])
    checkpoint = Checkpoint(custodian=ROOT.public.key_id, size=size, root=root)
    return sign_checkpoint(checkpoint, LOG_KEY) + cosign(checkpoint.text(), WITNESS.name, WITNESS_KEY, 1_700_000_000)


def written(path: Path, *rotated: bytes) -> Path:
    key_set = KeySet(
        custodian=ROOT.public.key_id,
        version=1,
        issued_at_ms=0,
        commands=[],
        log=[*rotated, LOG_KEY.public.raw],
        credentials=[],
        keystore=bytes(32),
    )
    notes = [cosigned(size) for size in (len(ENTRIES), 4, 3)]
    head = LogHead(checkpoint=notes[0], key_set=seal(KEY_SET, key_set, ROOT), cosigned=tuple(notes[1:]))
    assert write_audit_file(path, head, map(encode, ENTRIES)) == len(ENTRIES)
    return path


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("audit") / "log.jsonl").read_bytes()


def refusal(path: Path, content: bytes) -> AIGovToolError:
    path.write_bytes(content)
    with pytest.raises(AIGovToolError) as refused:
        verify_audit_file(path, ROOT.public)
    return refused.value


def test_a_copy_verifies_under_the_pinned_root_alone(tmp_path: Path) -> None:
    """Another root, and the very same file is worth nothing."""
    path = written(tmp_path / "log.jsonl")
    assert verify_audit_file(path, ROOT.public).entries == len(ENTRIES)
    with pytest.raises(SignatureInvalidError):
        verify_audit_file(path, SigningKey.generate().public)


def test_a_copy_verifies_however_often_keys_were_rotated(tmp_path: Path) -> None:
    """Keys that nobody revoked stay in the key set that comes with the copy; weekly ones of all roles for years."""
    rotated = [SigningKey.generate().public.raw for _ in range(1_200)]
    path = written(tmp_path / "log.jsonl", *rotated)
    assert len(path.read_bytes().partition(b"\n")[0]) > 64 << 10
    assert verify_audit_file(path, ROOT.public).entries == len(ENTRIES)


def test_no_byte_of_the_header_is_without_meaning(tmp_path: Path, content: bytes) -> None:
    """Every single one, with co-signatures of a witness that the reader need not know."""
    path = tmp_path / "log.jsonl"
    header = content.partition(b"\n")[0]
    for position in range(len(header)):
        changed = bytearray(content)
        changed[position] ^= 1
        refusal(path, bytes(changed))


@settings(max_examples=150)
@given(st.data())
def test_no_byte_of_a_copy_is_without_meaning(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    """Whichever byte is changed, the copy no longer verifies; behind the header, the entry is named."""
    position = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[position] ^= data.draw(st.integers(1, 255))
    error = refusal(tmp_path_factory.getbasetemp() / "changed.jsonl", bytes(changed))
    line = content[:position].count(b"\n")
    if line:
        assert isinstance(error, LogError)
        assert error.message.startswith(f"entry {line - 1}: ")


@pytest.mark.parametrize("line", range(len(ENTRIES) + 1))
def test_lines_that_are_dropped_swapped_doubled_or_cut_are_named(tmp_path: Path, content: bytes, line: int) -> None:
    """What can be done to a file of lines with a text editor."""
    lines, path = content.splitlines(keepends=True), tmp_path / "log.jsonl"
    dropped = refusal(path, b"".join(lines[:line] + lines[line + 1 :]))
    doubled = refusal(path, b"".join(lines[: line + 1] + lines[line:]))
    cut = refusal(path, b"".join(lines[:line]) + lines[line][:-1])
    if line == 0:
        assert [error.reason for error in (dropped, cut)] == ["header", "header"]
        assert doubled.message.startswith("entry 0: ")
    else:
        assert dropped.message.startswith(f"entry {line - 1}: ")
        assert doubled.message.startswith(f"entry {line}: ")
        assert cut.message.startswith(f"entry {line - 1}: ")


@pytest.mark.parametrize("tail", [b"\n", b" ", b"{}\n", b'{"leaf":"'])
def test_nothing_may_follow_the_last_entry(tmp_path: Path, content: bytes, tail: bytes) -> None:
    """Not even white space."""
    assert refusal(tmp_path / "log.jsonl", content + tail).message.startswith(f"entry {len(ENTRIES)}: ")


def test_endless_lines_are_not_read(tmp_path: Path, content: bytes) -> None:
    """A line is read up to its bound, as header and as entry."""
    assert refusal(tmp_path / "a.jsonl", b"x" * (1 << 20)).reason == "header"
    header = content.splitlines(keepends=True)[0]
    assert refusal(tmp_path / "b.jsonl", header + b'{"leaf":"' + b"0" * (1 << 20)).reason == "malformed"


def test_a_copy_never_replaces_a_file_and_a_failed_one_leaves_none(tmp_path: Path) -> None:
    """An export that breaks off half-way must not look like a short log."""
    path = written(tmp_path / "log.jsonl")
    before = path.read_bytes()
    with pytest.raises(ConflictError):
        written(path)
    assert path.read_bytes() == before

    def broken() -> Iterator[bytes]:
        yield encode(ENTRIES[0])
        raise ConfigurationError("the line went dead")

    head = LogHead(checkpoint="", key_set=seal(KEY_SET, ENTRIES[0], ROOT))
    with pytest.raises(ConfigurationError):
        write_audit_file(tmp_path / "half.jsonl", head, broken())
    assert [found.name for found in tmp_path.iterdir()] == ["log.jsonl"]


def test_what_appears_while_a_copy_is_written_stays(tmp_path: Path, content: bytes) -> None:
    """A long log takes minutes: another export to the same name, or whoever else wrote there, was overwritten."""
    path = tmp_path / "log.jsonl"
    head = LogHead(checkpoint=cosigned(len(ENTRIES)), key_set=decode(content.splitlines()[0], AuditHeader).key_set)

    def entries() -> Iterator[bytes]:
        yield from map(encode, ENTRIES)
        path.write_bytes(b"somebody else's")

    with pytest.raises(ConflictError) as caught:
        write_audit_file(path, head, entries())
    assert caught.value.reason == "audit_file_exists"
    assert path.read_bytes() == b"somebody else's"
    assert [one.name for one in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_missing_copy_is_a_configuration_error(tmp_path: Path) -> None:
    """The name is wrong, not the log."""
    with pytest.raises(ConfigurationError) as refused:
        verify_audit_file(tmp_path / "nothing.jsonl", ROOT.public)
    assert refused.value.reason == "unreadable_audit_file"
