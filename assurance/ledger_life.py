"""A life by chance of the custodian and its model: what operators, enclaves and time do next, drawn from a seed."""

import random

from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, STRANGER

from aigovtool.ids import ConsumerId, Digest, LeaseId, digest_of
from aigovtool.ledger.budget import Window
from aigovtool.ledger.policy import Dial
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.messages import Report, Want
from assurance.ledger_pair import BORROWERS, COMPUTE, DIMENSIONS, NIGHT, PLACES, REQUEST_MS, SLOTS, Pair
from assurance.model_ledger import Units

WISHERS = (CONSUMER, NIGHT, STRANGER, ConsumerId("nobody"))
TARGETS = (("all", ""), ("model", MODEL), ("borrower", BORROWER), ("consumer", CONSUMER), ("consumer", STRANGER))
SPANS_MS = (1, 700, 20_000, 36_000, 61_000, 16 * 60_000, 3_600_000, 6 * 3_600_000, 86_400_000, 31 * 86_400_000)
LIMITS = (None, None, 0, 40, 100, 400, 5_000, 100_000, 100_000)
#: What a limit or a grant is multiplied by, in each dimension.
SCALE = (1, REQUEST_MS)
#: How often a wish is larger than any lease may be.
_HUGE = 0.02
#: How often a report is of what cannot be.
_IMPOSSIBLE = 0.02


def wish(
    consumer: ConsumerId, minimum: Units, target: Units, request: Digest | None = None, *, ask: bool = False
) -> Want:
    """Return a wish, in bound mode for one request."""
    return Want(
        model=MODEL, consumer=consumer, minimum=_vector(minimum), target=_vector(target), ask=ask, request=request
    )


def report_on(lease_id: str, seq: int, used: Units, *, final: bool) -> Report:
    """Return a report."""
    return Report(lease_id=LeaseId(lease_id), seq=seq, used=_vector(used), ok=used[0], err=0, final=final, receipts="")


def _vector(units: Units) -> UnitVector:
    return UnitVector(inferences=units[0], compute_ms=units[1])


def _reports(pair: Pair, slot: int, chance: random.Random) -> list[Report]:
    """Report on a few leases: honestly mostly, sometimes twice, of others, or what contradicts itself."""
    holder, states = pair.enclaves[slot].instance, {"pending", "expired"}
    live = [name for name, one in pair.model.leases.items() if one.holder == holder and one.state in states]
    found = []
    for lease_id in chance.sample(live, k=min(len(live), chance.randint(0, 3))):
        lease = pair.model.leases[lease_id]
        used = _between(lease.used, lease.units, chance)
        if chance.random() < _IMPOSSIBLE:  # of one dimension, less than before or more than there is
            of = chance.randrange(2)
            wrong = chance.choice((max(0, lease.used[of] - 1), lease.units[of] + 1))
            used = (wrong, used[1]) if of == 0 else (used[0], wrong)
        found.append(report_on(lease_id, lease.seq + 1, used, final=chance.random() < 0.5))
    if pair.known and chance.random() < 0.15:
        lease_id = chance.choice(pair.known)
        lease = pair.model.leases[lease_id]
        same = report_on(lease_id, lease.seq, lease.used, final=lease.state in {"closed", "closed_late"})
        odd = report_on(lease_id, chance.randint(0, lease.seq + 1), _between((0, 0), lease.units, chance), final=True)
        found.append(odd if chance.random() < 0.1 else same)
    return [one for place, one in enumerate(found) if one.lease_id not in {two.lease_id for two in found[:place]}]


def _between(low: Units, high: Units, chance: random.Random) -> Units:
    return tuple(chance.randint(*span) for span in zip(low, high, strict=True))


