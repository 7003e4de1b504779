"""An enclave dies and comes back while programs ask: nobody is charged for what it did not get, nor twice."""

from pathlib import Path

import numpy as np
from tests.clients.asking import Program, end_all, through
from tests.clients.deployment import deployed
from tests.clients.programs import in_json

from aigovtool.consumer.connect.kept_receipts import read_receipts

PROGRAMS = 4
ONE = np.ones((1, 2), np.float32)


def test_an_enclave_that_dies_under_load_charges_nobody_wrongly(tmp_path: Path) -> None:
    """Attack: the host kills the engine, three times. Answers go on, and books and receipts say the same."""
    with deployed(tmp_path / "world") as gateway:
        programs = [Program(through(gateway.url, in_json(ONE, ["a"])), number) for number in range(PROGRAMS)]
        for one in programs:
            one.start()
        try:
            for _ in range(3):
                before = sum(len(one.answered) for one in programs)
                gateway.world.wait_for(
                    lambda before=before: sum(len(one.answered) for one in programs) > before + 20,  # type: ignore[misc]
                    "answers go on",
                    60,
                )
                gateway.world.kill_engine()
        finally:
            gateway.world.wait_ready()
            end_all(programs)
        answered = [name for one in programs for name in one.answered]
        unknown = [name for one in programs for name in one.unknown]
        kept = [kept.signed.receipt.request_key for kept in read_receipts(gateway.home / "receipts")]
        assert len(set(answered)) == len(answered)
        assert sorted(kept) == sorted(answered)
        gateway.world.processes["enclave"].terminate()
        gateway.world.wait_for(lambda: gateway.world.outstanding() == 0, "all leases are closed", 60)
        # What was charged and did not come is one of those that may not be asked again elsewhere.
        assert 0 <= gateway.world.posted() - len(answered) <= len(unknown)
        assert {told.status for one in programs for told in one.refused} <= {409, 423, 429, 500, 502, 503, 504}
