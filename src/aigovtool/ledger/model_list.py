"""The models of a log: what their leases debit, which package each is, and to whom it is lent."""

from dataclasses import dataclass, field

from aigovtool.ids import BorrowerId, Digest, ModelId
from aigovtool.ledger.bad_entry import bad
from aigovtool.ledger.entry import KeyReleased, ModelAdded, ModelTermsSet
from aigovtool.ledger.units import Dimension


@dataclass(slots=True)
class ModelList:
    """All that were ever added, withdrawn or not."""

    counts: dict[ModelId, frozenset[Dimension]] = field(default_factory=dict)
    manifests: dict[ModelId, Digest] = field(default_factory=dict)
    #: To whom each is lent, if its terms were ever changed: those of its beginning are not in the log.
    lent: dict[ModelId, frozenset[BorrowerId]] = field(default_factory=dict)

    def add(self, added: ModelAdded) -> None:
        """Take a model.

        Raises:
            LogError: another one, or one that meters something else, was added under this name (`model_twice`).
        """
        counts = frozenset({Dimension.INFERENCES, *added.also})
        same = self.counts.setdefault(added.model, counts) == counts
        if not same or self.manifests.setdefault(added.model, added.manifest) != added.manifest:
            raise bad("model_twice", "it adds a model once more, and now it is another one, or meters something else")

    def change(self, terms: ModelTermsSet) -> None:
        """Take new terms."""
        self.lent[terms.model] = frozenset(terms.borrowers)

    def metered(self, model: ModelId) -> frozenset[Dimension]:
        """Return what leases of a model debit.

        Raises:
            LogError: it was never added (`unknown_model`).
        """
        counts = self.counts.get(model)
        if counts is None:
            raise bad("unknown_model", "it grants a lease of a model that was never added")
        return counts

    def require_package(self, released: KeyReleased) -> None:
        """Refuse a key of anything else than what was added.

        Raises:
            LogError: `unknown_model`.
        """
        if self.manifests.get(released.model) != released.manifest:
            raise bad("unknown_model", "it hands out the key of a model that was never added")

    def require_lent(self, model: ModelId, borrower: BorrowerId) -> None:
        """Refuse to give a borrower something of a model that is lent to others.

        Raises:
            LogError: `not_lent`.
        """
        if borrower not in self.lent.get(model, {borrower}):
            raise bad("not_lent", f"it gives {borrower} something of {model}, which is lent to others")
