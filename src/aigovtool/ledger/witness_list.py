"""The witnesses of a log, as its entries enrol and retire them."""

from dataclasses import dataclass, field

from aigovtool.ledger.bad_entry import bad
from aigovtool.ledger.cosignature import WitnessKey, parse_witness_key
from aigovtool.ledger.entry import WitnessEnrolled, WitnessRetired
from aigovtool.limits import MAX_WITNESSES


@dataclass(slots=True)
class WitnessList:
    """All that were ever enrolled, by name, and which of them are retired."""

    known: dict[str, WitnessKey] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)

    def take(self, change: WitnessEnrolled | WitnessRetired) -> None:
        """Enrol or retire one.

        Raises:
            LogError: its name or key was taken, there are too many, or there is none to retire (`witness`).
        """
        if isinstance(change, WitnessEnrolled):
            self._enrol(parse_witness_key(change.witness))
        else:
            self._retire(change.name)

    def _enrol(self, witness: WitnessKey) -> None:
        taken = any(witness.name == known.name or witness.key == known.key for known in self.known.values())
        if taken or len(self.known) - len(self.retired) >= MAX_WITNESSES:
            raise bad("witness", "it enrols a witness whose name or key was taken, or one too many")
        self.known[witness.name] = witness

    def _retire(self, name: str) -> None:
        if name not in self.known or name in self.retired:
            raise bad("witness", "it retires a witness that is not enrolled")
        self.retired.add(name)
