import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cli.conftest import Place, a_place, make_model

from aigovtool.attestation.model import ResultBody, Status, Tcb, TeeType, TrustVector
from aigovtool.cli.screen import Screen
from aigovtool.cli.stop.stopped import StopReport, render, report_of
from aigovtool.ids import BorrowerId, Digest, InstanceId, ModelId
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.units import ZERO, UnitVector
from aigovtool.protocol.views import Enclaves, EnclaveView

NOW = 1_700_000_000_000
EPOCH = 7


def view(number: int, *, model: str = "xray", **changes: object) -> EnclaveView:
    trust = TrustVector(
        instance_identity=0,
        configuration=0,
        executables=0,
        file_system=0,
        hardware=0,
        runtime_opaque=0,
        storage_opaque=0,
        sourced_data=0,
    )
    result = ResultBody(
        tee=TeeType.SIMULATED,
        status=Status.WARNING,
        trust=trust,
        issued_at_ms=NOW,
        valid_until_ms=NOW,
        appraisal_policy=Digest("sha256:" + "0" * 64),
        policy_version=1,
        measurements=(),
        tcb=Tcb(components=()),
        chip_id=None,
        memory_encryption=False,
        report_data=bytes(64),
        checks=(),
    )
    fields: dict[str, object] = {
        "instance": InstanceId(f"{number:064x}"),
        "borrower": BorrowerId("st-mary"),
        "tee": TeeType.SIMULATED,
        "simulated": True,
        "state": "live",
        "models": [ModelId(model)],
        "attested_at_ms": NOW,
        "valid_until_ms": NOW,
        "last_contact_ms": NOW,
        "outstanding": UnitVector(inferences=10),
        "authority_until_ms": NOW + 30_000,
        "wiped_epoch": None,
        "connected": True,
        "result": result,
    }
    return EnclaveView(**(fields | changes))  # type: ignore[arg-type]


def report(target: StopTarget, value: str, *views: EnclaveView) -> StopReport:
    seen = Enclaves(enclaves=list(views), server_time_ms=NOW)
    return report_of(seen, target, value, epoch=EPOCH, entry=9, since_ms=NOW if target is StopTarget.ENCLAVE else None)


def test_who_acknowledged_and_who_is_only_bounded_is_told_apart() -> None:
    """An acknowledgement of this stop is proof; one of an earlier stop, or none, leaves a bound with its units."""
    found = report(
        StopTarget.MODEL,
        "xray",
        view(1, wiped_epoch=EPOCH, state="wiped", connected=False),
        view(2, connected=False),
        view(3, wiped_epoch=EPOCH - 1, state="wiped", connected=False),
        view(4, model="ct"),
        view(5, connected=False, authority_until_ms=0, outstanding=ZERO, last_contact_ms=NOW - 600_000),
    )
    standing = {int(one.instance, 16): (one.wipe_acknowledged, one.bounded_until_ms) for one in found.enclaves}
    assert standing == {1: (True, None), 2: (False, NOW + 30_000)}
    assert found.outstanding == UnitVector(inferences=10)


def test_an_enclave_that_is_wiping_itself_at_this_moment_is_waited_for() -> None:
    """It has hung up and closed its leases, but has not acknowledged yet; one that is long silent is not waited for."""
    gone: dict[str, Any] = {"connected": False, "authority_until_ms": 0, "outstanding": ZERO}
    found = report(
        StopTarget.ALL,
        "",
        view(1, **gone, last_contact_ms=NOW - 100),
        view(2, **gone, last_contact_ms=NOW - 60_000),
        view(3, **gone, wiped_epoch=EPOCH, state="wiped"),
    )
    assert {int(one.instance, 16): one.answers for one in found.enclaves} == {1: True, 2: False, 3: False}


