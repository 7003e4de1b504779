from typing import Any

import pytest
from tests.cli.conftest import Place

from aigovtool.attestation.model import ResultBody, Status, Tcb, TeeType, TrustVector
from aigovtool.cli.screen import Screen
from aigovtool.cli.stopped import StopReport, render, report_of
from aigovtool.ids import BorrowerId, Digest, InstanceId, ModelId
from aigovtool.ledger.entry import StopTarget
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
        "outstanding_units": 10,
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
        view(5, connected=False, authority_until_ms=0, outstanding_units=0, last_contact_ms=NOW - 600_000),
    )
    standing = {int(one.instance, 16): (one.wipe_acknowledged, one.bounded_until_ms) for one in found.enclaves}
    assert standing == {1: (True, None), 2: (False, NOW + 30_000)}
    assert found.outstanding_units == 10


def test_an_enclave_that_is_wiping_itself_at_this_moment_is_waited_for() -> None:
    """It has hung up and closed its leases, but has not acknowledged yet; one that is long silent is not waited for."""
    gone: dict[str, Any] = {"connected": False, "authority_until_ms": 0, "outstanding_units": 0}
    found = report(
        StopTarget.ALL,
        "",
        view(1, **gone, last_contact_ms=NOW - 100),
        view(2, **gone, last_contact_ms=NOW - 60_000),
        view(3, **gone, wiped_epoch=EPOCH, state="wiped"),
    )
    assert {int(one.instance, 16): one.answers for one in found.enclaves} == {1: True, 2: False, 3: False}


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


def test_a_stop_needs_exactly_one_target(place: Place) -> None:
    """None is too little, two are a misunderstanding; in both cases nothing was stopped."""
    for arguments in (["stop"], ["stop", "--all", "--model", "xray"], ["resume"]):
        result = place.run(*arguments)
        assert (result.exit_code, "bad_target" in result.stderr) == (3, True)


def test_a_stop_is_sent_without_asking_and_a_resume_asks_first(lent: Place) -> None:
    """A stop is urgent; what lifts it needs a yes, from a person or from the option."""
    stopped = lent.document("stop", "--borrower", "st-mary", "--reason", "drill")
    assert (stopped["target"], stopped["value"], stopped["enclaves"]) == ("borrower", "st-mary", [])
    for arguments in (["resume", "--borrower", "st-mary"], ["resume", "--borrower", "st-mary", "--json"]):
        assert lent.run(*arguments, stdin="y\n").exit_code == 3
    assert lent.run("resume", "--borrower", "st-mary", "--yes").exit_code == 0
    assert lent.run("resume", "--borrower", "st-mary", "--yes").exit_code == 3


def test_a_misspelt_target_stops_nothing_and_says_so(lent: Place) -> None:
    """The worst stop is one that was believed to work."""
    assert lent.run("stop", "--model", "xrai").exit_code == 3
    assert lent.run("stop", "--enclave", "abc").exit_code == 3
