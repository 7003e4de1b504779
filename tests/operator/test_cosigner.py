"""A witness signs one history: what it signed is durable before anybody has it, and nothing else is ever signed."""

import base64
import fcntl
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.operator.conftest import FakeCustodian, Request, Scripted, ok, refused
from tests.operator.test_witness import LEAVES, head, note, proof

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import Envelope, SigningKey
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    ConflictError,
    InvalidValueError,
    LedgerRollbackError,
    LogError,
    SignatureInvalidError,
)
from aigovtool.ids import KeyId
from aigovtool.ledger.checkpoint import MAX_CHECKPOINT_BYTES, parse_checkpoint, sign_checkpoint
from aigovtool.ledger.cosignature import cosign, witnessed
from aigovtool.ledger.merkle import consistency_proof, leaf_hash, root_of
from aigovtool.operator.cosigner import Cosigner, Settlement, said
from aigovtool.operator.witness import LogWitness
from aigovtool.operator.witness_home import FORMAT, MAX_EARLIER, Memory, Remembered, WitnessHome, create_witness
from aigovtool.protocol.views import ConsistencyProof, CosignedCheckpoint, LogHead, WitnessView

NAME = "witness.example.com/w1"
NOW = 1_700_000_000


def kept(request: Request) -> bytes:
    """Answer as a custodian that has kept what it was handed."""
    handed = decode(request.body, CosignedCheckpoint).checkpoint
    found = parse_checkpoint(handed)
    time_s = int.from_bytes(base64.b64decode(handed.rpartition(" ")[2])[4:12], "big")
    return keeps(found.size, generation=found.generation, time_s=time_s)


def keeps(size: int | None, *, generation: int | None = 0, time_s: int | None = NOW) -> bytes:
    return ok(WitnessView(name=NAME, key="k", retired=False, size=size, generation=generation, time_s=time_s))


@dataclass
class Stand:
    """A witness's directory, and a custodian that answers what a test wrote down."""

    directory: Path
    custodian: FakeCustodian
    now_s: int = NOW
    pauses: list[float] = field(default_factory=list)

    @property
    def memory_file(self) -> Path:
        return self.directory / f"{self.custodian.root.public.key_id}.json"

    def memory(self) -> Memory:
        return decode(self.memory_file.read_bytes(), Memory)

    def run(self, *answers: Scripted, first: bool = False) -> str | None:
        """Co-sign once; return why not."""
        self.custodian.script.answers = list(answers)
        self.custodian.script.asked.clear()
        try:
            with self.link() as link, WitnessHome(self.directory, holding=link.custodian) as home:
                Cosigner(home, link, clock_s=lambda: self.now_s).sign(first=first)
        except AIGovToolError as error:
            return error.reason or error.code
        return None

    def held(self) -> WitnessHome:
        return WitnessHome(self.directory, holding=self.custodian.root.public.key_id)

    def link(self) -> LogWitness:
        return LogWitness(self.custodian.address, pause=self.pauses.append)

    def settlement(self, *answers: Scripted, accept: bool = False) -> Settlement:
        self.custodian.script.answers = list(answers)
        with self.link() as link, WitnessHome(self.directory, holding=link.custodian) as home:
            cosigner = Cosigner(home, link, clock_s=lambda: self.now_s)
            found = cosigner.settlement()
            if accept:
                cosigner.accept(found)
        return found

    def begin(self, size: int = 3) -> None:
        """Co-sign for the first time."""
        assert self.run(head(self.custodian, size), kept, first=True) is None

    def extend(self, old: int, size: int, *last: Scripted) -> str | None:
        grown = head(self.custodian, size)
        return self.run(grown, grown, proof(old, size), *(last or (kept,)))

    def paths(self) -> list[str]:
        return [asked.path for asked in self.custodian.script.asked]


@pytest.fixture
def stand(tmp_path: Path, custodian: FakeCustodian) -> Stand:
    create_witness(tmp_path / "w1", NAME)
    return Stand(tmp_path / "w1", custodian)


def sent(stand: Stand) -> str:
    """The note that was handed in last."""
    (request,) = [asked for asked in stand.custodian.script.asked if asked.path == "/v1/cosignatures"]
    assert request.peer is None  # nobody's credential
    return decode(request.body, CosignedCheckpoint).checkpoint


