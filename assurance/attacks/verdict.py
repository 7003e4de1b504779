"""Judges attacks by what their tests recorded, and by nothing else."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from msgspec import field

from aigovtool.codec import Message, decode
from assurance.attacks.attack import Attack
from assurance.attacks.recorder import NOTES

_MAX_BYTES = 16 << 20


class Played(Message):
    """One test of a run, as the recorder wrote it."""

    test: str
    outcome: str
    properties: list[tuple[str, str]] = field(default_factory=list)
    #: Why it did not pass: the end of what pytest told of it.
    failure: str = ""

    def is_of(self, attack: Attack) -> bool:
        """Return whether this test tries that attack."""
        return (attack.mark, str(attack.number)) in self.properties


def read_record(path: Path) -> list[Played]:
    """Return what a run recorded.

    Raises:
        AIGovToolError: the file is no record.
    """
    return decode(path.read_bytes(), list[Played], max_bytes=_MAX_BYTES)


def seen(attack: Attack, record: Iterable[Played]) -> Counter[str]:
    """Count the attack's tests, and each refusal, entry and figure that they noted, under its title."""
    counts: Counter[str] = Counter()
    for one in record:
        if one.is_of(attack):
            counts[f"{attack.title} tests"] += 1
            counts.update(f"{attack.title} {name} {words}" for name, words in one.properties if name in NOTES)
    return counts


def failures(record: Iterable[Played]) -> str:
    """Return why each test that did not pass did not, one after another; nothing if all passed."""
    return "\n".join(f"{one.test} {one.outcome}, at {one.failure}" for one in record if one.outcome != "passed")


def faults(attack: Attack, record: Iterable[Played]) -> list[str]:
    """Return why the attack does not count as refused; nothing if it does, or if it is for later."""
    if attack.later:
        return []
    tests = [one for one in record if one.is_of(attack)]
    counts = seen(attack, tests)
    wrong = [f"{attack.title}: {one.test} {one.outcome}" for one in tests if one.outcome != "passed"]
    if not tests:
        wrong.append(f"{attack.title}: nothing tries it")
    documented = [("refusal", one) for one in attack.refusals] + [("entry", one) for one in attack.entries]
    wrong += [
        f"{attack.title}: no test saw the {n} {one}" for n, one in documented if not counts[f"{attack.title} {n} {one}"]
    ]
    return wrong