def test_a_bound_by_a_clock_that_its_host_may_slow_is_told_as_that(capsys: pytest.CaptureFixture[str]) -> None:
    """Attack: the host of a TPM or of SGX slows the clock by which the authority of its enclave ends."""
    slowed = msgspec.structs.replace(view(1).result, tee=TeeType.TPM)
    one = msgspec.structs.replace(view(1, connected=False), result=slowed, simulated=False)
    over = msgspec.structs.replace(one, instance=InstanceId(f"{2:064x}"), authority_until_ms=NOW - 1)
    other = msgspec.structs.replace(
        view(3, connected=False), result=msgspec.structs.replace(slowed, trusted_clock=True)
    )
    found = report(StopTarget.ALL, "", one, over, other)
    assert [entry.clock_trusted for entry in found.enclaves] == [False, False, True]
    render(Screen(json=False), found)
    out = capsys.readouterr().out
    assert out.count("by a clock that its host may slow") == 2
    assert "holds no live lease" not in out
    assert "the units alone are certain" in out
    render(Screen(json=False), report(StopTarget.ALL, "", other))
    assert "clock" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "value", "told"),
    [
        (StopTarget.ALL, "", {"st-mary": 12, "other": 3}),
        (StopTarget.BORROWER, "other", {"other": 3}),
        (StopTarget.MODEL, "xray", {"st-mary": 12, "other": 3}),
        (StopTarget.ENCLAVE, f"{1:064x}", {}),
    ],
)
def test_enclaves_that_are_not_shown_are_told_of(
    target: StopTarget, value: str, told: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A report that names only some of those that a stop concerns says of whose there are more, and how many."""
    unlisted = {BorrowerId("st-mary"): 12, BorrowerId("other"): 3}
    seen = Enclaves(enclaves=[view(1)], server_time_ms=NOW, unlisted=unlisted)
    found = report_of(seen, target, value, epoch=EPOCH, entry=9)
    assert found.unlisted == told
    render(Screen(json=False), found)
    out = capsys.readouterr().out
    assert {name for name in unlisted if f"more enclaves of {name} were heard of lately" in out} == set(told)


@pytest.mark.parametrize(
    ("target", "value", "concerned"),
    [
        (StopTarget.ALL, "", {1, 2}),
        (StopTarget.BORROWER, "st-mary", {1, 2}),
        (StopTarget.BORROWER, "other", set()),
        (StopTarget.MODEL, "ct", {2}),
        (StopTarget.ENCLAVE, f"{1:064x}", {1}),
        (StopTarget.CONSUMER, "radiology", {1, 2}),
    ],
)
def test_only_enclaves_that_a_stop_concerns_are_shown(target: StopTarget, value: str, concerned: set[int]) -> None:
    """By the rule that the custodian applies."""
    found = report(target, value, view(1), view(2, model="ct"))
    assert {int(one.instance, 16) for one in found.enclaves} == concerned


def test_outstanding_units_and_the_bound_are_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    """How much can still be used, and until when at the latest."""
    render(Screen(json=False), report(StopTarget.ALL, "", view(1, wiped_epoch=EPOCH), view(2)))
    out = capsys.readouterr().out
    assert "wipe acknowledged" in out
    assert "1 of 2 acknowledged the wipe." in out
    assert "At most 10 units can still be used, until 2023-11-14 22:13:50Z (30 s)." in out


def test_an_enclave_that_attested_since_is_named_as_successor() -> None:
    """The stop of one boot does not keep the host off; only later ones of the same borrower count."""
    stopped = view(1, wiped_epoch=EPOCH, state="wiped", connected=False, attested_at_ms=NOW - 9)
    since = view(2, attested_at_ms=NOW + 5)
    before = view(3, attested_at_ms=NOW - 5)
    other = view(4, attested_at_ms=NOW + 5, borrower="st-john")
    found = report(StopTarget.ENCLAVE, f"{1:064x}", stopped, since, before, other)
    assert found.successors == [f"{2:064x}"]
    assert report(StopTarget.BORROWER, "st-mary", stopped, since).successors == []


def test_how_to_keep_a_host_off_is_said_with_the_stop_of_one_enclave(capsys: pytest.CaptureFixture[str]) -> None:
    """The borrower's name is in the command that does it; the successor, if there is one, is named."""
    stopped = view(1, wiped_epoch=EPOCH, state="wiped", connected=False, attested_at_ms=NOW - 9)
    for views, words in (([stopped], "may attest again"), ([stopped, view(2, attested_at_ms=NOW + 5)], short(2))):
        render(Screen(json=False), report(StopTarget.ENCLAVE, f"{1:064x}", *views))
        out = capsys.readouterr().out
        assert words in out
        assert "aigovtool stop --borrower st-mary" in out
    render(Screen(json=False), report(StopTarget.BORROWER, "st-mary", stopped))
    assert "attest again" not in capsys.readouterr().out


def short(number: int) -> str:
    return f"{number:064x}"[:12]


def test_a_stop_needs_exactly_one_target(place: Place) -> None:
    """None is too little, two are a misunderstanding; in both cases nothing was stopped."""
    for arguments in (["stop"], ["stop", "--all", "--model", "xray"], ["resume"]):
        result = place.run(*arguments)
        assert (result.exit_code, "bad_target" in result.stderr) == (3, True)


def test_a_stop_is_sent_without_asking_and_a_resume_asks_first(tmp_path: Path) -> None:
    """A stop is urgent; what lifts it needs a yes, from a person or from the option, while there is one operator."""
    with a_place(tmp_path) as place:
        assert place.run("borrower", "add", "st-mary", "-o", place.file("st-mary.json")).exit_code == 0
        stopped = place.document("stop", "--borrower", "st-mary", "--reason", "drill")
        assert (stopped["target"], stopped["value"], stopped["enclaves"]) == ("borrower", "st-mary", [])
        for arguments in (["resume", "--borrower", "st-mary"], ["resume", "--borrower", "st-mary", "--json"]):
            assert place.run(*arguments, stdin="y\n").exit_code == 3
        assert place.run("resume", "--borrower", "st-mary", "--yes").exit_code == 0
        assert place.run("resume", "--borrower", "st-mary", "--yes").exit_code == 3


def test_a_reason_that_nobody_would_read_is_said_before_it_is_signed(lent: Place) -> None:
    """Of all that is ordered with one; nothing is sent, and what has to be shorter is named."""
    before = len(lent.document("audit", "list")["entries"])
    for verb in (("stop", "--all"), ("stop", "--model", "sorter")):
        refused = lent.run(*verb, "--reason", "x" * 501)
        assert (refused.exit_code, "501" in refused.stderr, "reason_too_long" in refused.stderr) == (3, True, True)
    assert len(lent.document("audit", "list")["entries"]) == before


def test_a_misspelt_target_stops_nothing_and_says_so(lent: Place) -> None:
    """The worst stop is one that was believed to work."""
    assert lent.run("stop", "--model", "xrai").exit_code == 3
    assert lent.run("stop", "--enclave", "abc").exit_code == 3


@pytest.mark.parametrize(("target", "reason"), [("--model", "no_model"), ("--consumer", "no_party")])
def test_a_misspelt_target_is_told_from_one_that_is_not_stopped(lent: Place, target: str, reason: str) -> None:
    """Whoever resumes the wrong name must not believe that there was nothing to resume."""
    misspelt = lent.run("resume", target, "xrai", "--yes")
    assert (misspelt.exit_code, reason in misspelt.stderr) == (3, True)
    name = {"--model": "xray", "--consumer": "radiology"}[target]
    idle = lent.run("resume", target, name, "--yes")
    assert (idle.exit_code, "not_stopped" in idle.stderr) == (3, True)


# --- What cannot be undone asks first ---------------------------------------------------------------


def answered(place: Place, answer: str, *arguments: str) -> tuple[int, str]:
    """Run a verb on a terminal of its own, answer its question, and return exit code and screen."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "AIGOVTOOL_OPERATOR": str(place.operator), "NO_COLOR": "1", "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "aigovtool", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    screen = b""
    try:
        while True:
            piece = os.read(ours, 4096)
            screen += piece
            if b"[y/N]" in screen and answer:
                os.write(ours, answer.encode() + b"\n")
                answer = ""
    except OSError:  # the other end is closed: the verb has ended
        pass
    os.close(ours)
    return process.wait(30), screen.decode()


def is_revoked(place: Place, name: str) -> bool:
    return any(one["revoked"] for one in place.document("consumer", "list")["parties"] if one["name"] == name)


def test_a_revocation_asks_and_takes_no_for_an_answer(lent: Place) -> None:
    """The name, and what would do for a while; only a yes revokes, and then it says what became of enclaves."""
    added = lent.run("consumer", "add", "leaver", "--borrower", "st-mary", "-o", lent.file("leaver.json"))
    assert added.exit_code == 0
    code, screen = answered(lent, "n", "consumer", "revoke", "leaver")
    assert (code, is_revoked(lent, "leaver")) == (130, False)
    assert "consumer leaver is never accepted again" in screen
    assert "aigovtool stop --consumer" in screen
    code, screen = answered(lent, "y", "consumer", "revoke", "leaver", "--wait", "0")
    assert (code, is_revoked(lent, "leaver")) == (0, True)
    assert "no enclave that could still serve is concerned" in screen


def test_without_a_terminal_what_cannot_be_undone_needs_a_yes(lent: Place) -> None:
    """A script says so; nothing is changed by one that does not."""
    before = lent.document("consumer", "list"), lent.document("model", "list")
    for arguments in (["consumer", "revoke", "radiology"], ["model", "withdraw", "xray"]):
        for more in ([], ["--json"]):
            result = lent.run(*arguments, *more, stdin="y\n")
            assert (result.exit_code, "not_confirmed" in result.output) == (3, True)
    assert (lent.document("consumer", "list"), lent.document("model", "list")) == before


def test_a_program_learns_what_became_of_a_withdrawal(lent: Place) -> None:
    """The same report as that of a stop; a second withdrawal, or revocation, is a conflict."""
    make_model(lent.directory / "pet.onnx")
    assert (
        lent.run("model", "seal", lent.file("pet.onnx"), "--name", "pet", "-o", lent.file("pet.aigov")).exit_code == 0
    )
    assert lent.run("model", "add", lent.file("pet.aigov"), "--borrower", "st-mary").exit_code == 0
    done = lent.document("model", "withdraw", "pet", "--yes")
    assert (done["stop"]["target"], done["stop"]["value"], done["stop"]["enclaves"]) == ("model", "pet", [])
    assert lent.run("model", "withdraw", "pet", "--yes").exit_code == 3
    lent.enrol_operator("temp")
    assert lent.document("operator", "revoke", "temp", "--yes")["stop"] is None
    again = lent.run("operator", "revoke", "temp", "--yes")
    assert (again.exit_code, "already_revoked" in again.stderr) == (3, True)
