"""Witnesses at a custodian: who is taken, what is kept, and that nobody else can make it do anything."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from tests.custodian.conftest import Bench, Enclave, make_bench
from tests.custodian.host_clock import told_by
from tests.custodian.test_continuity import BUDGET, STOP, Two, backup, drawn
from tests.postgres_server import PostgresServer

from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service import views, witnesses
from aigovtool.errors import (
    AIGovToolError,
    ConflictError,
    ForbiddenError,
    InvalidValueError,
    LedgerRollbackError,
    LogError,
    NotFoundError,
    OverloadedError,
)
from aigovtool.ids import KeyId
from aigovtool.ledger import entry
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint, sign_checkpoint
from aigovtool.ledger.cosignature import WitnessKey, cosign, open_cosigned, witnessed
from aigovtool.ledger.entry import PartyRole
from aigovtool.limits import MAX_WITNESSES
from aigovtool.protocol import commands as acts
from aigovtool.protocol.views import CosignedCheckpoint, LogHead, WitnessView


def bare(note: str) -> str:
    """Return a note with its first signature alone, which is the log's."""
    text, _, signatures = note.partition("\n\n")
    return f"{text}\n\n{signatures.splitlines(keepends=True)[0]}"


@dataclass
class Signer:
    """A witness that co-signs whatever it is told to."""

    bench: Bench
    name: str = "witness.example.com/w1"
    key: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def vkey(self) -> WitnessKey:
        return WitnessKey(name=self.name, key=self.key.public)

    async def enrol(self) -> None:
        await self.bench.command(acts.EnrolWitness(witness=self.vkey.text()))

    def note(self, note: str, *, time_s: int | None = None, key: SigningKey | None = None) -> str:
        """The log's note with this witness's co-signature."""
        found = parse_checkpoint(note)
        at_s = self.bench.now_ms // 1000 if time_s is None else time_s
        return bare(note) + cosign(found.text(), self.name, key or self.key, at_s)

    async def hand_in(self, note: str, *, to: Custodian | None = None) -> WitnessView:
        return await witnesses.receive(to or self.bench.custodian, CosignedCheckpoint(checkpoint=note))

    async def sign(self, **more: Any) -> WitnessView:
        return await self.hand_in(self.note((await head(self.bench)).checkpoint, **more))


async def head(bench: Bench) -> LogHead:
    return await views.show_head(bench.custodian)


async def grow(bench: Bench, name: str) -> str:
    """Add an entry, and return the note of the log then."""
    await bench.add_party(PartyRole.BORROWER, name, SigningKey.generate())
    return (await head(bench)).checkpoint


async def reason(bench: Bench, signer: Signer, note: str) -> tuple[type[AIGovToolError], str | None]:
    """Why a note is refused."""
    bench.now_ms += 1000  # whoever is not known is looked up once a second
    with pytest.raises(AIGovToolError) as refused:
        await signer.hand_in(note)
    return type(refused.value), refused.value.reason


@pytest.fixture
async def two(lent: Bench) -> Two:
    """Two operators, and a model with a budget."""
    await lent.grant(BUDGET)
    key = SigningKey.generate()
    await lent.add_party(PartyRole.OPERATOR, "bob", key)
    return Two(lent, key)


@pytest.fixture
async def signer(bench: Bench) -> Signer:
    """An enrolled witness."""
    made = Signer(bench)
    await made.enrol()
    return made


# --- What is taken and shown ----------------------------------------------------------------------------


