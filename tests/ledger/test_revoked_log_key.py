"""A log key that was taken back: what it signed is read where the log has it, and vouches for nothing."""

import pytest
from tests.ledger.test_audit import COMMAND, LOG_KEY, ROOT, Writer, begun, lost_note

from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import LogError
from aigovtool.ledger.audit import AuditReport, verify_log
from aigovtool.ledger.entry import Restored

NEW_KEY = SigningKey.generate()


def verified(log: Writer, note: str, *seen: str, knows: bool = True, cosigned: tuple[str, ...] = ()) -> AuditReport:
    """Verify under the new key, with the old one revoked."""
    revoked = [LOG_KEY.public] if knows else []
    keys = [NEW_KEY.public]
    return verify_log(log.lines(), note, keys, ROOT.public.key_id, seen=seen, cosigned=cosigned, revoked=revoked)


def reason(log: Writer, note: str, *seen: str, knows: bool = True, cosigned: tuple[str, ...] = ()) -> str | None:
    with pytest.raises(LogError) as caught:
        verified(log, note, *seen, knows=knows, cosigned=cosigned)
    return caught.value.reason


def test_a_checkpoint_that_was_kept_is_compared_with_the_log_of_now() -> None:
    """By whichever key it was signed: it fits, or the log was rewritten. A key that was never the log's is refused."""
    log = begun()
    kept, foreign = log.note(), log.note(SigningKey.generate())
    assert verified(log, log.note(NEW_KEY), kept).entries == len(log.entries)
    assert reason(log, log.note(NEW_KEY), kept, knows=False) == "checkpoint"
    assert reason(log, log.note(NEW_KEY), foreign) == "checkpoint"
    assert reason(log, log.note(NEW_KEY), lost_note(2)) == "rewritten"
    assert reason(log, log.note(NEW_KEY), lost_note(99)) == "rollback"


def test_no_log_is_signed_by_it() -> None:
    """Neither the checkpoint of a copy nor one that came with it: a thief has the key."""
    log = begun()
    assert reason(log, log.note()) == "checkpoint"
    assert reason(log, log.note(NEW_KEY), cosigned=(log.note(),)) == "checkpoint"


def test_a_log_that_names_what_was_lost_before_the_revocation_still_verifies() -> None:
    """The entry has a checkpoint of the old key in it, and the log of the new key has the entry."""
    log = begun()
    body = Restored(generation=1, checkpoint=lost_note(99), lost_size=99, command=COMMAND)
    log.add(body, generation=1)
    note = log.note(NEW_KEY, generation=1)
    assert [one.size for one in verified(log, note, lost_note(40)).lost] == [40]
    assert reason(log, note, knows=False) == "checkpoint"
