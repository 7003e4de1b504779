"""A thief of the log's key signs whatever he likes; what he cannot sign is what a witness has seen."""

import pytest
from tests.ledger.test_audit import COMMAND, LOG_KEY, ROOT, WIDE, Writer, begun

from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import ConfigurationError, LogError
from aigovtool.ledger.audit import AuditReport, verify_log
from aigovtool.ledger.checkpoint import parse_checkpoint
from aigovtool.ledger.cosignature import WitnessKey, cosign
from aigovtool.ledger.entry import Restored, WitnessEnrolled, WitnessRetired
from aigovtool.ledger.witnessing import require_witnesses
from aigovtool.limits import MAX_WITNESSES

KEYS = [SigningKey.from_secret(Secret(bytes([number]) * 32)) for number in range(1, MAX_WITNESSES + 2)]
WITNESSES = [WitnessKey(name=f"w{number}.example", key=key.public) for number, key in enumerate(KEYS, 1)]
FIRST, SECOND = WITNESSES[:2]
TIME = 1_700_050_000


def enrolled(*witnesses: WitnessKey) -> Writer:
    """A log that names witnesses, with some grants."""
    log = begun()
    for witness in witnesses or (FIRST,):
        log.add(WitnessEnrolled(witness=witness.text(), command=COMMAND))
    log.grant(10)
    log.grant(5)
    return log


def seen_by(note: str, witness: WitnessKey = FIRST, time_s: int = TIME) -> str:
    """The note with a witness's co-signature."""
    key = KEYS[WITNESSES.index(witness)]
    return note + cosign(parse_checkpoint(note).text(), witness.name, key, time_s)


def verify(
    log: Writer,
    *cosigned: str,
    note: str | None = None,
    seen: tuple[str, ...] = (),
    witnesses: tuple[WitnessKey, ...] = (FIRST,),
    required: int | None = None,
) -> AuditReport:
    """Verify as a reader does who believes `witnesses`."""
    report = verify_log(
        log.lines(),
        note or log.note(),
        [LOG_KEY.public],
        ROOT.public.key_id,
        seen=seen,
        cosigned=cosigned,
        witnesses=witnesses,
    )
    require_witnesses(report.vouching, len(witnesses) if required is None else required)
    return report


def refused(*arguments: object, **more: object) -> str | None:
    with pytest.raises(LogError) as caught:
        verify(*arguments, **more)  # type: ignore[arg-type]
    return caught.value.reason


def vouched(report: AuditReport) -> list[tuple[str, int, int]]:
    return [(one.witness.name, one.checkpoint.size, one.time_s) for one in report.vouching.by]


def test_a_report_says_who_vouches_for_how_much_and_since_when() -> None:
    """The present state or an earlier one; of each witness the newest; and who only the log names."""
    log = enrolled(FIRST, SECOND)
    early = log.note()
    log.grant(1)
    now = log.note()
    size = len(log.entries)
    assert vouched(verify(log, note=seen_by(now))) == [(FIRST.name, size, TIME)]
    report = verify(log, seen_by(early), note=seen_by(now, time_s=TIME + 9))
    assert vouched(report) == [(FIRST.name, size, TIME + 9)]
    report = verify(log, seen_by(seen_by(early), SECOND), witnesses=(FIRST, SECOND))
    assert vouched(report) == [(FIRST.name, size - 1, TIME), (SECOND.name, size - 1, TIME)]
    report = verify(log, seen_by(early, SECOND), note=seen_by(now), witnesses=(FIRST,))
    assert [one.witness for one in report.vouching.named] == [FIRST, SECOND]
    assert vouched(report) == [(FIRST.name, size, TIME)]


def test_a_checkpoint_that_the_reader_holds_counts_too() -> None:
    """He may have it from the witness itself, which nobody need have enrolled; what else is in it is ignored."""
    log = begun()
    note = seen_by(seen_by(log.note()), SECOND)
    log.grant(1)
    assert vouched(verify(log, seen=(note,))) == [(FIRST.name, len(log.entries) - 1, TIME)]


def test_fewer_witnesses_than_required_are_refused() -> None:
    """None, one of two; two of two are enough, and one of two where the reader says so."""
    log = enrolled(FIRST, SECOND)
    both = (FIRST, SECOND)
    assert refused(log) == "not_witnessed"
    assert refused(log, note=seen_by(log.note()), witnesses=both) == "not_witnessed"
    assert verify(log, note=seen_by(log.note()), witnesses=both, required=1).entries == len(log.entries)
    assert verify(log, note=seen_by(seen_by(log.note()), SECOND), witnesses=both).entries == len(log.entries)


def test_a_rolled_back_log_that_a_thief_signs_again_is_caught() -> None:
    """Attack: with the log's key, an old copy is signed as the present log, and grants are made again from there."""
    log = enrolled()
    kept = seen_by(log.note())
    back = Writer(entries=log.entries[:-2], leases=log.leases - 2)
    assert refused(back) == "not_witnessed"
    assert refused(back, kept) == "rollback"
    assert refused(back, seen=(kept,)) == "rollback"
    back.grant(3)
    back.grant(3)
    back.grant(3)
    assert refused(back) == "not_witnessed"
    assert refused(back, kept) == "rewritten"
    assert refused(back, seen=(kept,)) == "rewritten"
    # Without a witness the thief's log is as good as the true one: this is what it is for.
    assert verify(back, witnesses=()).entries == len(back.entries)


