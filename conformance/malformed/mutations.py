"""Single changed bytes: after so many rounds each byte of each genuine bundle has had every other value."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from conformance.malformed.bundles import Bundle, broken

CHUNK = 128
_VALUES = 255


class Change(NamedTuple):
    """One byte of one part of one bundle, and what it is changed by."""

    bundle: Bundle
    part: int
    at: int
    flip: int

    def words(self) -> str:
        """Say which."""
        return f"{self.bundle.name}: byte {self.at} of part {self.part}, changed by {self.flip:#04x}"


def located(bundle: Bundle, position: int, turn: int) -> Change:
    """Return the change of a position, counted over all parts, in one round."""
    at = position
    for part, content in enumerate(bundle.parts):
        if at < len(content):
            return Change(bundle, part, at, (turn + 31 * position) % _VALUES + 1)
        at -= len(content)
    raise IndexError(position)


def of_seed(bundles: tuple[Bundle | None, ...], seed: int) -> Iterator[Change]:
    """Yield the changes of a seed: a few neighbouring bytes of one bundle; none if it is not here.

    A seed means the same with and without the public bundles.
    """
    bundle, number = bundles[seed % len(bundles)], seed // len(bundles)
    if bundle is None:
        return
    size = sum(map(len, bundle.parts))
    turn, chunk = divmod(number, -(-size // CHUNK))
    for position in range(chunk * CHUNK, min(size, (chunk + 1) * CHUNK)):
        yield located(bundle, position, turn)


def changes(bundles: tuple[Bundle | None, ...], number: int) -> Iterator[Change]:
    """Yield a sample, the same every time."""
    chance = random.Random(number)
    here = [bundle for bundle in bundles if bundle is not None]
    for index in range(number):
        bundle = here[index % len(here)]
        yield located(bundle, chance.randrange(sum(map(len, bundle.parts))), chance.randrange(_VALUES))


def play(wanted: Iterable[Change]) -> tuple[Counter[str], list[str]]:
    """Make the changes; return counts, and those that were not refused as they must be."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for change in wanted:
        part = bytearray(change.bundle.parts[change.part])
        part[change.at] ^= change.flip
        parts = (*change.bundle.parts[: change.part], bytes(part), *change.bundle.parts[change.part + 1 :])
        examined = change.bundle.judge(parts)
        problem = None if examined is None else broken(examined)
        counts["changes"] += 1
        counts["of public evidence"] += change.bundle.public
        counts["refused"] += problem is None
        wrong += [] if problem is None else [f"{problem}: {change.words()}"]
    return counts, wrong
