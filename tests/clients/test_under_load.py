"""An enclave dies and comes back while programs ask: nobody is charged for what it did not get, nor twice."""

import threading
import time
from pathlib import Path

import numpy as np
import requests
from tests.clients.deployment import deployed
from tests.clients.programs import in_json
from tests.e2e.world import MODEL

from aigovtool.consumer.connect.kept_receipts import read_receipts

PROGRAMS = 4
ONE = np.ones((1, 2), np.float32)


class Program(threading.Thread):
    """Asks on and on; what is not answered is asked for again under its id, unless that could be charged twice."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__()
        self.url, self.number = f"{url}/v2/models/{MODEL}/infer", number
        self.answered: list[str] = []
        self.unknown: list[str] = []
        self.refused: set[int] = set()
        self.ends = False

    def run(self) -> None:
        """Ask until it is told to end."""
        count = 0
        with requests.Session() as session:
            while not self.ends:
                count += 1
                self._ask(session, f"p{self.number}-{count}")

    def _ask(self, session: requests.Session, request_id: str) -> None:
        fields = {"aigovtool-request-id": request_id}
        while True:
            answer = session.post(self.url, data=in_json(ONE, ["a"]), headers=fields, timeout=60)
            if answer.status_code == 200:
                self.answered.append(request_id)
                return
            self.refused.add(answer.status_code)
            if answer.json().get("reason") == "retry_may_charge":
                self.unknown.append(request_id)
                return
            if self.ends:
                return
            time.sleep(0.05)


def test_an_enclave_that_dies_under_load_charges_nobody_wrongly(tmp_path: Path) -> None:
    """Attack: the host kills the engine, three times. Answers go on, and books and receipts say the same."""
    with deployed(tmp_path / "world") as gateway:
        programs = [Program(gateway.url, number) for number in range(PROGRAMS)]
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
            for one in programs:
                one.ends = True
            for one in programs:
                one.join(90)
        answered = [name for one in programs for name in one.answered]
        unknown = [name for one in programs for name in one.unknown]
        kept = [kept.signed.receipt.request_key for kept in read_receipts(gateway.home / "receipts")]
        assert len(set(answered)) == len(answered)
        assert sorted(kept) == sorted(answered)
        gateway.world.processes["enclave"].terminate()
        gateway.world.wait_for(lambda: gateway.world.outstanding() == 0, "all leases are closed", 60)
        # What was charged and did not come is one of those that may not be asked again elsewhere.
        assert 0 <= gateway.world.posted() - len(answered) <= len(unknown)
        assert {status for one in programs for status in one.refused} <= {409, 423, 429, 500, 502, 503, 504}