# --- Rounds -----------------------------------------------------------------------------------------------


def test_the_first_checkpoint_is_believed_only_when_the_keeper_says_that_it_is_the_first(stand: Stand) -> None:
    """A memory that was lost looks the same, and must not be begun anew without a word."""
    assert stand.run(head(stand.custodian, 3)) == "no_memory"
    assert not stand.memory_file.exists()
    stand.begin()
    with WitnessHome(stand.directory) as home:
        (by,) = witnessed(sent(stand), [home.witness])
    assert (by.time_s, parse_checkpoint(sent(stand)).size) == (NOW, 3)
    assert stand.memory().note == sent(stand)


def test_each_round_shows_the_last_checkpoint_first_and_has_the_log_proved(stand: Stand) -> None:
    """The very note of the memory, so that a restored ledger is found; then the proof, then the co-signature."""
    stand.begin()
    before = stand.memory().note
    stand.now_s += 60
    assert stand.extend(3, 8) is None
    assert stand.paths() == [
        "/v1/checkpoint",
        "/v1/checkpoints",
        "/v1/log/consistency?old=3&size=8",
        "/v1/cosignatures",
    ]
    assert before.encode() in decode_shown(stand)
    assert parse_checkpoint(sent(stand)).size == 8
    assert [one.size for one in stand.memory().earlier] == [3, 8]


def decode_shown(stand: Stand) -> bytes:
    (shown,) = [asked.body for asked in stand.custodian.script.asked if asked.path == "/v1/checkpoints"]
    return shown.replace(b"\\n", b"\n")


def test_a_co_signature_is_durable_before_anybody_has_it(stand: Stand) -> None:
    """When the request arrives, the file already holds what it carries, and nothing beside it is left over."""
    found: list[str] = []

    def look(request: Request) -> bytes:
        assert stand.memory().note == decode(request.body, CosignedCheckpoint).checkpoint
        found.extend(path.name for path in stand.directory.iterdir())
        return kept(request)

    assert stand.run(head(stand.custodian, 3), look, first=True) is None
    lock = stand.memory_file.with_suffix(".lock")
    assert sorted(found) == sorted([stand.memory_file.name, lock.name, "witness.key", "witness.vkey"])
    assert stand.memory_file.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written_down_is_not_signed(stand: Stand) -> None:
    """A full or read-only disk: nothing is sent."""
    stand.begin()
    stand.directory.chmod(0o770)  # which the key files' room refuses to write into
    assert stand.extend(3, 8) == "unsafe_key_directory"
    assert "/v1/cosignatures" not in stand.paths()
    stand.directory.chmod(0o700)
    assert parse_checkpoint(stand.memory().note).size == 3


def test_after_a_crash_on_the_way_the_memory_is_ahead_and_the_next_round_goes_on(stand: Stand) -> None:
    """The custodian never got it; it is shown the new checkpoint all the same, and gets the next co-signature."""
    stand.begin()
    assert stand.extend(3, 5, None, None, None, None) == "no_answer"
    assert parse_checkpoint(stand.memory().note).size == 5
    assert stand.extend(5, 8) is None
    assert "\n5\n" in decode_shown(stand).decode()


def test_a_key_set_that_was_put_back_is_not_believed(stand: Stand) -> None:
    """Attack: a thief of a log key that was revoked shows the old set, in which it is good, in another round."""
    stand.begin()
    assert stand.memory().key_set == 1
    newer, older = (head(stand.custodian, 8, key_set=number) for number in (3, 2))
    assert stand.run(newer, newer, proof(3, 8), kept) is None
    assert stand.memory().key_set == 3
    before = stand.memory_file.read_bytes()
    assert stand.run(older, older, proof(8, 8), kept) == "key_set_rollback"
    assert "/v1/cosignatures" not in stand.paths()
    assert stand.memory_file.read_bytes() == before
    stand.custodian.script.answers = [head(stand.custodian, 9, generation=1, key_set=2)]
    with stand.link() as link, stand.held() as home, pytest.raises(SignatureInvalidError):
        Cosigner(home, link).settlement()


