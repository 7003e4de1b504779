"""The line of those who wait: in the order of coming; who needs more blocks nobody, and nobody starves it."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from aigovtool.ids import ConsumerId, ModelId
from aigovtool.ledger.units import Dimension, UnitVector, of
from aigovtool.protocol.holding import PathKey
from aigovtool.protocol.reservation import Line, Waiting

ANNA, BERT = ((ModelId("digits"), ConsumerId(name)) for name in ("anna", "bert"))


@dataclass
class Counter:
    """A number of units for each path, and a line of those for whom there are too few."""

    left: dict[PathKey, int] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.line: Line[str] = Line(self.offer)

    def offer(self, one: Waiting[str]) -> bool:
        self.tried.append(one.outcome)
        units = one.units.inferences
        if units > self.left.get(one.path, 0):
            return True
        self.left[one.path] -= units
        self.served.append(one.outcome)
        self.line.leave(one)
        return False

    def joins(self, name: str, units: int = 1, path: PathKey = ANNA) -> Waiting[str]:
        one = Waiting(path, of(Dimension.INFERENCES, units), None, name)
        self.line.join(one)
        return one

    def frees(self, units: int, path: PathKey = ANNA) -> None:
        self.left[path] = self.left.get(path, 0) + units
        self.line.came_free(path)


def test_the_first_to_come_is_the_first_to_be_served() -> None:
    """What came free for three serves those three, and the others stand where they stood."""
    counter = Counter()
    for name in "abcde":
        counter.joins(name)
    counter.frees(3)
    counter.line.serve_freed()
    counter.frees(2)
    counter.line.serve_freed()
    assert counter.served == list("abcde")
    assert len(counter.line) == 0


def test_who_needs_more_is_passed_and_keeps_its_place() -> None:
    """The second fits where the first does not; as soon as the first fits, it is served before the third."""
    counter = Counter()
    for name, units in (("large", 5), ("small", 1), ("late", 1)):
        counter.joins(name, units)
    counter.frees(1)
    counter.line.serve_freed()
    counter.frees(5)
    counter.line.serve_freed()
    assert counter.served == ["small", "large"]


def test_only_a_path_of_which_something_came_free_is_looked_at() -> None:
    """And only once, however often it was said."""
    counter = Counter()
    counter.joins("a")
    counter.joins("b", 1, BERT)
    counter.frees(0)
    counter.frees(0)
    counter.line.serve_freed()
    counter.line.serve_freed()
    assert counter.tried == ["a"]
    counter.line.serve_all()
    assert counter.tried == ["a", "a", "b"]


def test_of_equal_requests_one_tries_in_vain_for_all() -> None:
    """Hundreds wait for what has come free for none of them: that costs one try of each size."""
    counter = Counter()
    for number in range(300):
        counter.joins(str(number), 3 - number % 2)
    counter.frees(1)
    counter.line.serve_freed()
    assert counter.tried == ["0", "1"]
    counter.line.serve_all()
    assert len(counter.tried) == 2 + 300


def test_who_has_left_is_not_offered_anything() -> None:
    """Leaving twice is leaving once, and of a line in which nobody stands nothing is kept."""
    counter = Counter()
    gone = counter.joins("gone")
    counter.frees(1)
    assert [counter.line.leave(gone), counter.line.leave(gone)] == [True, False]
    counter.line.serve_freed()
    counter.frees(1, BERT)
    assert (counter.tried, counter.line._by_path, counter.line._freed) == ([], {}, {})


SIZES = st.integers(1, 4)
EVENTS = st.lists(st.one_of(st.tuples(st.just("joins"), SIZES), st.tuples(st.just("frees"), SIZES)), max_size=40)


@given(EVENTS)
def test_nobody_waits_for_what_is_there_and_nobody_is_overtaken_by_an_equal(events: list[tuple[str, int]]) -> None:
    """After each event everybody in line needs more than is left; of equal requests the earlier was served first."""
    counter = Counter()
    sizes: dict[str, int] = {}
    waiting: dict[str, Waiting[str]] = {}
    for number, (act, size) in enumerate(events):
        if act == "frees":
            counter.frees(size)
        else:
            name = str(number)
            sizes[name], waiting[name] = size, counter.joins(name, size)
            if not counter.offer(waiting[name]):
                assert counter.served[-1] == name
        counter.line.serve_freed()
        for name in counter.served:
            waiting.pop(name, None)
        assert all(sizes[name] > counter.left.get(ANNA, 0) for name in waiting)
    for size in range(1, 5):
        equal = [name for name in counter.served if sizes[name] == size]
        assert equal == [name for name in sizes if sizes[name] == size][: len(equal)]


def test_units_are_compared_in_all_dimensions() -> None:
    """Who needs less of one dimension and more of another tries for itself."""
    counter = Counter()
    for name, units in (("a", UnitVector(inferences=2, compute_ms=1)), ("b", UnitVector(inferences=1, compute_ms=9))):
        counter.line.join(Waiting(ANNA, units, None, name))
    counter.frees(1)
    counter.line.serve_freed()
    assert (counter.tried, counter.served) == (["a", "b"], ["b"])
