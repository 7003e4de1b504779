"""The parties of a log: who was ever enrolled, whose each consumer is, and which operators may order something."""

from dataclasses import dataclass, field

from aigovtool.ids import BorrowerId, ConsumerId, KeyId
from aigovtool.ledger.bad_entry import bad
from aigovtool.ledger.entry import Command, PartyAdded, PartyRevoked, PartyRole


@dataclass(slots=True)
class PartyList:
    """All that were ever enrolled. Names and keys are given out once, and what is revoked is revoked for good."""

    #: Operators, revoked or not: from the second on, some orders take two.
    operators: set[str] = field(default_factory=set)
    borrowers: set[str] = field(default_factory=set)
    #: Consumers, and to which borrower each belongs.
    owners: dict[str, BorrowerId | None] = field(default_factory=dict)
    _keys: set[KeyId] = field(default_factory=set)
    _revoked: set[tuple[PartyRole, str]] = field(default_factory=set)

    def add(self, added: PartyAdded) -> None:
        """Take a party.

        Raises:
            LogError: its name or key was given out before (`party_twice`), or nobody ordered it, and it is no operator
                whom the holder of the custodian's directory enrolled (`not_ordered`); or it is a consumer of a borrower
                who is not enrolled, or not any more (`not_enrolled`).
        """
        if added.name in self._of(added.role) or added.key in self._keys:
            raise bad("party_twice", f"it enrols {added.role} {added.name}, whose name or key was given out before")
        if added.command is None and added.role is not PartyRole.OPERATOR:
            raise bad("not_ordered", f"it enrols {added.role} {added.name}, and nobody ordered that")
        self._keys.add(added.key)
        if added.role is PartyRole.OPERATOR:
            self.operators.add(added.name)
        elif added.role is PartyRole.BORROWER:
            self.borrowers.add(added.name)
        else:
            self._require(PartyRole.BORROWER, added.borrower or "nobody")
            self.owners[added.name] = added.borrower

    def revoke(self, revoked: PartyRevoked) -> None:
        """Take note that a party acts no more.

        Raises:
            LogError: there is none, or it was revoked before (`not_enrolled`).
        """
        self._require(revoked.role, revoked.name)
        self._revoked.add((revoked.role, revoked.name))

    def require_operators(self, command: Command) -> None:
        """Refuse an order by somebody who is no operator, or not any more.

        Raises:
            LogError: `not_enrolled`.
        """
        for name in (command.operator, *(() if command.second is None else (command.second,))):
            self._require(PartyRole.OPERATOR, name)

    def require_borrower(self, borrower: BorrowerId) -> None:
        """Refuse whatever is given to a borrower that is none, or not any more.

        Raises:
            LogError: `not_enrolled`.
        """
        self._require(PartyRole.BORROWER, borrower)

    def require_consumer(self, consumer: ConsumerId, borrower: BorrowerId) -> None:
        """Refuse whatever is given for a consumer that is none, or not any more, or not this borrower's.

        Raises:
            LogError: `not_enrolled` or `foreign_consumer`.
        """
        self._require(PartyRole.CONSUMER, consumer)
        if self.owners[consumer] != borrower:
            raise bad("foreign_consumer", f"it is for {consumer}, who is no consumer of {borrower}")

    def _require(self, role: PartyRole, name: str) -> None:
        if name not in self._of(role) or (role, name) in self._revoked:
            raise bad("not_enrolled", f"it names {role} {name}, who is not enrolled, or not any more")

    def _of(self, role: PartyRole) -> set[str] | dict[str, BorrowerId | None]:
        found = {PartyRole.OPERATOR: self.operators, PartyRole.BORROWER: self.borrowers}
        return found.get(role, self.owners)