def test_a_newer_key_set_is_remembered_though_nothing_is_signed(stand: Stand) -> None:
    """Whatever else was wrong with that answer: what the root took back stays so."""
    stand.begin(5)
    small = head(stand.custodian, 4, key_set=2)
    assert stand.run(small, small) == "rollback"
    assert (stand.memory().key_set, parse_checkpoint(stand.memory().note).size) == (2, 5)
    assert stand.extend(5, 8) == "key_set_rollback"


def test_a_memory_of_before_there_were_key_sets_goes_on(stand: Stand) -> None:
    """It has none, and gets the one of the next round."""
    stand.begin()
    older = msgspec.structs.replace(stand.memory(), key_set=msgspec.UNSET)
    assert b"key_set" not in encode(older)
    stand.memory_file.write_bytes(encode(older))
    grown = head(stand.custodian, 8, key_set=4)
    assert stand.run(grown, grown, proof(3, 8), kept) is None
    assert stand.memory().key_set == 4


def test_two_histories_are_never_signed(stand: Stand) -> None:
    """Attack: the log is rolled back, forked or of another custodian, and the custodian says that all is well."""
    stand.begin(5)
    signed = stand.memory()
    fork = [*LEAVES[:3], *(leaf_hash(bytes([number])) for number in range(40, 45))]
    forked = head(stand.custodian, 8)
    other = note(stand.custodian, 8, root=root_of(fork))
    forked_head = ok(LogHead(checkpoint=other, key_set=_keys(forked)))
    same = ok(LogHead(checkpoint=note(stand.custodian, 5, root=root_of(fork[:5])), key_set=_keys(forked)))
    small = head(stand.custodian, 4)
    assert stand.run(small, small) == "rollback"
    for lie in (forked_head, same):
        assert stand.run(lie, lie, proof(5, 8)) == "rewritten"
        assert "/v1/cosignatures" not in stand.paths()
    assert stand.run(small, refused(LedgerRollbackError("gone")), proof(4, 4)) == "rollback"
    assert stand.memory() == signed


def liar(stand: Stand, shown: bytes) -> list[Scripted]:
    """Answers of a custodian that proves nothing: an honest head, `shown` for the proof, then a smaller fork."""
    honest = head(stand.custodian, 6)
    fork = [leaf_hash(bytes([number])) for number in range(70, 74)]
    forked = ok(LogHead(checkpoint=note(stand.custodian, 4, root=root_of(fork)), key_set=_keys(honest)))
    heads = [honest, forked]

    def answer(request: Request) -> bytes:
        if request.path == "/v1/checkpoint":
            return heads.pop(0) if len(heads) > 1 else heads[0]
        if request.path == "/v1/checkpoints":
            return shown
        return kept(request) if request.path == "/v1/cosignatures" else refused(LogError("no", reason="no_such_prefix"))

    return [answer] * 12


def test_a_generation_that_comes_and_goes_excuses_nothing(stand: Stand) -> None:
    """Attack: one answer is in a higher generation, so that no proof is due; the next head is a fork in the old one."""
    stand.begin(6)
    before = stand.memory_file.read_bytes()
    assert stand.run(*liar(stand, restored(stand, 7))) == "new_generation"
    assert "/v1/cosignatures" not in stand.paths()
    assert stand.memory_file.read_bytes() == before


def test_what_the_custodian_calls_a_refusal_selects_no_way_around_the_proof(stand: Stand) -> None:
    """Attack: it answers with the very reason that stands for a loss which operators settled."""
    stand.begin(6)
    before = stand.memory_file.read_bytes()
    for said_reason in ("lost", "new_generation", "rewritten"):
        told = refused(LogError("it was restored", reason=said_reason))
        assert stand.run(*liar(stand, told)) == said_reason
        assert "/v1/cosignatures" not in stand.paths()
        assert stand.memory_file.read_bytes() == before


def junk(stand: Stand, chars: int = 92) -> str:
    """A line in the log's own name, in the standard's form, that nobody signed."""
    return f"\N{EM DASH} {parse_checkpoint(note(stand.custodian, 1)).origin()} {'A' * chars}\n"


