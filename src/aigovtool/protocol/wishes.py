"""What an instance asks its custodian for: one wish for each (model, consumer) that runs short of units.

Rules:

1. Two leases of a path are open for its traffic; the next is drawn at half or when a third of the ttl is left. One
   more is drawn for a request that fits into none.
2. A wish is *urgent*, and is not kept for the next heartbeat, unless the last denial of it still stands as far as
   anyone can know here.
3. Whether units are gone or only held elsewhere is for the custodian to say, and it cannot while we hold some. So where
   a request is told `reserved` or `capped`, this instance waits for its own work, gives back its own leases that are
   too small for the request, and asks again: they are drawn as one, or the answer is final. Those who wait and fit into
   what was available then are asked for first, and the others as soon as these have their lease.
4. What nobody has asked for since a ttl, without a lease and without anybody waiting, is forgotten: there are more
   consumers in the world than there is memory. A denial is remembered until it is worth asking again, and an
   exhaustion that the custodian was asked about for ten minutes, so that operators are not asked again and again.
5. In bound mode each request that waits has a wish of its own, for a lease that serves it alone.
6. Where a renewal cannot take all wishes, those come first for which somebody waits, and of these those that were not
   asked for the longest. What has no place in it was not asked for.

At each event only paths are looked at that may have changed since they were last looked at.
"""

from collections.abc import Iterator
from itertools import zip_longest

from aigovtool.errors import ConflictError
from aigovtool.ids import ConsumerId, Digest, ModelId
from aigovtool.ledger.policy import Dial
from aigovtool.ledger.units import ZERO, Dimension, UnitVector
from aigovtool.limits import MAX_WANTS_PER_RENEWAL
from aigovtool.protocol.agenda import Agenda
from aigovtool.protocol.demand import Demand
from aigovtool.protocol.holding import Holding, PathKey
from aigovtool.protocol.messages import Answer, DenyCode, Want
from aigovtool.protocol.refusals import refusal
from aigovtool.protocol.shelf import Shelf
from aigovtool.protocol.terms import Terms

#: Leases of one (model, consumer) that may be open at a time: the one in use and the next.
_OPEN_LEASES = 2
#: Denials that may end when leases are given back.
_HELD = frozenset({DenyCode.RESERVED, DenyCode.CAPPED})
#: How long an exhaustion that was asked about is remembered after the last request.
_ASKED_MS = 600_000


