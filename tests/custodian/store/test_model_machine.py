"""The custodian beside a small model of its ledger, on both stores; hypothesis looks for the shortest way to differ."""

import tempfile
from pathlib import Path

import pytest
from assurance.ledger_pair import LIMITS, PLACES, SLOTS, SPANS_MS, TARGETS, Divergence, Pair, report_on, wish
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tests.custodian.conftest import CONSUMER, STRANGER
from tests.postgres_server import PostgresServer

from aigovtool.ids import digest_of
from aigovtool.ledger.budget import Window
from aigovtool.ledger.policy import Dial

_SLOT = st.integers(0, SLOTS - 1)
_LIVE = {"pending", "expired"}


class Machine(RuleBasedStateMachine):
    """Rules are acts of operators, enclaves and time; `Pair` compares after each."""

    server: PostgresServer | None = None

    @initialize(dial=st.sampled_from(Dial))
    def begin(self, dial: Dial) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="aigovtool-model-")
        ledger = None if self.server is None else self.server.database()
        self.pair = Pair(Path(self.folder.name) / "custodian", ledger, dial)

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            try:
                self.pair.look_at_all()
            finally:
                self.pair.close()
                self.folder.cleanup()

    @rule(span_ms=st.sampled_from(SPANS_MS))
    def wait(self, span_ms: int) -> None:
        self.pair.wait(span_ms)

    @rule(slot=_SLOT)
    def boot(self, slot: int) -> None:
        self.pair.boot(slot)

    @rule(
        place=st.sampled_from(PLACES),
        window=st.sampled_from(Window),
        limit=st.sampled_from(LIMITS),
        ends_in=st.sampled_from((None, None, -5, 40_000, 7_200_000)),
    )
    def limit(self, place: tuple[str, ...], window: Window, limit: int | None, ends_in: int | None) -> None:
        self.pair.limit(place, window, limit, ends_in)

    @rule(place=st.sampled_from(PLACES), window=st.sampled_from(Window), units=st.integers(1, 10_000))
    def grant(self, place: tuple[str, ...], window: Window, units: int) -> None:
        self.pair.grant(place, window, units)

    @rule(what=st.sampled_from(TARGETS), active=st.booleans())
    def stop(self, what: tuple[str, str], active: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
        self.pair.stop(*what, active=active)

    @precondition(lambda self: self.pair.model.stops)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.pair.stop(*data.draw(st.sampled_from(sorted(self.pair.model.stops))), active=False)

    @rule(
        slot=_SLOT,
        minimums=st.lists(st.integers(1, 50), max_size=3),
        more=st.integers(0, 100),
        foreign=st.booleans(),
        named=st.sampled_from((True, True, True, False)),
    )
    def renew(self, slot: int, minimums: list[int], more: int, foreign: bool, named: bool) -> None:  # noqa: FBT001
        consumer = STRANGER if (slot == SLOTS - 1) != foreign else CONSUMER
        request = digest_of(b"request") if named else None
        wants = [wish(consumer, least, least + more, request) for least in minimums]
        self.pair.renew(slot, wants, [])

    @precondition(lambda self: self.pair.known)
    @rule(data=st.data(), slot=_SLOT, ahead=st.sampled_from((1, 1, 1, 0, -1)), final=st.booleans())
    def report(self, data: st.DataObject, slot: int, ahead: int, final: bool) -> None:  # noqa: FBT001
        lease_id = data.draw(st.sampled_from(self.pair.known))
        lease = self.pair.model.leases[lease_id]
        used = data.draw(st.integers(0, lease.units + 1) | st.integers(lease.used, lease.units))
        owners = [at for at, one in enumerate(self.pair.enclaves) if one.instance == lease.holder]
        self.pair.renew((owners or [slot])[0], [], [report_on(lease_id, max(0, lease.seq + ahead), used, final=final)])

    @precondition(lambda self: any(one.state in _LIVE for one in self.pair.model.leases.values()))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        live = [name for name, one in self.pair.model.leases.items() if one.state in _LIVE]
        lease_id = data.draw(st.sampled_from(sorted(live, key=self.pair.known.index)))
        lease = self.pair.model.leases[lease_id]
        owners = [at for at, one in enumerate(self.pair.enclaves) if one.instance == lease.holder]
        used = data.draw(st.integers(lease.used, lease.units))
        self.pair.renew((owners or [0])[0], [], [report_on(lease_id, lease.seq + 1, used, final=True)])

    @rule(slot=_SLOT)
    def write_off(self, slot: int) -> None:
        self.pair.write_off(slot)

    @rule(slot=_SLOT)
    def repeat(self, slot: int) -> None:
        self.pair.repeat(slot)

    @rule()
    def restart(self) -> None:
        self.pair.restart()


_SHORT = settings(max_examples=12, stateful_step_count=40)


def test_on_sqlite_the_custodian_does_what_the_model_says() -> None:
    """Answers, rows, leases, stops and totals agree after each step of every history that is tried."""
    run_state_machine_as_test(Machine, settings=_SHORT)


def test_on_postgresql_the_custodian_does_what_the_model_says(postgres_server: PostgresServer) -> None:
    """The same histories on the other store."""
    on_postgres = type("OnPostgres", (Machine,), {"server": postgres_server})
    run_state_machine_as_test(on_postgres, settings=settings(max_examples=6, stateful_step_count=30))


def test_a_model_that_counts_differently_is_noticed(tmp_path: Path) -> None:
    """The comparison itself bites: a unit too much on one row of the model diverges at the next step."""
    pair = Pair(tmp_path / "custodian", None, Dial.BALANCED)
    pair.renew(0, [wish(CONSUMER, 1, 5)], [])
    (row,) = pair.model.rows.values()
    row[1] += 1
    with pytest.raises(Divergence, match="rows"):
        pair.wait(1)
    pair.close()