def padded(stand: Stand, plain: str) -> str:
    """A note with as many such lines as fit."""
    while len(plain) < MAX_CHECKPOINT_BYTES:
        room = MAX_CHECKPOINT_BYTES - len(plain) - len(junk(stand, 0))
        if room < 8:
            break
        plain += junk(stand, min(512, room // 4 * 4))
    return plain


def dressed(stand: Stand, size: int, shown: str, *, generation: int = 0) -> bytes:
    """The head of that size, with `shown` for its note."""
    return ok(LogHead(checkpoint=shown, key_set=_keys(head(stand.custodian, size, generation=generation))))


def test_what_is_stored_and_sent_is_the_checkpoint_and_the_logs_one_signature(stand: Stand) -> None:
    """Attack: a valid note is filled up with lines in the log's own name; no co-signature has room beside them."""
    stand.begin()
    for size in (5, 8):
        plain = note(stand.custodian, size)
        for shown in (padded(stand, plain), plain + junk(stand), plain.replace("\n\n", "\n\n" + junk(stand))):
            grown = dressed(stand, size, shown)
            now = parse_checkpoint(stand.memory().note).size
            assert stand.run(grown, grown, proof(now, size), kept) is None
            assert sent(stand).startswith(plain)
            assert sent(stand).removeprefix(plain).startswith("\N{EM DASH} " + NAME)
            assert stand.memory().note == sent(stand)
            with WitnessHome(stand.directory) as home:
                assert len(witnessed(stand.memory().note, [home.witness])) == 1


def test_a_note_that_two_readers_could_take_apart_differently_is_not_co_signed(stand: Stand) -> None:
    """Attack: a second empty line, or more lines than a reader must take; the memory stays what it was."""
    stand.begin()
    before = stand.memory_file.read_bytes()
    plain = note(stand.custodian, 8)
    for shown in (plain + "\n" + junk(stand), plain + junk(stand) * 16, plain + "no signature\n", plain + "\n"):
        grown = dressed(stand, 8, shown)
        assert stand.run(grown, grown, proof(3, 8), kept) == "checkpoint"
        assert "/v1/cosignatures" not in stand.paths()
        assert stand.memory_file.read_bytes() == before
    assert stand.extend(3, 8) is None


def _keys(answer: bytes) -> Envelope:
    return decode(answer.partition(b"\r\n\r\n")[2], LogHead).key_set


def test_a_head_that_is_not_signed_is_not_co_signed(stand: Stand) -> None:
    """Attack: keys that the pinned root never signed, and a checkpoint by none of those that it signed."""
    stand.begin()
    signed = stand.memory()
    genuine = head(stand.custodian, 8)
    root, stand.custodian.root = stand.custodian.root, SigningKey.generate()
    foreign = head(stand.custodian, 8)
    stand.custodian.root = root
    assert stand.run(foreign) == "wrong_key"
    by_nobody = sign_checkpoint(parse_checkpoint(note(stand.custodian, 8)), SigningKey.generate())
    assert stand.run(ok(LogHead(checkpoint=by_nobody, key_set=_keys(genuine)))) == "checkpoint"
    assert "/v1/cosignatures" not in stand.paths()
    assert stand.memory() == signed


def test_the_same_state_is_signed_again_with_a_later_time(stand: Stand) -> None:
    """So that readers can tell a witness that watches from one that went away; its time never goes back."""
    stand.begin()
    stand.now_s += 60
    same = head(stand.custodian, 3)
    assert stand.run(same, same, proof(3, 3), kept) is None
    assert (stand.memory().time_s, len(stand.memory().earlier)) == (NOW + 60, 1)
    stand.now_s -= 61
    assert stand.run(same, same, proof(3, 3)) == "clock_behind"
    assert stand.memory().time_s == NOW + 60


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (keeps(8, time_s=NOW + 1), "another_copy"),
        (keeps(9, time_s=NOW - 60), "another_copy"),
        (keeps(2, generation=1), "another_copy"),
        (keeps(8, time_s=NOW - 1), "not_kept"),
        (keeps(3, time_s=NOW + 60), "not_kept"),
        (keeps(None, generation=None, time_s=None), "not_kept"),
    ],
    ids=["later", "larger", "generation", "earlier", "smaller", "nothing"],
)
def test_the_custodian_keeps_this_very_co_signature_or_the_keeper_is_told(
    stand: Stand, answer: bytes, reason: str
) -> None:
    """It keeps the newest of a witness: a newer one than this was made by another copy of it."""
    stand.begin()
    assert stand.extend(3, 8, answer) == reason
    assert parse_checkpoint(stand.memory().note).size == 8


