"""The terms of the models of one instance: those of its admission, then those of the newest answer.

An instance learns its models' terms anew, and whole, with each answer that gives it authority. So whoever withholds
stricter terms has the looser ones for as long as the authority lasts that was given with them: one ttl, as with a stop.

Two things are never taken over by an instance that serves: what is metered, because its leases are of that, and bound
mode, because each lease is for one request there. Terms that need the one or the other need a new boot.
"""

from collections.abc import Iterator, Mapping

import msgspec

from aigovtool.errors import ConflictError
from aigovtool.ids import ModelId
from aigovtool.ledger.policy import Dial, ServingPolicy
from aigovtool.protocol.messages import Answer, ModelTerms

#: Of an instance without any model, which is never admitted.
_TTL_MS, _SILENCE_MS = 30_000, 600_000


class Terms(Mapping[ModelId, ServingPolicy]):
    """The policies in force, by model, and the least of each time that they give the instance as a whole."""

    def __init__(self, policies: Mapping[ModelId, ServingPolicy]) -> None:
        self._use(policies)

    def _use(self, policies: Mapping[ModelId, ServingPolicy]) -> None:
        self._policies = dict(policies)
        #: How long authority lasts at most.
        self.ttl_ms = min((policy.ttl_ms for policy in policies.values()), default=_TTL_MS)
        #: After how long without its custodian the instance wipes itself.
        self.wipe_after_ms = min((policy.wipe_after_ms for policy in policies.values()), default=_SILENCE_MS)

    def __getitem__(self, model: ModelId) -> ServingPolicy:
        return self._policies[model]

    def __iter__(self) -> Iterator[ModelId]:
        return iter(self._policies)

    def __len__(self) -> int:
        return len(self._policies)

    def told(self, answer: Answer) -> "Terms | None":
        """Return what an answer puts in their place, or None where that takes a new boot.

        Raises:
            ConflictError: it leaves out a model (`terms_missing`): what it gave would be on terms that nobody knows.
        """
        found = {each.model: each for each in answer.terms}
        if missing := sorted(self._policies.keys() - found.keys()):
            raise ConflictError(f"an answer does not tell the terms of {missing[0]}", reason="terms_missing")
        if any(_takes_boot(policy, found[model]) for model, policy in self.items()):
            return None
        return Terms({model: _under(policy, found[model]) for model, policy in self.items()})

    def take(self, others: "Terms") -> bool:
        """Put others in force; return whether there is a model of which requests take more or less at least now."""
        moved = any(others[model].least != policy.least for model, policy in self.items())
        self._use(others)
        return moved


def _takes_boot(policy: ServingPolicy, told: ModelTerms) -> bool:
    """Return whether an instance cannot serve under these terms: it was admitted to meter other things, or unbound."""
    measured = {dimension for dimension, _ in policy.request_max.items()}
    return measured != {dimension for dimension, _ in told.request_max.items()} or (
        told.bound and policy.dial is not Dial.BOUND
    )


def _under(policy: ServingPolicy, told: ModelTerms) -> ServingPolicy:
    return msgspec.structs.replace(
        policy,
        ttl_ms=told.ttl_ms,
        wipe_after_ms=told.wipe_after_ms,
        request_max=told.request_max,
        max_run_ms=told.max_run_ms,
        inputs=told.inputs,
        answers=told.answers,
    )
