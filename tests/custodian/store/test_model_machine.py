"""The custodian beside a small model of its ledger, on both stores; hypothesis looks for the shortest way to differ."""

import tempfile
from pathlib import Path

import pytest
from assurance.ledger_life import LIMITS, SCALE, SPANS_MS, TARGETS, report_on, wish
from assurance.ledger_pair import COMPUTE, INFERENCES, NIGHT, PLACES, SLOTS, Divergence, Pair
from assurance.model_ledger import Budget, Units
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tests.custodian.conftest import CONSUMER, STRANGER
from tests.postgres_server import PostgresServer

from aigovtool.ids import ConsumerId, digest_of
from aigovtool.ledger.budget import Window
from aigovtool.ledger.policy import Dial

_SLOT = st.integers(0, SLOTS - 1)
_LIVE = {"pending", "expired"}
_WINDOWS = [window.value for window in Window]
_BUDGET = st.tuples(st.sampled_from(PLACES), st.sampled_from(_WINDOWS), st.sampled_from((INFERENCES, COMPUTE)))
_Wish = tuple[ConsumerId, Units, Units]
#: For whom, at least how much, and how much more.
_WISH = st.tuples(
    st.sampled_from((CONSUMER, CONSUMER, NIGHT, STRANGER)),
    st.tuples(st.integers(0, 50) | st.just(2_000_000), st.integers(0, 1_000)),
    st.tuples(st.integers(0, 100), st.integers(0, 2_000)),
)


def _between(low: Units, high: Units) -> st.SearchStrategy[Units]:
    return st.tuples(*(st.integers(*span) for span in zip(low, high, strict=True)))


class Machine(RuleBasedStateMachine):
    """Rules are acts of operators, enclaves and time; `Pair` compares after each."""

    server: PostgresServer | None = None

    @initialize(dial=st.sampled_from(Dial), compute=st.sampled_from((None, 0, 4_000, 400_000)))
    def begin(self, dial: Dial, compute: int | None) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="aigovtool-model-")
        ledger = None if self.server is None else self.server.database()
        self.pair = Pair(Path(self.folder.name) / "custodian", ledger, dial, compute=compute is not None)
        if compute:
            self.pair.grant(((), Window.LIFETIME.value, COMPUTE), compute)

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            try:
                self.pair.look_at_all()
            finally:
                self.pair.close()
                self.folder.cleanup()
                if self.server is not None:
                    self.server.reclaim()

    @rule(span_ms=st.sampled_from(SPANS_MS))
    def wait(self, span_ms: int) -> None:
        self.pair.wait(span_ms)

    @rule(slot=_SLOT)
    def boot(self, slot: int) -> None:
        self.pair.boot(slot)

    @rule(
        budget=_BUDGET,
        limit=st.sampled_from(LIMITS),
        ends_in=st.sampled_from((None, None, -5, 40_000, 7_200_000)),
    )
    def limit(self, budget: Budget, limit: int | None, ends_in: int | None) -> None:
        self.pair.limit(budget, None if limit is None else limit * SCALE[budget[2]], ends_in)

    @rule(budget=_BUDGET, units=st.integers(1, 10_000))
    def grant(self, budget: Budget, units: int) -> None:
        self.pair.grant(budget, units * SCALE[budget[2]])

    @precondition(lambda self: self.pair.asks)
    @rule(data=st.data(), approve=st.booleans())
    def decide(self, data: st.DataObject, approve: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
        self.pair.decide(data.draw(st.sampled_from(sorted(self.pair.asks))), approve=approve)

    @rule(what=st.sampled_from(TARGETS), active=st.booleans())
    def stop(self, what: tuple[str, str], active: bool) -> None:  # noqa: FBT001 - hypothesis names its arguments
        self.pair.stop(*what, active=active)

    @precondition(lambda self: self.pair.model.stops)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.pair.stop(*data.draw(st.sampled_from(sorted(self.pair.model.stops))), active=False)

    @rule(
        slot=_SLOT,
        wishes=st.lists(_WISH, max_size=3),
        named=st.sampled_from((True, True, True, False)),
        ask=st.booleans(),
    )
    def renew(self, slot: int, wishes: list[_Wish], named: bool, ask: bool) -> None:  # noqa: FBT001
        request = digest_of(b"request") if named else None
        wants = [
            wish(consumer, least, (least[0] + more[0], least[1] + more[1]), request, ask=ask)
            for consumer, least, more in wishes
        ]
        self.pair.renew(slot, wants, [])

    @precondition(lambda self: self.pair.known)
    @rule(data=st.data(), slot=_SLOT, ahead=st.sampled_from((1, 1, 1, 0, -1)), final=st.booleans())
    def report(self, data: st.DataObject, slot: int, ahead: int, final: bool) -> None:  # noqa: FBT001
        lease_id = data.draw(st.sampled_from(self.pair.known))
        lease = self.pair.model.leases[lease_id]
        used = data.draw(_between((0, 0), (lease.units[0] + 1, lease.units[1] + 1)) | _between(lease.used, lease.units))
        owners = [at for at, one in enumerate(self.pair.enclaves) if one.instance == lease.holder]
        self.pair.renew((owners or [slot])[0], [], [report_on(lease_id, max(0, lease.seq + ahead), used, final=final)])

    @precondition(lambda self: any(one.state in _LIVE for one in self.pair.model.leases.values()))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        live = [name for name, one in self.pair.model.leases.items() if one.state in _LIVE]
        lease_id = data.draw(st.sampled_from(sorted(live, key=self.pair.known.index)))
        lease = self.pair.model.leases[lease_id]
        owners = [at for at, one in enumerate(self.pair.enclaves) if one.instance == lease.holder]
        used = data.draw(_between(lease.used, lease.units))
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


@pytest.mark.parametrize("of", [INFERENCES, COMPUTE])
def test_a_model_that_counts_differently_is_noticed(tmp_path: Path, of: int) -> None:
    """The comparison itself bites: a unit too much on one row of the model diverges at the next step."""
    pair = Pair(tmp_path / "custodian", None, Dial.BALANCED, compute=True)
    budget = ((), Window.LIFETIME.value, of)
    pair.grant(((), Window.LIFETIME.value, COMPUTE), 400_000)
    pair.renew(0, [wish(CONSUMER, (1, 40), (5, 200))], [])
    (row,) = pair.model.rows[budget].values()
    row[1] += 1
    with pytest.raises(Divergence, match="rows"):
        pair.wait(1)
    pair.close()
