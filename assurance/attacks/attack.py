"""What the catalogue says of one attack, and of one fault that the predecessor had."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Attack:
    """One attack. It is refused when all its tests passed and all that is documented here was seen by them.

    `refusals` are what the attacker is told, each as "code: reason" of a problem document or of a verb that failed;
    empty where an attack is not refused but has no effect, or a bounded one, as `answer` says. `entries` are the kinds
    of audit entries that tell of it; empty where the ledger cannot know of it (strangers, and everything that an
    enclave or a consumer refuses by itself). `later` says for which part of the product there is nothing to attack yet.
    """

    mark: ClassVar[str] = "attack"
    prefix: ClassVar[str] = "atk-"

    number: int
    name: str
    answer: str
    tried: str
    refusals: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    later: str = ""

    @property
    def title(self) -> str:
        """How it is called in a table and in messages."""
        return f"{self.prefix}{self.number:02}"


@dataclass(frozen=True)
class Fault(Attack):
    """One fault of the predecessor, and what is done instead. Ours does not have it when all its tests passed."""

    mark: ClassVar[str] = "fault"
    prefix: ClassVar[str] = "fault "