def test_a_co_signature_of_its_own_that_the_memory_does_not_hold_stops_the_witness(stand: Stand) -> None:
    """Another copy of it co-signed, or its memory is an older one: each round looks at what the custodian shows."""
    stand.begin()
    before = stand.memory_file.read_bytes()
    with WitnessHome(stand.directory) as home:
        key = home.key
    for size, time_s, why in ((3, NOW, None), (3, NOW + 1, "another_copy"), (5, NOW - 1, "another_copy")):
        plain = note(stand.custodian, size)
        own = plain + cosign(parse_checkpoint(plain).text(), NAME, key, time_s)
        keys = _keys(head(stand.custodian, 8))
        earlier = ok(LogHead(checkpoint=note(stand.custodian, 8), key_set=keys, cosigned=(own,)))
        for shown in (earlier, dressed(stand, size, own)):
            now = decode(shown.partition(b"\r\n\r\n")[2], LogHead).checkpoint
            stand.now_s = NOW + 60
            assert stand.run(shown, shown, proof(3, parse_checkpoint(now).size), kept) == why
            assert ("/v1/cosignatures" in stand.paths()) == (why is None)
            stand.memory_file.write_bytes(before)


def test_what_a_witness_co_signed_of_another_log_is_no_alarm(stand: Stand) -> None:
    """Attack: a custodian shows a newer co-signature over another log of the same witness, to have it given up."""
    with WitnessHome(stand.directory) as home:
        key = home.key
    there = msgspec.structs.replace(parse_checkpoint(note(stand.custodian, 8)), custodian=KeyId("0" * 64), generation=9)
    other = sign_checkpoint(there, SigningKey.generate()) + cosign(there.text(), NAME, key, NOW + 60)
    for size, first in ((3, True), (8, False)):
        keys = _keys(head(stand.custodian, size))
        shown = ok(LogHead(checkpoint=note(stand.custodian, size), key_set=keys, cosigned=(other,)))
        answers = (shown, kept) if first else (shown, shown, proof(3, size), kept)
        assert stand.run(*answers, first=first) is None


def test_co_signatures_of_others_are_not_handed_in(stand: Stand) -> None:
    """The head carries another witness's line: what is sent is the log's and the own."""
    plain = note(stand.custodian, 3)
    line = cosign(parse_checkpoint(plain).text(), "other.example", SigningKey.generate(), NOW)
    shown = ok(LogHead(checkpoint=plain + line, key_set=_keys(head(stand.custodian, 3))))
    assert stand.run(shown, kept, first=True) is None
    assert "other.example" not in sent(stand)
    assert sent(stand).startswith(plain)


# --- Its memory -------------------------------------------------------------------------------------------


def test_a_witness_that_lost_its_memory_does_not_begin_anew(stand: Stand) -> None:
    """The custodian shows what it co-signed, in this state or an earlier one: it cannot know what else it signed."""
    stand.begin()
    own = stand.memory().note
    stand.memory_file.unlink()
    keys = _keys(head(stand.custodian, 3))
    for shown in (
        LogHead(checkpoint=own, key_set=keys),
        LogHead(checkpoint=note(stand.custodian, 8), key_set=keys, cosigned=(own,)),
    ):
        assert stand.run(ok(shown), first=True) == "signed_before"
    assert not stand.memory_file.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 5000, b"x" * (1 << 19)])
def test_a_damaged_memory_is_not_an_empty_one(stand: Stand, content: bytes) -> None:
    """Whatever is in the file, nothing is signed."""
    stand.begin()
    stand.memory_file.write_bytes(content)
    assert stand.run(head(stand.custodian, 3), first=True) in {"bad_memory", "key_file_too_large"}
    assert stand.paths() == []


def test_a_memory_of_another_log_is_refused(stand: Stand) -> None:
    """Attack: files in the witness's directory are renamed."""
    stand.begin()
    other = stand.directory / ("0" * 64 + ".json")
    stand.memory_file.rename(other)
    with WitnessHome(stand.directory) as home, pytest.raises(ConfigurationError) as caught:
        home.memories()
    assert caught.value.reason == "bad_memory"