def _renew(pair: Pair, chance: random.Random) -> None:
    slot = chance.randrange(SLOTS)
    usual = (CONSUMER, NIGHT) if BORROWERS[slot] == BORROWER else (STRANGER,)
    wants = []
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        count = chance.choice((1, 1, 1, 2, 7, 40))
        minimum = (count, chance.choice((0, REQUEST_MS, REQUEST_MS, 300, REQUEST_MS * count)))
        if chance.random() < _HUGE:
            minimum = chance.choice(((2_000_000, 0), (1, 2_000_000), (2_000_000, 2_000_000)))
        more = (chance.choice((0, 5, 300, 5_000)), chance.choice((0, 200, 12_000, 200_000)))
        target = (minimum[0] + more[0], minimum[1] + more[1])
        consumer = chance.choice(usual if chance.random() < 0.95 else WISHERS)
        # In bound mode a wish names its request, unless its enclave was admitted on other terms.
        named = pair.model.dial == Dial.BOUND.value and chance.random() < 0.9
        request = digest_of(chance.randbytes(8)) if named else None
        wants.append(wish(consumer, minimum, target, request, ask=chance.random() < 0.5))
    pair.renew(slot, wants, _reports(pair, slot, chance))


def step(pair: Pair, chance: random.Random) -> None:
    """Do something by chance."""
    kind = chance.random()
    if _mend(pair, chance, kind):
        return
    if kind < 0.74:
        _renew(pair, chance)
    elif kind < 0.86:
        pair.wait(chance.choice(SPANS_MS[: chance.choice((3, 4, 4, 5, 6, 7, len(SPANS_MS)))]))
    elif kind < 0.92:
        _budget(pair, chance)
    elif kind < 0.94:
        pair.stop(*chance.choice(TARGETS), active=chance.random() < 0.8)
    elif kind < 0.955:
        pair.boot(chance.randrange(SLOTS))
    elif kind < 0.97:
        pair.write_off(chance.randrange(SLOTS))
    elif kind < 0.985:
        pair.repeat(chance.randrange(SLOTS))
    else:
        pair.restart()


def _mend(pair: Pair, chance: random.Random, kind: float) -> bool:
    """Perhaps do something about what keeps enclaves from being granted anything; return whether that was done."""
    if pair.model.stops and kind < 0.2:
        pair.stop(*chance.choice(sorted(pair.model.stops)), active=False)
    elif _idle(pair) and kind < 0.5:
        pair.boot(chance.choice(_idle(pair)))
    elif pair.model.missing() and kind < 0.3:
        pair.grant(((), Window.LIFETIME.value, COMPUTE), chance.choice((8_000, 80_000, 800_000, 8_000_000)))
    elif pair.asks and kind < 0.03:
        pair.decide(chance.choice(sorted(pair.asks)), approve=chance.random() < 0.5)
    else:
        return False
    return True


def _idle(pair: Pair) -> list[int]:
    """Return the slots whose instance gets nothing any more."""
    held = [pair.model.holders[enclave.instance] for enclave in pair.enclaves]
    return [slot for slot, one in enumerate(held) if one.state != "live" or one.valid_until <= pair.bench.now_ms]


def _budget(pair: Pair, chance: random.Random) -> None:
    """Set or raise a limit: those first whose time is over, and rolling ones as often as all others together."""
    ended = sorted(budget for budget in pair.model.limits if pair.model.ended(budget))
    rolling = [window for window in Window if window.value.startswith("rolling")]
    window = chance.choice(chance.choice((rolling, list(Window))))
    place: tuple[str, ...] = chance.choice(PLACES)
    # A budget of what is not metered is allowed, and concerns nobody.
    of = chance.randrange(len(pair.model.request_max) if chance.random() < 0.9 else len(DIMENSIONS))
    budget = (place, window.value, of)
    if ended and chance.random() < 0.8:
        budget = chance.choice(ended)
        pair.limit(budget, _times(SCALE[budget[2]], chance.choice((None, 1_000, 100_000))), None)
    elif chance.random() < 0.5:
        pair.grant(budget, SCALE[of] * chance.choice((50, 1_000, 20_000)))
    elif not place and window is Window.LIFETIME:
        pair.limit(budget, _times(SCALE[of], chance.choice((None, 100_000))), None)
    else:
        ends_in = chance.choice((None, None, None, None, None, -5, 40_000, 7_200_000))
        pair.limit(budget, _times(SCALE[of], chance.choice(LIMITS)), ends_in)


def _times(scale: int, limit: int | None) -> int | None:
    return None if limit is None else scale * limit
