"""The list of enclaves says how long each can go on, whatever its host withholds."""

from typing import Any

import msgspec
import pytest
from tests.attestation.test_appraisal import NOW_MS, policy, verified

from aigovtool.attestation.appraisal import examine
from aigovtool.attestation.model import Clock, TeeType
from aigovtool.cli.enclaves.verb import bound
from aigovtool.ids import BorrowerId, InstanceId, ModelId
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.views import EnclaveView


def view(clock: Clock, **changes: Any) -> EnclaveView:
    known = EnclaveView(
        instance=InstanceId("i" * 64),
        borrower=BorrowerId("hospital"),
        tee=TeeType.SEV_SNP,
        simulated=False,
        state="live",
        models=[ModelId("xray")],
        attested_at_ms=NOW_MS,
        valid_until_ms=NOW_MS + 3_600_000,
        last_contact_ms=NOW_MS,
        outstanding=UnitVector(inferences=40),
        authority_until_ms=NOW_MS + 30_000,
        wiped_epoch=None,
        connected=True,
        result=examine(verified(clock=clock), policy(), NOW_MS),
    )
    return msgspec.structs.replace(known, **changes)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (view(Clock.PLATFORM), "30 s left"),
        (view(Clock.HOST), "40, no time"),
        (view(Clock.HOST, authority_until_ms=NOW_MS), "no lease"),
        (view(Clock.HOST, simulated=True), "30 s left"),
    ],
)
def test_no_time_is_promised_where_the_host_can_slow_the_clock(one: EnclaveView, said: str) -> None:
    """Attack: a host that slows its guest's clock has it answer longer than its lease; never more than its units."""
    assert bound(one, NOW_MS) == said
