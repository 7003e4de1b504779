"""An inference as it came in, and as its model can take it."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aigovtool.enclave.boot import ServedModel
from aigovtool.enclave.engines.interface import check_inputs, check_outputs
from aigovtool.enclave.engines.ipc import Limit
from aigovtool.enclave.gateway.answer_size import require_sendable
from aigovtool.errors import AIGovToolError
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
#: So much JSON is parsed in some microseconds.
LITTLE_JSON_BYTES: Final = 4 << 10
_SHORT_LENGTH_RE: Final = re.compile(r"[1-9][0-9]{0,3}")
#: Of these not every sequence of bytes is a tensor.
_LOOKED_AT: Final = frozenset({"BOOL", "BYTES"})


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


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a request found: what its receipt will say of it, and what the model can take or why not."""

    digest: Digest
    #: As of when it was looked at: what was found holds for these terms only.
    policy: ServingPolicy
    #: None where that was not looked at yet.
    found: Valid | AIGovToolError | None

    def valid(self) -> Valid:
        """Return it as the model can take it.

        Raises:
            InputError: why not.
        """
        if isinstance(self.found, AIGovToolError):
            raise self.found
        if self.found is None:
            raise AssertionError("nobody has looked at it")
        return self.found


def first_look(asked: Asked, policy: ServingPolicy) -> Look:
    """Return what a receipt says of a request, and whether it is valid if that costs next to nothing.

    It is for who may have asked before: then nothing more is looked at.
    """
    digest = request_digest(asked)
    return look_at(asked, policy, digest) if has_little_json(asked) else Look(digest, policy, None)


def look_at(asked: Asked, policy: ServingPolicy, digest: Digest | None = None) -> Look:
    """Return what a receipt says of a request, and whether it is valid; a refusal is found and not raised.

    Both in one go: a change of threads costs more than either, unless the request is very large.
    """
    digest = request_digest(asked) if digest is None else digest
    try:
        return Look(digest, policy, validated(asked, policy))
    except AIGovToolError as error:
        # What was made before it is to be freed here and not on the loop.
        error.__context__ = None
        return Look(digest, policy, error.with_traceback(None))


def has_little_json(asked: Asked) -> bool:
    """Return whether all of a request but its bytes is short, and its bytes are tensors whatever they are."""
    length = asked.header_length or ""
    return bool(_SHORT_LENGTH_RE.fullmatch(length)) and int(length) <= LITTLE_JSON_BYTES and is_plain(asked.model)


def is_plain(model: ServedModel) -> bool:
    """Return whether any bytes of the right length are what the model takes: else all of them are to be looked at."""
    return all(spec.datatype.value not in _LOOKED_AT for spec in model.loaded.interface.inputs)


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
