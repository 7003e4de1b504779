"""An inference as it came in, and as its model can take it."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aigovtool.enclave.boot import ServedModel
from aigovtool.enclave.engines.interface import check_inputs, check_outputs
from aigovtool.enclave.engines.ipc import Limit
from aigovtool.enclave.gateway.answer_size import require_sendable
from aigovtool.ids import ConsumerId, Digest, RequestKey
from aigovtool.ledger.answers import AnswerTerms, Fill
from aigovtool.ledger.policy import Dial, ServingPolicy
from aigovtool.ledger.receipt import salted_digest
from aigovtool.package.charge import ChargedPer, charged_per
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.leaving import wanted
from aigovtool.protocol.oip import InferRequest, read_infer_claim

LENGTH_HEADER: Final = "inference-header-content-length"
#: From when a request has come until its answer.
DEADLINE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Asked:
    """An inference as it came in: who asks, under which key, with which exact bytes.

    It is `repeatable` if the consumer chose the key. A key that the enclave made is only a name in the receipt.
    """

    model: ServedModel
    consumer: ConsumerId
    key: RequestKey
    repeatable: bool
    salt: bytes
    body: bytes
    header_length: str | None


@dataclass(frozen=True, slots=True)
class Valid:
    """A request that the model can take; `bound_to` is the digest for which a lease is drawn in bound mode."""

    request: InferRequest
    bound_to: Digest | None
    #: The outputs that it gets; none for all that the model has.
    outputs: tuple[str, ...]
    #: As of when it was looked at.
    policy: ServingPolicy

    @property
    def terms(self) -> AnswerTerms | None:
        """What may leave of its answer."""
        return self.policy.answers


def request_digest(asked: Asked) -> Digest:
    """Return what a receipt says of a request."""
    return salted_digest(asked.salt, "request", [asked.body])


def identity_of(asked: Asked, digest: Digest) -> Digest:
    """Return by what a repeated request is known: the model, the length of its header, and what its receipt says."""
    return Digest(f"{digest} {asked.header_length} {asked.model.offer.model}")


def validated(asked: Asked, policy: ServingPolicy) -> Valid:
    """Return a request as the model's interface and these terms take it.

    Raises:
        InputError: why not.
    """
    claim = read_infer_claim(asked.body, asked.header_length)
    interface = asked.model.loaded.interface
    check_inputs(interface, claim.inputs)
    names = [output.name for output in claim.outputs]
    check_outputs(interface, names)
    outputs = wanted(policy.answers, interface.outputs, names)
    require_sendable(asked.model.offer.model, interface, claim.inputs, outputs, claim.id)
    bound = policy.dial is Dial.BOUND
    return Valid(claim.request(), bound_digest(asked) if bound else None, outputs, policy)


def rows_of(specs: Sequence[TensorSpec], request: InferRequest) -> int:
    """Return how many inferences a request is to a model with such inputs: rows where it takes batches, else 1."""
    if charged_per(specs) is ChargedPer.REQUEST:
        return 1
    return max(1, *(tensor.shape[0] for tensor in request.inputs))


def bound_digest(asked: Asked) -> Digest:
    """Return the digest for which a lease is drawn in bound mode; what has no salt of its consumer's gets one here."""
    salt = asked.salt or secrets.token_bytes(32)
    return salted_digest(salt, "bound", [(asked.header_length or "").encode(), b"\x00", asked.body])


def limits_of(terms: AnswerTerms | None, names: tuple[str, ...]) -> tuple[Limit, ...]:
    """Return what the engine's child has to do with the outputs of a run."""
    return () if terms is None else tuple(
        Limit(rule.name, rule.top_k, rule.fill is Fill.LOWEST, rule.decimals)
        for rule in terms.outputs
        if rule.limits and rule.name in names
    )  # fmt: skip