def test_a_memory_that_others_can_touch_is_refused(stand: Stand) -> None:
    """Whoever can write to it can have two histories signed."""
    stand.begin()
    stand.memory_file.chmod(0o666)
    assert stand.run(head(stand.custodian, 3)) == "unsafe_key_file"


def test_two_processes_never_sign_one_log_as_one_witness(stand: Stand) -> None:
    """The second is told so at once, in this process and in another; when the first is killed, its lock is gone."""
    log, other = stand.custodian.root.public.key_id, KeyId("0" * 64)
    program = (
        "import sys, pathlib\n"
        "from aigovtool.operator.witness_home import WitnessHome\n"
        "home = WitnessHome(pathlib.Path(sys.argv[1]), holding=sys.argv[2])\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(stand.directory), log], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConflictError) as busy:
            stand.held()
        assert busy.value.reason == "witness_busy"
        WitnessHome(stand.directory, holding=other).close()  # another log is another memory
        holder.kill()
    with stand.held(), pytest.raises(ConflictError):
        stand.held()


def test_who_lost_its_lock_writes_nothing_more(stand: Stand) -> None:
    """The lock's file was removed while it was held, and a second process holds another one of that name."""
    stand.begin()
    memory = stand.memory()
    lock = stand.memory_file.with_suffix(".lock")
    with stand.held() as first:
        lock.unlink()
        with pytest.raises(ConflictError) as gone:
            first.remember(memory)
        with stand.held() as second:
            with pytest.raises(ConflictError) as taken:
                first.remember(memory)
            second.remember(memory)
    assert (gone.value.reason, taken.value.reason) == ("witness_busy", "witness_busy")


def test_a_lock_that_was_removed_before_it_was_held_is_none(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking its file, somebody removes it: what is held then is what others find there."""
    lock = stand.memory_file.with_suffix(".lock")
    flock, removals = fcntl.flock, iter([True])

    def slow(descriptor: int, how: int) -> None:
        if next(removals, False):
            lock.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with stand.held(), pytest.raises(ConflictError) as busy:
        stand.held()
    assert busy.value.reason == "witness_busy"


def test_what_could_not_be_read_back_never_replaces_a_memory(stand: Stand) -> None:
    """A bound is checked where bytes are read: a memory over it would be lost with the old one."""
    stand.begin()
    before = stand.memory_file.read_bytes()
    long = msgspec.structs.replace(stand.memory(), note="n" * (MAX_CHECKPOINT_BYTES + 1))
    with stand.held() as home, pytest.raises(InvalidValueError):
        home.remember(long)
    assert stand.memory_file.read_bytes() == before


def test_a_memory_is_written_by_who_holds_it_only(stand: Stand) -> None:
    """Who looks on writes nothing, nor who holds the memory of another log."""
    memory = Memory(format=FORMAT, custodian=KeyId("0" * 64), note="n", time_s=0, earlier=())
    with WitnessHome(stand.directory) as reader, stand.held() as other:
        for home in (reader, other):
            assert home.memories() == []
            with pytest.raises(ConfigurationError) as caught:
                home.remember(memory)
            assert caught.value.reason == "not_held"
    assert not list(stand.directory.glob("*.json"))


def test_a_directory_holds_one_witness(tmp_path: Path) -> None:
    """It is private, never made over, and its key and verifier key belong together."""
    made = create_witness(tmp_path / "a" / "w1", NAME)
    assert (tmp_path / "a" / "w1").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "w1" / "witness.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a" / "w1" / "witness.vkey").read_text() == made.text() + "\n"
    with pytest.raises(ConflictError):
        create_witness(tmp_path / "a" / "w1", NAME)
    create_witness(tmp_path / "w2", NAME)
    (tmp_path / "w2" / "witness.vkey").replace(tmp_path / "a" / "w1" / "witness.vkey")
    with pytest.raises(ConfigurationError) as caught:
        WitnessHome(tmp_path / "a" / "w1")
    assert caught.value.reason == "bad_witness"
    with pytest.raises(ConfigurationError) as nothing:
        WitnessHome(tmp_path)
    assert nothing.value.reason == "no_witness"


def test_making_a_witness_that_was_broken_off_is_finished_by_the_same_words(tmp_path: Path) -> None:
    """Killed between its two files: it is told so, and its key, which nobody has used, is kept."""
    create_witness(tmp_path / "w1", NAME)
    key = (tmp_path / "w1" / "witness.key").read_bytes()
    (tmp_path / "w1" / "witness.vkey").unlink()
    with pytest.raises(ConfigurationError) as unfinished:
        WitnessHome(tmp_path / "w1")
    assert unfinished.value.reason == "unfinished_witness"
    assert "audit witness init" in str(unfinished.value.fix)
    made = create_witness(tmp_path / "w1", NAME)
    with WitnessHome(tmp_path / "w1") as home:
        assert home.witness == made
    assert (tmp_path / "w1" / "witness.key").read_bytes() == key
    with pytest.raises(ConflictError):
        create_witness(tmp_path / "w1", NAME)


def test_what_the_system_refuses_is_told_as_such(stand: Stand) -> None:
    """Names that are too long, a directory that is none or went away: typed errors, and no memory taken for empty."""
    for place in (stand.directory.parent / ("a" * 300), stand.directory / "witness.key"):
        with pytest.raises(ConfigurationError):
            WitnessHome(place)
        with pytest.raises(ConfigurationError):
            create_witness(place, NAME)
    stand.begin()
    with WitnessHome(stand.directory) as home:
        with pytest.raises(ConfigurationError):
            home.memory(KeyId("0" * 300))
        stand.directory.rename(stand.directory.with_name("gone"))
        with pytest.raises(ConfigurationError):
            home.memories()


def test_a_memory_stays_small_and_keeps_what_is_recent(stand: Stand) -> None:
    """However long the witness watches: the older half is thinned out, the newest are all there."""
    stand.begin()
    memory = stand.memory()
    with stand.held() as home:
        for size in range(4, 4 + 2 * MAX_EARLIER):
            earlier = (*memory.earlier, Remembered(generation=0, size=size, root=bytes(32), time_s=NOW))
            home.remember(
                Memory(
                    format=FORMAT,
                    custodian=memory.custodian,
                    note=memory.note,
                    time_s=NOW,
                    earlier=earlier,
                )
            )
            memory = stand.memory()
            assert len(memory.earlier) <= MAX_EARLIER
    sizes = [one.size for one in memory.earlier]
    assert sizes[0] == 3
    assert sizes[-16:] == list(range(sizes[-1] - 15, sizes[-1] + 1))
    assert len(encode(memory)) < 16 << 10


# --- Restores ---------------------------------------------------------------------------------------------


def restored(stand: Stand, size: int, *, generation: int = 1, lost_from: int = 0) -> bytes:
    """A head in a new generation, whose leaves differ from `lost_from` on."""
    leaves = [*LEAVES[:lost_from], *(leaf_hash(bytes([number])) for number in range(50, 50 + size - lost_from))]
    found = note(stand.custodian, size, generation=generation, root=root_of(leaves))
    return ok(LogHead(checkpoint=found, key_set=_keys(head(stand.custodian, 3))))


def test_a_new_generation_is_not_signed_until_the_keeper_accepts_it(stand: Stand) -> None:
    """Also when nothing is lost: that operators settled a restore is the custodian's word."""
    stand.begin()
    grown = head(stand.custodian, 8, generation=1)
    assert stand.run(grown, grown, proof(3, 8), proof(3, 8)) == "new_generation"
    assert "/v1/cosignatures" not in stand.paths()
    found = stand.settlement(grown, proof(3, 8), accept=True)
    assert (found.lost, found.kept) == (False, found.signed)
    assert stand.memory().lost == ()
    assert stand.run(grown, grown, proof(8, 8), kept) is None
    assert parse_checkpoint(stand.memory().note).generation == 1


def test_the_witness_says_how_much_of_what_it_signed_is_lost(stand: Stand) -> None:
    """By the newest of its earlier checkpoints that the log still extends; what was lost stays in its memory."""
    stand.begin(2)
    for old, size in ((2, 4), (4, 7)):
        assert stand.extend(old, size) is None
    signed = stand.memory().note
    now = restored(stand, 6, lost_from=4)
    leaves = [*LEAVES[:4], leaf_hash(bytes([50])), leaf_hash(bytes([51]))]
    true_proof = proof_of(leaves, 4)
    stand.custodian.script.answers = [now, now, true_proof]
    with stand.link() as link, stand.held() as home, pytest.raises(AIGovToolError) as caught:
        Cosigner(home, link, clock_s=lambda: NOW).sign()
    assert caught.value.reason == "new_generation"
    assert "of the 7 entries that this witness co-signed, the first 4 are still in it" in caught.value.message
    found = stand.settlement(now, true_proof, accept=True)
    assert (found.lost, found.kept and found.kept.size) == (True, 4)
    assert stand.memory().lost == (signed,)
    assert [one.size for one in stand.memory().earlier] == [2, 4]
    with WitnessHome(stand.directory) as home:
        assert witnessed(stand.memory().note, [home.witness]) == ()


def test_what_a_second_restore_lost_is_told_of_what_the_witness_did_co_sign(stand: Stand) -> None:
    """The checkpoint of the accepted generation was never co-signed, so it is neither counted nor kept as lost."""
    stand.begin(2)
    for old, size in ((2, 4), (4, 7)):
        assert stand.extend(old, size) is None
    signed = stand.memory().note
    stand.now_s += 60
    leaves = [*LEAVES[:4], leaf_hash(bytes([50])), leaf_hash(bytes([51]))]
    stand.settlement(restored(stand, 6, lost_from=4), proof_of(leaves, 4), accept=True)
    again = restored(stand, 5, generation=2, lost_from=3)
    shorter = [*LEAVES[:3], leaf_hash(bytes([50])), leaf_hash(bytes([51]))]
    nothing = refused(LogError("no", reason="no_such_prefix"))
    stand.custodian.script.answers = [again, again, nothing, proof_of(shorter, 2)]
    with stand.link() as link, stand.held() as home, pytest.raises(AIGovToolError) as caught:
        Cosigner(home, link, clock_s=lambda: stand.now_s).sign()
    assert caught.value.reason == "new_generation"
    assert "of the 4 entries that this witness co-signed, the first 2 are still in it" in caught.value.message
    found = stand.settlement(again, nothing, proof_of(shorter, 2), accept=True)
    assert found.signed is not None
    assert (found.signed.size, found.signed.generation, found.signed_time_s) == (4, 0, NOW)
    assert (found.lost, found.kept and found.kept.size) == (True, 2)
    assert stand.memory().lost == (signed,)
    assert [one.size for one in stand.memory().earlier] == [2]


def test_a_restore_takes_nothing_from_a_witness_that_has_nothing_left(stand: Stand) -> None:
    """The first restore lost all that it co-signed: what comes after is told in words without a number."""
    stand.begin(4)
    signed = stand.memory().note
    stand.settlement(restored(stand, 3), accept=True)
    found = stand.settlement(restored(stand, 3, generation=2), accept=True)
    assert (found.signed, found.kept, found.lost) == (None, None, False)
    assert "nothing that this witness co-signed" in said(found.signed, found.kept)
    assert (stand.memory().lost, stand.memory().earlier) == ((signed,), ())


def test_an_accepted_checkpoint_is_kept_with_the_logs_one_signature(stand: Stand) -> None:
    """Attack: the head of the new generation is filled with lines in the log's own name."""
    stand.begin()
    plain = note(stand.custodian, 8, generation=1)
    full = dressed(stand, 8, padded(stand, plain), generation=1)
    stand.settlement(full, proof(3, 8), accept=True)
    assert stand.memory().note == plain
    assert stand.run(full, full, proof(8, 8), kept) is None


def proof_of(leaves: list[bytes], old: int) -> bytes:
    path = consistency_proof(leaves, old)
    return ok(ConsistencyProof(path=path, old_root=root_of(leaves[:old]), root=root_of(leaves)))


def test_what_is_not_there_is_not_accepted(stand: Stand) -> None:
    """The same generation, or an earlier one, as after a second restore that nobody settled."""
    stand.begin()
    with pytest.raises(ConflictError) as same:
        stand.settlement(head(stand.custodian, 8))
    assert same.value.reason == "same_generation"
    stand.settlement(head(stand.custodian, 8, generation=2), proof(3, 8), accept=True)
    with pytest.raises(AIGovToolError) as earlier:
        stand.settlement(head(stand.custodian, 8, generation=1))
    assert earlier.value.reason == "rollback"