def test_a_forked_log_of_the_same_size_that_a_thief_signs_is_caught() -> None:
    """Attack: one grant is changed, all after it is made to fit, and the genuine co-signature is put under it."""
    log = enrolled()
    genuine = seen_by(log.note())
    fork = Writer(entries=log.entries[:-1], leases=log.leases - 1)
    fork.grant(4)
    assert len(fork.entries) == len(log.entries)
    line = genuine.removeprefix(log.note())
    assert refused(fork, note=fork.note() + line) == "cosignature"
    assert refused(fork, genuine) == "rewritten"
    thief = cosign(parse_checkpoint(fork.note()).text(), FIRST.name, KEYS[7], TIME)
    assert refused(fork, note=fork.note() + thief) == "cosignature"


def test_a_thief_who_enrols_his_own_witness_is_not_believed() -> None:
    """Attack: a fork that names a witness of its own, even under the true one's name."""
    own = WitnessKey(name=FIRST.name, key=KEYS[5].public)
    fork = enrolled(own)
    note = fork.note() + cosign(parse_checkpoint(fork.note()).text(), own.name, KEYS[5], TIME)
    assert refused(fork, note=note) == "not_witnessed"
    report = verify(fork, note=note, witnesses=())
    assert [one.witness for one in report.vouching.named] == [own]


def test_one_key_under_two_names_does_not_count_twice() -> None:
    """Attack: a quorum of one. The standard's message does not name the signer."""
    log = enrolled(FIRST, SECOND)
    alias = WitnessKey(name="alias.example", key=FIRST.key)
    for pair in ((FIRST, alias), (FIRST, FIRST)):
        with pytest.raises(ConfigurationError) as caught:
            verify(log, note=seen_by(log.note()), witnesses=pair)
        assert caught.value.reason == "same_witness"


def test_a_line_by_somebody_whom_the_log_never_named_is_refused() -> None:
    """No byte of a copy is without meaning: not even a true co-signature, of which the log knows nothing."""
    log = enrolled(FIRST)
    assert refused(log, note=seen_by(log.note(), SECOND), witnesses=(), required=0) == "cosignature"
    assert refused(log, seen_by(log.note(), SECOND), witnesses=(), required=0) == "cosignature"


def test_a_retired_witness_stays_true() -> None:
    """What it signed before it was retired, it signed."""
    log = enrolled()
    note = seen_by(log.note())
    log.add(WitnessRetired(name=FIRST.name, command=COMMAND))
    assert vouched(verify(log, note)) == [(FIRST.name, len(log.entries) - 1, TIME)]


def test_what_was_lost_by_a_settled_restore_does_not_count() -> None:
    """The log explains the loss, and the co-signature is of a state that it was not in."""
    log = enrolled()
    lost = seen_by(log.note())
    back = Writer(entries=log.entries[:-1])
    restored = Restored(generation=1, checkpoint=lost, lost_size=len(log.entries), command=COMMAND)
    back.add(restored, generation=1)
    note = back.note(generation=1)
    assert refused(back, note=note, seen=(lost,)) == "not_witnessed"
    report = verify(back, note=seen_by(note), seen=(lost,))
    assert [one.size for one in report.lost] == [len(log.entries)]
    assert vouched(report) == [(FIRST.name, len(back.entries), TIME)]


def test_a_log_enrols_witnesses_by_its_own_rules() -> None:
    """Attacks by a custodian that signs anything: a name or key twice, one too many, one retired that is not there."""

    def reason(log: Writer) -> str | None:
        return refused(log, witnesses=())

    def enrol(log: Writer, *witnesses: WitnessKey) -> Writer:
        for witness in witnesses:
            log.add(WitnessEnrolled(witness=witness.text(), command=COMMAND))
        return log

    def retire(log: Writer, name: str) -> Writer:
        log.add(WitnessRetired(name=name, command=COMMAND))
        return log

    assert reason(enrol(enrolled(FIRST), FIRST)) == "witness"
    assert reason(enrol(enrolled(FIRST), WitnessKey(name=FIRST.name, key=SECOND.key))) == "witness"
    assert reason(enrol(enrolled(FIRST), WitnessKey(name="alias.example", key=FIRST.key))) == "witness"
    assert reason(enrol(retire(enrolled(FIRST), FIRST.name), FIRST)) == "witness"
    assert reason(enrol(begun(), *WITNESSES)) == "witness"
    assert reason(retire(begun(), FIRST.name)) == "witness"
    assert reason(retire(retire(enrolled(FIRST), FIRST.name), FIRST.name)) == "witness"
    log = begun()
    log.add(WitnessEnrolled(witness="w1.example", command=COMMAND))
    assert reason(log) == "inconsistent"
    full = enrol(begun(), *WITNESSES[:-1])
    assert verify(enrol(retire(full, FIRST.name), WITNESSES[-1]), witnesses=()).entries == len(full.entries)


def test_an_altered_enrolment_is_found_like_any_other_entry() -> None:
    """The key that a log names is as fixed as its grants."""
    log = enrolled()
    number = next(n for n, entry in enumerate(log.entries) if isinstance(entry.body, WitnessEnrolled))
    forged = enrolled(SECOND)
    lines = log.lines()
    lines[number] = forged.lines()[number]
    with pytest.raises(LogError) as caught:
        log.verify(lines)
    assert caught.value.reason == "root"
    assert WIDE in {row.key.scope for row in log.verify().rows}
