"""What a gateway shows on a terminal: nothing that matters is out of sight, and nobody else draws on it."""

import io
import re

import pytest
from rich.console import Console

from aigovtool.attestation.model import TeeType
from aigovtool.cli.connect.view import view
from aigovtool.consumer.connect.evidence_log import NOTHING, Event, Line
from aigovtool.consumer.connect.member import State
from aigovtool.consumer.connect.status import EnclaveStatus, ModelStatus, Status
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, KeyId, ModelId
from aigovtool.ledger.units import UnitVector

NOW_MS = 1_795_900_000_000
DIGEST = Digest("sha256:" + "ab" * 32)


def enclave(name: str = "one", *, why: str = "", left: int = 12_345) -> EnclaveStatus:
    """Return an enclave that is verified, or is not because of `why`."""
    return EnclaveStatus(
        enclave=f"https://{name}.example:8443",
        state=State.REFUSED if why else State.VERIFIED,
        answered=7_000,
        refused=3,
        failed=1,
        under_way=2,
        latency_p50_ms=1.25,
        latency_p99_ms=60.0,
        tee=TeeType.SEV_SNP,
        instance=InstanceId("0123456789abcdef" * 4),
        verified_at_ms=NOW_MS - 65_000,
        memory_encryption=True,
        models=(ModelStatus(model=ModelId("xray"), manifest=DIGEST, remaining=UnitVector(inferences=left)),),
        why=why,
    )


def status(*enclaves: EnclaveStatus, lost: int = 0, seen: tuple[Line, ...] = ()) -> Status:
    """Return what a gateway with these enclaves says."""
    return Status(
        now_ms=NOW_MS,
        consumer=ConsumerId("radiology"),
        borrower=BorrowerId("st-mary"),
        custodian=KeyId("cd" * 32),
        appraisal_policy=DIGEST,
        policy_version=4,
        simulated=any(one.tee is TeeType.SIMULATED for one in enclaves),
        receipts_kept=7_000,
        receipts_lost=lost,
        enclaves=enclaves,
        seen=seen,
    )


def drawn(found: Status, wrong: str = "", *, width: int = 160, colour: bool = False) -> list[str]:
    """Return the lines that a terminal of so many columns shows."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, color_system="standard" if colour else None)
    console.print(view(found, wrong, "Ctrl-C ends it.", width))
    return out.getvalue().splitlines()


def test_it_shows_each_enclave_with_how_it_answers_and_what_is_left() -> None:
    """State, age of the evidence, platform, instance, and the numbers; units with separators; the newest line first."""
    seen = tuple(Line(at_ms=NOW_MS + at, event=event, previous=NOTHING, why=event) for at, event in enumerate(Event))
    lines = drawn(status(enclave(), seen=seen))
    (row,) = [line for line in lines if "sev-snp" in line]
    assert re.split(" {2,}", row.strip()) == [
        *("one.example:8443", "verified", "1 min 5 s ago", "sev-snp", "0123456789ab"),
        *("2", "7,000", "1.2 ms", "60.0 ms", "3", "1"),
    ]
    assert any(re.match("xray +12,345 +abababababab +one.example:8443", line) for line in lines)
    told = [line.split()[2] for line in lines if line.startswith("2026-")]
    assert told == [event.value for event in reversed(Event)]


def test_what_is_wrong_stands_above_everything() -> None:
    """Also where the terminal is short: what does not fit at the bottom is not shown."""
    found = status(enclave(), enclave("two", why="another measurement"), lost=3)
    lines = drawn(found, "THE GATEWAY DOES NOT ANSWER")
    assert lines[0] == "THE GATEWAY DOES NOT ANSWER"
    assert lines[1].startswith("3 receipts could not be kept")
    assert lines[2] == "https://two.example:8443 REFUSED: another measurement"
    assert lines[4].startswith("1 of 2 enclaves verified")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_a_narrow_terminal_shows_less_and_breaks_no_line(width: int) -> None:
    """State and answers are always there, and each enclave has one line."""
    lines = drawn(status(enclave(), enclave("two")), width=width)
    rows = [line for line in lines if "verified" in line and "example:8443" in line]
    assert len(rows) == 2
    assert all("7,000" in row and len(row) <= width for row in rows)


def test_what_others_say_draws_nothing() -> None:
    """Attack: a reason, a warning and a line of the log with what terminals act on, and with columns of their own."""
    evil = "no\x1b[2J\x9b31m\u202e  verified  \n12,345"
    told = Line(at_ms=NOW_MS, event=Event.REFUSED, previous=NOTHING, enclave=evil, why=evil)
    text = "\n".join(drawn(status(enclave(why=evil), seen=(told,))))
    assert not re.search("[\x1b\x9b\u202e]", text)
    assert "no?[2J?31m? verified ?12,345" in text


def test_units_that_are_used_up_stand_out() -> None:
    """In red, beside those of other models that are not."""
    for left, red in ((0, True), (1, False)):
        (row,) = [line for line in drawn(status(enclave(left=left)), colour=True) if "xray" in line]
        assert ("\x1b[1;31m" in row) == red
