"""The shelf answers from its indices what a scan of all leases would answer."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from aigovtool.ids import ConsumerId, LeaseId, ModelId, digest_of
from aigovtool.ledger.units import Dimension, of
from aigovtool.protocol.holding import Holding
from aigovtool.protocol.shelf import Shelf

MODELS = [ModelId("digits"), ModelId("letters")]
CONSUMERS = [ConsumerId("anna"), ConsumerId("bert")]
ONE = of(Dimension.INFERENCES, 1)
REQUEST = digest_of(b"a request")


def holding(number: int, units: int = 4, expires_ms: int = 100, *, model: int = 0, consumer: int = 0) -> Holding:
    return Holding(
        lease_id=LeaseId(f"{number:032x}"),
        model=MODELS[model],
        consumer=CONSUMERS[consumer],
        units=of(Dimension.INFERENCES, units),
        expires_ms=expires_ms,
        least=ONE,
        request=REQUEST if number % 3 == 0 else None,
    )


@dataclass
class Both:
    """A shelf, and every lease on it as a plain list."""

    shelf: Shelf = field(default_factory=Shelf)
    leases: list[Holding] = field(default_factory=list)
    now_ms: int = 0

    def put(self, lease: Holding) -> None:
        self.shelf.put(lease)
        self.leases.append(lease)

    def compare(self) -> None:
        found = {lease.lease_id for lease in self.shelf.returnable(self.now_ms)}
        assert found == {
            lease.lease_id
            for lease in self.leases
            if not lease.closed and not lease.in_flight and (lease.free.is_zero() or self.now_ms >= lease.expires_ms)
        }
        assert self.shelf.has_ended(self.now_ms) == any(self.now_ms >= self.shelf[each].expires_ms for each in found)
        for model in MODELS:
            assert self.shelf.busy(model) == any(lease.in_flight for lease in self.leases if lease.model == model)
            for consumer in CONSUMERS:
                mine = [lease for lease in self.leases if lease.path == (model, consumer)]
                assert self.shelf.open((model, consumer)) == [lease for lease in mine if not lease.closed]
                assert self.shelf.held((model, consumer)) == bool(mine)
                free = sum(lease.free.inferences for lease in mine)
                assert self.shelf.free((model, consumer)) == of(Dimension.INFERENCES, free)
                for request in (None, REQUEST):
                    assert self.shelf.of_request((model, consumer), request) == [
                        lease for lease in mine if lease.request == request and not lease.closed
                    ]
        assert self.shelf.bound() == [lease for lease in self.leases if lease.request is not None and not lease.closed]
        assert set(self.shelf._bound) == {lease.lease_id for lease in self.leases if lease.request is not None}
        assert self.shelf.values() == self.leases


ACTS = st.lists(
    st.tuples(st.sampled_from(["put", "reserve", "post", "void", "close", "drop", "pass"]), st.integers(0, 60)),
    max_size=60,
)


@given(ACTS)
def test_the_indices_are_what_a_scan_finds(acts: list[tuple[str, int]]) -> None:
    """Whatever happens to leases, in whatever order, and however time passes."""
    both = Both()
    for number, (act, choice) in enumerate(acts):
        lease = both.leases[choice % len(both.leases)] if both.leases else None
        if act == "put":
            both.put(holding(number, 1 + choice % 4, choice, model=choice % 2, consumer=choice // 2 % 2))
        elif act == "pass":
            both.now_ms += choice
        elif lease is None:
            continue
        elif act == "reserve" and not lease.free.is_zero():
            lease.reserve(ONE)
            both.shelf.note(lease)
        elif act in {"post", "void"} and lease.in_flight and not lease.closed:
            lease.post(ONE, ONE) if act == "post" else lease.void(ONE, failed=False)
            both.shelf.note(lease)
        elif act == "close" and not lease.in_flight:
            lease.close()
            both.shelf.note(lease)
        elif act == "drop" and not lease.in_flight:
            both.shelf.drop(lease.lease_id)
            both.leases.remove(lease)
        both.compare()


def test_a_lease_is_found_by_its_name_until_it_is_dropped() -> None:
    """Afterwards nothing of it is left, not even its path."""
    shelf = Shelf()
    lease = holding(1)
    shelf.put(lease)
    assert (shelf[lease.lease_id], shelf.get(lease.lease_id), lease.lease_id in shelf, len(shelf)) == (
        lease,
        lease,
        True,
        1,
    )
    shelf.drop(lease.lease_id)
    assert (shelf.get(lease.lease_id), lease.lease_id in shelf, len(shelf), shelf.held(lease.path)) == (
        None,
        False,
        0,
        False,
    )
    assert list(shelf.returnable(10**9)) == []
    assert not shelf.has_ended(10**9)
    assert (shelf._by_request, shelf._free) == ({}, {})


def test_what_is_free_is_no_more_than_what_leases_hold() -> None:
    """Of two leases of a path one is dropped, whatever was free on it; the other one still counts."""
    shelf = Shelf()
    shelf.put(holding(1, 3))
    shelf.put(holding(2, 4))
    assert shelf.free((MODELS[0], CONSUMERS[0])) == of(Dimension.INFERENCES, 7)
    shelf.drop(holding(1).lease_id)
    assert shelf.free((MODELS[0], CONSUMERS[0])) == of(Dimension.INFERENCES, 4)