class Wishes:
    """The demand for every path, and what follows from it."""

    def __init__(self, shelf: Shelf, terms: Terms) -> None:
        self._shelf = shelf
        self._terms = terms
        self._demand: dict[PathKey, Demand] = {}
        self._waiting: dict[PathKey, None] = {}
        self._stopped: frozenset[ConsumerId] = frozenset()
        self._agenda = Agenda()
        self._units_came_back = False
        #: The paths that the last renewal asked something for, and whether it asked for more budget.
        self._sent: dict[PathKey, bool] = {}

    def __len__(self) -> int:
        return len(self._demand)

    def get(self, path: PathKey) -> Demand | None:
        """Return the demand for a path, if anybody asks for it."""
        return self._demand.get(path)

    def of(self, path: PathKey, now_ms: int) -> Demand:
        """Return the demand for a path, which is about to change."""
        self._agenda.look(path)
        demand = self._demand.get(path)
        if demand is None:
            demand = self._demand[path] = Demand(since_ms=now_ms, least=self._least(path))
        return demand

    def _least(self, path: PathKey) -> UnitVector:
        policy = self._terms.get(path[0])
        return ZERO if policy is None else policy.least

    def look(self, path: PathKey) -> None:
        """Something happened to this path: it may be urgent now."""
        if path in self._demand:
            self._agenda.look(path)

    def wait(self, path: PathKey, change: int, request: Digest | None = None, units: UnitVector = ZERO) -> None:
        """Count requests that wait for units (`change` is +1 or -1); in bound mode, for a lease of their own.

        Nothing is asked for who does not wait: what is refused a place in the queue must leave no trace.
        """
        demand = self._demand[path]
        demand.wait(change)
        if request is not None and self._is_bound(path[0]):
            if change > 0:
                demand.expect(request, units)
            else:
                demand.give_up(request)
        self._agenda.look(path)
        if demand.waiting:
            self._waiting[path] = None
        else:
            self._waiting.pop(path, None)

    def spared(self, path: PathKey, units: UnitVector) -> None:
        """A reservation has ended, of which these units were not used."""
        if path in self._demand:
            if not units.is_zero():
                self._demand[path].spare(units)
            self._agenda.look(path)

    def stop(self, consumers: frozenset[ConsumerId]) -> None:
        """Ask nothing for these consumers, and for others as usual."""
        if consumers != self._stopped:
            self._stopped = consumers
            self._look_at_all()

    def allow(self) -> None:
        """A limit was raised: no denial stands any more."""
        for demand in self._demand.values():
            demand.denied = None
        self._look_at_all()

    def reckon(self) -> None:
        """Other terms are in force: what any request takes at least may have changed."""
        for path, demand in self._demand.items():
            demand.least = self._least(path)
        for holding in self._shelf.values():
            holding.least = self._least(holding.path)
            self._shelf.note(holding)
        self._look_at_all()

    def _look_at_all(self) -> None:
        for path in self._demand:
            self._agenda.look(path)

    # -- Serving ------------------------------------------------------------------------------

    def bound_to(self, model: ModelId, request: Digest | None) -> Digest | None:
        """Return the request that a lease of this model must name; `None` where leases serve any.

        Raises:
            ConflictError: the model is lent in bound mode, and this is no certain request (`unbound`).
        """
        if not self._is_bound(model):
            return None
        if request is None:
            raise ConflictError("a lease in bound mode is for one request", reason="unbound")
        return request

    def refuse(self, now_ms: int, path: PathKey, units: UnitVector, next_renew_ms: int) -> None:
        """Raise the refusal that the last denial means for a request of `units`, unless it is worth waiting.

        Raises:
            RefusalError: exhausted, reserved, capped, stopped, or no budget row.
        """
        demand = self._demand[path]
        code = demand.denied
        # A denial of many units says nothing about few: what was available then is worth asking for.
        if code is None or demand.available.covers(units):
            return
        if code in _HELD and (demand.asking or self._own_units(now_ms, path[0]) or self._parts(now_ms, path, units)):
            # We hold units ourselves: in unfinished work, in leases that the next renewal closes, or in those that the
            # renewal under way has closed (rule 3).
            return
        if now_ms >= demand.retry_at_ms and code is not DenyCode.EXHAUSTED:
            demand.denied = None
            return
        if code is DenyCode.EXHAUSTED and self._some_left(path, demand.short):
            code = DenyCode.INSUFFICIENT
        wait_s = max(1, (max(demand.retry_at_ms, next_renew_ms) - now_ms + 999) // 1000)
        raise refusal(code, wait_s, demand.short)

    def _some_left(self, path: PathKey, short: Dimension | None) -> bool:
        free = self._shelf.free(path)
        return free.get(short) > 0 if short is not None else not free.is_zero()

    def _own_units(self, now_ms: int, model: ModelId) -> bool:
        return self._shelf.busy(model) or any(holding.model == model for holding in self._shelf.returnable(now_ms))

    def _parts(self, now_ms: int, path: PathKey, units: UnitVector) -> list[Holding]:
        """Return the idle leases of a path that are each too small for a request of `units`."""
        return [
            holding
            for holding in self._shelf.open(path)
            if not holding.in_flight and not holding.over(now_ms) and not holding.free.covers(units)
        ]

    def gathered(self, now_ms: int) -> list[Holding]:
        """Return the leases to give back so that they can be drawn as one (rule 3)."""
        waiting = ((path, self._demand[path]) for path in self._waiting)
        return [
            holding
            for path, demand in waiting
            if demand.denied in _HELD and not demand.available.covers(demand.wished)
            for holding in self._parts(now_ms, path, demand.wished)
        ]

    def unwanted(self) -> list[Holding]:
        """Return the leases that are for one request each, which does not run and does not wait any more."""
        return [
            holding
            for holding in self._shelf.bound()
            if not holding.in_flight and not self._awaits(holding.path, holding.request)
        ]

    def _awaits(self, path: PathKey, request: Digest | None) -> bool:
        demand = self._demand.get(path)
        return demand is not None and request in demand.requests

    # -- Renewal ------------------------------------------------------------------------------

    def urgent(self, now_ms: int) -> bool:
        """Return whether somebody needs units that are worth asking for before the next heartbeat."""
        coming_back = any(True for _ in self._shelf.returnable(now_ms))
        if coming_back and not self._units_came_back:
            for path in self._waiting:
                self._agenda.look(path)
        self._units_came_back = coming_back
        while (due := self._agenda.next(now_ms)) is not None:
            demand = self._demand[due]
            if self._wants_more(now_ms, due, demand) and not self._blocked(now_ms, due, demand):
                return True
            self._agenda.done(due, self._next_change_ms(now_ms, due, demand))
        return False

    def wants(self, now_ms: int) -> list[Want]:
        """Return what to ask for in a new renewal, those first who wait for it (rule 6)."""
        short = [(path, demand) for path, demand in self._demand.items() if self._wants_more(now_ms, path, demand)]
        short.sort(key=lambda each: (not each[1].waiting, each[1].asked_ms))
        # One wish of each path at a time, so that one consumer's many requests do not crowd out another's only one.
        turns = zip_longest(*(self._wishes_for(now_ms, path, demand) for path, demand in short))
        wants = [want for turn in turns for want in turn if want is not None][:MAX_WANTS_PER_RENEWAL]
        self._sent = {(want.model, want.consumer): want.ask for want in wants}
        for path, ask in self._sent.items():
            self._demand[path].sent(now_ms, ask=ask)
        for want in wants:
            if want.request is not None:
                self._demand[want.model, want.consumer].turn(want.request)
        return wants

    def _wishes_for(self, now_ms: int, path: PathKey, demand: Demand) -> list[Want]:
        model, consumer = path
        ask = demand.denied is DenyCode.EXHAUSTED and demand.short not in demand.asked
        if self._is_bound(model):
            return [
                Want(model=model, consumer=consumer, minimum=units, target=units, ask=ask, request=request)
                for request, units in self._unserved(now_ms, path, demand)
            ]
        minimum = demand.wished.highest(demand.least)
        target = demand.target(now_ms, self._terms.ttl_ms)
        return [Want(model=model, consumer=consumer, minimum=minimum, target=target, ask=ask)]

    def unanswered(self, again_ms: int) -> None:
        """The answer to the renewal does not count: until then, nothing is asked again for this alone."""
        for path in self._sent:
            if path in self._demand:
                self._demand[path].unanswered(again_ms)
                self._agenda.look(path)

    def tell_rooms(self, answer: Answer) -> None:
        """Note what is left on the paths that the answer tells of; where it tells nothing, nothing is limited."""
        told: dict[PathKey, dict[Dimension, int]] = {(one.model, one.consumer): {} for one in answer.results}
        for room in answer.rooms:
            told.setdefault((room.model, room.consumer), {})[room.dimension] = room.units
        for path, rooms in told.items():
            if path in self._demand:
                self._demand[path].path_remaining = rooms

    def _is_bound(self, model: ModelId) -> bool:
        policy = self._terms.get(model)
        return policy is not None and policy.dial is Dial.BOUND

    def _unserved(self, now_ms: int, path: PathKey, demand: Demand) -> Iterator[tuple[Digest, UnitVector]]:
        """Yield the requests that wait for a lease of their own, and what each needs."""
        for request, (units, _) in demand.requests.items():
            if not any(holding.serves(now_ms, units) for holding in self._shelf.of_request(path, request)):
                yield request, units

    def recalled(self, now_ms: int) -> list[Holding]:
        """Return the leases that a recall asks for: nobody has asked for their units for a third of the ttl."""
        return [
            holding
            for holding in self._shelf.values()
            if not (holding.closed or holding.in_flight or holding.over(now_ms)) and self._idle(now_ms, holding)
        ]

    def _idle(self, now_ms: int, holding: Holding) -> bool:
        demand = self._demand.get(holding.path)
        return demand is None or demand.wanted_ms is None or now_ms - demand.wanted_ms > self._terms.ttl_ms // 3

    def forget_idle(self, now_ms: int) -> None:
        """Forget who has not asked for long (rule 4)."""
        for path in [path for path, demand in self._demand.items() if self._forgettable(now_ms, path, demand)]:
            del self._demand[path]
            self._agenda.forget(path)

    def _forgettable(self, now_ms: int, path: PathKey, demand: Demand) -> bool:
        if demand.waiting or self._shelf.held(path):
            return False
        if demand.denied is not None and now_ms < demand.retry_at_ms:
            return False
        last_ms = demand.since_ms if demand.wanted_ms is None else demand.wanted_ms
        return now_ms - last_ms > (max(self._terms.ttl_ms, _ASKED_MS) if demand.asked else self._terms.ttl_ms)

    def _wants_more(self, now_ms: int, path: PathKey, demand: Demand) -> bool:
        policy = self._terms.get(path[0])
        active = demand.wanted_ms is not None and now_ms - demand.wanted_ms <= self._terms.ttl_ms
        if policy is None or not (active or demand.waiting) or path[1] in self._stopped:
            return False
        if self._is_bound(path[0]):
            return any(True for _ in self._unserved(now_ms, path, demand))
        held = self._shelf.open(path)
        if demand.pressing and not any(holding.serves(now_ms, demand.minimum) for holding in held):
            return True
        usable = [holding for holding in held if holding.usable(now_ms)]
        if len(usable) >= _OPEN_LEASES:
            return False
        return _is_low(usable) or all(holding.expires_ms - now_ms <= policy.ttl_ms // 3 for holding in usable)

    def _blocked(self, now_ms: int, path: PathKey, demand: Demand) -> bool:
        """Return whether a wish is to be kept: the last denial stands, or it was sent a moment ago for nothing."""
        return now_ms < demand.again_ms or (demand.denied is not None and self._stands(now_ms, path, demand))

    def _stands(self, now_ms: int, path: PathKey, demand: Demand) -> bool:
        """Return whether the last denial still stands as far as anyone can know here."""
        if demand.denied is DenyCode.EXHAUSTED:
            return demand.short in demand.asked
        if demand.pressing and not demand.fitting.is_zero():
            return False
        if demand.pressing and any(True for _ in self._shelf.returnable(now_ms)):
            return False
        if demand.pressing and demand.denied in _HELD and self._parts(now_ms, path, demand.minimum):
            return False
        return now_ms < demand.retry_at_ms

    def _next_change_ms(self, now_ms: int, path: PathKey, demand: Demand) -> int | None:
        """Return when time alone may make a wish urgent: a lease ends, or soon does, or a denial has aged."""
        ends = [holding.expires_ms for holding in self._in_use(path, demand)]
        changes = [*ends, demand.retry_at_ms, demand.again_ms]
        if ends and path[0] in self._terms:
            third_ms = self._terms[path[0]].ttl_ms // 3
            changes += [end_ms - third_ms for end_ms in ends]
        return min((at_ms for at_ms in changes if at_ms > now_ms), default=None)

    def _in_use(self, path: PathKey, demand: Demand) -> list[Holding]:
        """Return the leases of which a request on this path may still have something: in bound mode, one that waits."""
        if not self._is_bound(path[0]):
            return self._shelf.open(path)
        return [holding for request in demand.requests for holding in self._shelf.of_request(path, request)]


def _is_low(usable: list[Holding]) -> bool:
    """Return whether at most half of what the leases in use had is left, of anything that is metered."""
    units, free = ZERO, ZERO
    for holding in usable:
        units, free = units.plus(holding.units), free.plus(holding.free)
    return not usable or any(free.get(dimension) <= had // 2 for dimension, had in units.items())
