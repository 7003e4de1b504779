"""A witness signs one history: what it signed is durable before anybody has it, and nothing else is ever signed."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.operator.conftest import FakeCustodian, Request, Scripted, ok, refused
from tests.operator.test_witness import LEAVES, head, note, proof

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import Envelope, SigningKey
from aigovtool.errors import AIGovToolError, ConfigurationError, ConflictError, LedgerRollbackError
from aigovtool.ids import KeyId
from aigovtool.ledger.checkpoint import parse_checkpoint, sign_checkpoint
from aigovtool.ledger.cosignature import cosign, witnessed
from aigovtool.ledger.merkle import consistency_proof, leaf_hash, root_of
from aigovtool.operator.cosigner import Cosigner, Settlement
from aigovtool.operator.witness import LogWitness
from aigovtool.operator.witness_home import FORMAT, MAX_EARLIER, Memory, Remembered, WitnessHome, create_witness
from aigovtool.protocol.views import ConsistencyProof, CosignedCheckpoint, LogHead, WitnessView

NAME = "witness.example.com/w1"
NOW = 1_700_000_000


def kept(size: int = 0) -> bytes:
    return ok(WitnessView(name=NAME, key="k", retired=False, size=size, generation=0, time_s=NOW))


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
        assert self.run(head(self.custodian, size), kept(size), first=True) is None

    def extend(self, old: int, size: int, *last: Scripted) -> str | None:
        grown = head(self.custodian, size)
        return self.run(grown, grown, proof(old, size), *(last or (kept(size),)))

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
        return kept(3)

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
    assert stand.run(same, same, proof(3, 3), kept(3)) is None
    assert (stand.memory().time_s, len(stand.memory().earlier)) == (NOW + 60, 1)
    stand.now_s -= 61
    assert stand.run(same, same, proof(3, 3)) == "clock_behind"
    assert stand.memory().time_s == NOW + 60


def test_co_signatures_of_others_are_not_handed_in(stand: Stand) -> None:
    """The head carries another witness's line: what is sent is the log's and the own."""
    plain = note(stand.custodian, 3)
    line = cosign(parse_checkpoint(plain).text(), "other.example", SigningKey.generate(), NOW)
    shown = ok(LogHead(checkpoint=plain + line, key_set=_keys(head(stand.custodian, 3))))
    assert stand.run(shown, kept(3), first=True) is None
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
    assert stand.run(grown, grown, proof(8, 8), kept(8)) is None
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
    stand.custodian.script.answers = [now, now, now, true_proof]
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