async def test_the_newest_co_signature_of_each_witness_is_shown_beside_the_checkpoint(signer: Signer) -> None:
    """On the present checkpoint while it is present; then on the note of that state, which is signed like any other."""
    bench, other = signer.bench, Signer(signer.bench, "other.example")
    await other.enrol()
    keys, both = bench.custodian.keys.key_set.log_keys(), [signer.vkey, other.vkey]
    kept = await signer.sign()
    now = await head(bench)
    found, by = open_cosigned(now.checkpoint, keys, both)
    assert [one.witness for one in by] == [signer.vkey]
    assert (kept.size, kept.generation, kept.time_s) == (found.size, 0, bench.now_ms // 1000)
    assert now.cosigned == ()
    await other.sign()
    assert len(witnessed((await head(bench)).checkpoint, both)) == 2
    await grow(bench, "later")
    grown = await head(bench)
    assert witnessed(grown.checkpoint, both) == ()
    assert [open_cosigned(note, keys, both)[0] for note in grown.cosigned] == [found]
    assert len(witnessed(grown.cosigned[0], both)) == 2
    await signer.sign()
    again = await head(bench)
    assert [one.witness for one in witnessed(again.checkpoint, both)] == [signer.vkey]
    assert [[one.witness for one in witnessed(note, both)] for note in again.cosigned] == [[other.vkey]]


async def test_the_order_in_which_co_signatures_arrive_does_not_matter(signer: Signer) -> None:
    """Of three states and two times: the largest, and then the latest, stays; sending one again changes nothing."""
    bench = signer.bench
    at_s = bench.now_ms // 1000
    first, second = await grow(bench, "one"), await grow(bench, "two")
    notes = [
        signer.note(first, time_s=at_s + 200),
        signer.note(second, time_s=at_s),
        signer.note(second, time_s=at_s + 1),
        signer.note(second, time_s=at_s + 1),
    ]
    size = parse_checkpoint(second).size
    shown = set()
    for number, order in enumerate(itertools.islice(itertools.permutations(notes), 0, None, 2)):
        fresh = Signer(bench, f"w{number}.example")
        await fresh.enrol()
        for note in order:
            time_s = witnessed(note, [signer.vkey])[0].time_s
            await fresh.hand_in(fresh.note(note, time_s=time_s))
        (view,) = [one for one in (await witnesses.show_witnesses(bench.custodian)).witnesses if one.name == fresh.name]
        shown.add((view.size, view.time_s))
    assert shown == {(size, at_s + 1)}


async def test_every_custodian_on_a_ledger_takes_it(tmp_path: Any, postgres_server: PostgresServer) -> None:
    """Also one that never heard of the witness; what one has kept all show, and a retirement holds everywhere."""
    bench = make_bench(tmp_path / "custodian", ledger=postgres_server.database())
    second = open_custodian(bench.directory)
    second.clock = told_by(lambda: bench.now_ms)
    try:
        signer = Signer(bench)
        await signer.enrol()
        note = signer.note((await head(bench)).checkpoint)
        assert (await signer.hand_in(note, to=second)).time_s == bench.now_ms // 1000
        assert len(witnessed((await head(bench)).checkpoint, [signer.vkey])) == 1
        await bench.command(acts.RetireWitness(name=signer.name))
        with pytest.raises(ForbiddenError):
            await signer.hand_in(note, to=second)
    finally:
        second.database.close()
        bench.custodian.database.close()


async def test_a_witness_that_lags_or_is_gone_holds_up_nothing(two: Two) -> None:
    """Optional means optional: grants go on without one co-signature, and with one of long ago."""
    bench = two.bench
    signer = Signer(bench)
    await signer.enrol()
    enclave = Enclave(bench)
    await enclave.boot()
    await drawn(enclave, 10)
    await signer.sign()
    await drawn(enclave, 10)
    assert BUDGET > 20


async def test_states_that_were_co_signed_long_ago_are_shown_as_they_are_now(signer: Signer) -> None:
    """However many there were: what is kept in memory of them is bounded, and is never another state's."""
    bench = signer.bench
    keys = bench.custodian.keys.key_set.log_keys()
    for number in range(5 * MAX_WITNESSES):
        signed = await signer.sign()
        grown = await grow(bench, f"b{number}")
        assert parse_checkpoint(grown).size == (signed.size or 0) + 1
        (note,) = (await head(bench)).cosigned
        assert open_cosigned(note, keys, [signer.vkey])[0].size == signed.size
        bench.now_ms += 1000


async def test_a_co_signature_is_no_entry_of_the_log(signer: Signer) -> None:
    """Or no checkpoint could ever carry one."""
    before = (await head(signer.bench)).checkpoint
    await signer.sign()
    after = (await head(signer.bench)).checkpoint
    assert parse_checkpoint(after) == parse_checkpoint(before)


# --- What is refused ------------------------------------------------------------------------------------------


async def test_a_stranger_costs_one_look_a_second_and_changes_nothing(bench: Bench) -> None:
    """Attack: a flood of well-formed co-signatures by nobody; the ledger is asked once a second, whoever asks."""
    await Signer(bench).enrol()
    stranger = Signer(bench, "stranger.example")
    before = await head(bench)
    note = stranger.note(before.checkpoint)
    asked: list[object] = []
    submit = bench.custodian.database._submit

    def counted(job: Any, *, known: bool) -> Any:
        asked.append(job)
        return submit(job, known=known)

    bench.custodian.database._submit = counted  # type: ignore[method-assign]
    for second in range(3):
        for attempt in range(50):
            with pytest.raises(AIGovToolError) as refused:
                await stranger.hand_in(stranger.note(note, time_s=bench.now_ms // 1000 + attempt))
            assert isinstance(refused.value, OverloadedError if attempt else ForbiddenError)
        assert len(asked) == second + 1
        bench.now_ms += 1000
    bench.custodian.database._submit = submit  # type: ignore[method-assign]
    assert await head(bench) == before


async def test_a_stranger_in_a_witnesss_name_never_reaches_the_ledger(signer: Signer) -> None:
    """Attack: forged signatures under the name and hash of a witness, or a true one over something else."""
    bench = signer.bench
    await signer.sign()
    note = (await head(bench)).checkpoint
    thief = SigningKey.generate()
    own = signer.note(note, key=thief)
    found = parse_checkpoint(note)
    asked: list[object] = []
    submit = bench.custodian.database._submit

    def counted(job: Any, *, known: bool) -> Any:
        asked.append(job)
        return submit(job, known=known)

    bench.custodian.database._submit = counted  # type: ignore[method-assign]
    moved = sign_checkpoint(msgspec.structs.replace(found, size=found.size - 1), bench.custodian.keys.log)
    line = signer.note(note).removeprefix(bare(note))
    for bad, why in (
        (own, "cosignature"),
        (moved + line, "cosignature"),
        (bare(note), "cosignature"),
        (signer.note(sign_checkpoint(found, thief)), "checkpoint"),
        ("nonsense", "checkpoint"),
    ):
        with pytest.raises(LogError) as refused:
            await signer.hand_in(bad)
        assert refused.value.reason == why
    bench.custodian.database._submit = submit  # type: ignore[method-assign]
    assert asked == []


async def test_a_checkpoint_that_this_log_never_signed_is_refused(signer: Signer) -> None:
    """Another custodian's log, a clock far ahead, or what a thief of the log's key signed for a state that was."""
    bench = signer.bench
    note = (await head(bench)).checkpoint
    found = parse_checkpoint(note)
    other = SigningKey.generate()
    elsewhere = Checkpoint(custodian=KeyId("d" * 64), size=3, root=found.root)
    assert await reason(bench, signer, signer.note(sign_checkpoint(elsewhere, other))) == (LogError, "wrong_custodian")
    ahead_s = bench.now_ms // 1000 + 302
    assert await reason(bench, signer, signer.note(note, time_s=ahead_s)) == (LogError, "future_time")
    await signer.hand_in(signer.note(note, time_s=ahead_s - 3))


async def test_a_witness_that_writes_too_often_is_told_to_wait(signer: Signer) -> None:
    """Attack: an enrolled witness sends what is new each time; what it sent before it may send for ever."""
    at_s = signer.bench.now_ms // 1000 - 100
    for number in range(20):
        await signer.sign(time_s=at_s + number)
    with pytest.raises(OverloadedError):
        await signer.sign(time_s=at_s + 20)
    for _ in range(50):
        assert (await signer.sign(time_s=at_s + 3)).time_s == at_s + 19
    signer.bench.now_ms += 1000
    assert (await signer.sign(time_s=at_s + 20)).time_s == at_s + 20


# --- Enrolled and retired -------------------------------------------------------------------------------------


async def test_a_retired_witness_is_neither_taken_nor_shown(signer: Signer) -> None:
    """At once; its name and its key are never given out again, and the log says who did it."""
    bench = signer.bench
    await signer.sign()
    note = signer.note((await head(bench)).checkpoint)
    await bench.command(acts.RetireWitness(name=signer.name))
    assert witnessed((await head(bench)).checkpoint, [signer.vkey]) == ()
    assert (await head(bench)).cosigned == ()
    assert await reason(bench, signer, note) == (ForbiddenError, "unknown_witness")
    for again in (signer, Signer(bench, signer.name), Signer(bench, "alias.example", signer.key)):
        with pytest.raises(ConflictError) as taken:
            await again.enrol()
        assert taken.value.reason == "witness_exists"
    with pytest.raises(NotFoundError):
        await bench.command(acts.RetireWitness(name=signer.name))
    kinds = [type(body) for body in await bench.log()]
    assert [kinds.count(kind) for kind in (entry.WitnessEnrolled, entry.WitnessRetired)] == [1, 1]
    (view,) = (await witnesses.show_witnesses(bench.custodian)).witnesses
    assert (view.name, view.key, view.retired) == (signer.name, signer.vkey.text(), True)


async def test_what_cannot_be_a_witness_is_not_enrolled(bench: Bench) -> None:
    """No verifier key; a key of the custodian's own, with which a thief could witness himself; a sixteenth."""
    keys = bench.custodian.keys
    own_name = Signer(bench, f"aigovtool/{keys.custodian}")
    for own in (Signer(bench, "own.example", keys.log), Signer(bench, "own.example", keys.commands), own_name):
        with pytest.raises(ConflictError) as refused:
            await own.enrol()
        assert refused.value.reason == "own_key"
    with pytest.raises(InvalidValueError) as malformed:
        await bench.command(acts.EnrolWitness(witness="own.example"))
    assert malformed.value.reason == "bad_witness_key"
    for number in range(MAX_WITNESSES):
        await Signer(bench, f"w{number}.example").enrol()
    with pytest.raises(ConflictError) as full:
        await Signer(bench, "sixteenth.example").enrol()
    assert full.value.reason == "too_many_witnesses"
    await bench.command(acts.RetireWitness(name="w0.example"))
    await Signer(bench, "sixteenth.example").enrol()


async def test_a_full_set_of_witnesses_fits_into_one_checkpoint(bench: Bench) -> None:
    """With the longest names; it is read by whoever reads checkpoints."""
    signers = [Signer(bench, f"{number:0>100}") for number in range(MAX_WITNESSES)]
    for one in signers:
        await one.enrol()
    for one in signers:
        await one.sign()
    note = (await head(bench)).checkpoint
    assert len(witnessed(note, [one.vkey for one in signers])) == MAX_WITNESSES
    assert open_checkpoint(note, bench.custodian.keys.key_set.log_keys()).size == parse_checkpoint(note).size


# --- Restores -----------------------------------------------------------------------------------------------------


async def test_a_co_signature_that_a_restored_ledger_does_not_know_opens_the_gap(two: Two, ledger: str | None) -> None:
    """As a checkpoint does that an enclave shows, and is pushed; nothing is granted then, no co-signature is taken."""
    bench = two.bench
    signer = Signer(bench)
    await signer.enrol()
    await signer.sign()
    enclave = Enclave(bench)
    await enclave.boot()
    copy = backup(bench, ledger)
    enclave.bench = bench
    await drawn(enclave, 5)
    lost = signer.note((await head(bench)).checkpoint)
    copy.restore()
    assert (await views.show_gap(bench.custodian)).checkpoint is None
    with bench.custodian.hub.listen(await enclave.record()) as stream:
        with pytest.raises(LedgerRollbackError):
            await signer.hand_in(lost)
        assert stream.qsize() == 1
    gap = await views.show_gap(bench.custodian)
    assert (gap.checkpoint, gap.lost_size) == (lost, parse_checkpoint(lost).size)
    with pytest.raises(LedgerRollbackError):
        await enclave.renew()
    with pytest.raises(LedgerRollbackError):
        await signer.sign()
    with pytest.raises(LedgerRollbackError):
        await bench.command(acts.RetireWitness(name=signer.name))
    await bench.command(STOP)
    # Settled: what was lost is explained, and no longer taken; the new generation is.
    await two.settle()
    assert await reason(bench, signer, lost) == (LogError, "never_signed")
    assert (await signer.sign()).generation == 1
    assert (await head(bench)).checkpoint.count("generation 1\n") == 1


async def test_a_thief_cannot_have_a_state_signed_under_another_generation(two: Two, ledger: str | None) -> None:
    """Attack: with the log's key and a witness's help, an old state is passed off as one of the new generation."""
    bench = two.bench
    signer = Signer(bench)
    await signer.enrol()
    copy = backup(bench, ledger)
    early = parse_checkpoint((await head(bench)).checkpoint)
    lost = await grow(bench, "lost")
    copy.restore()
    with pytest.raises(LedgerRollbackError):
        await signer.hand_in(signer.note(lost))
    await two.settle()
    forged = sign_checkpoint(msgspec.structs.replace(early, generation=1), bench.custodian.keys.log)
    assert await reason(bench, signer, signer.note(forged)) == (LogError, "never_signed")
    await signer.hand_in(signer.note(sign_checkpoint(early, bench.custodian.keys.log)))
