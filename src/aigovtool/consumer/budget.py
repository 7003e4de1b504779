"""The consumer at its custodian: what is left, asking for more, and proof that a lease was debited.

The custodian is recognised by the TLS authority in the consumer file, and recognises the consumer by its client
certificate. A request for more budget carries an id of its own, so that it can be repeated and is recorded once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from aigovtool.codec import Message, convert, decode, encode
from aigovtool.consumer.clock import Clock
from aigovtool.consumer.credential import Credential
from aigovtool.consumer.exchange import CUSTODIAN_CHANNEL, Call, Failure, Flow, exchange
from aigovtool.consumer.link import REPEATABLE
from aigovtool.consumer.patience import Deadline
from aigovtool.consumer.problems import error_of
from aigovtool.crypto.sign import Envelope
from aigovtool.errors import FaultError, InputError, LogError
from aigovtool.ids import MessageId, ModelId
from aigovtool.ledger.budget import Scope
from aigovtool.ledger.checkpoint import Checkpoint
from aigovtool.ledger.entry import LeaseGranted
from aigovtool.ledger.proof import EntryProof, open_lease_proof
from aigovtool.ledger.receipt import Receipt
from aigovtool.ledger.units import Dimension
from aigovtool.limits import MAX_CONTROL_BODY_BYTES
from aigovtool.protocol.commands import AskRequest, AskState
from aigovtool.protocol.trust import open_key_set
from aigovtool.protocol.views import OwnView

M = TypeVar("M", bound=Message)

CUSTODIAN: Final = "the custodian"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseProof:
    """The grant of a lease, which rows it debited, and the signed checkpoint of the log that it is in.

    `proof.checkpoint` is the signed note: kept, it tells later whether the custodian still remembers.
    """

    granted: LeaseGranted
    checkpoint: Checkpoint
    proof: EntryProof


class CustodianDesk:
    """The flows to the custodian."""

    def __init__(
        self, credential: Credential, *, clock: Clock, random_bytes: Callable[[int], bytes], timeout_s: float
    ) -> None:
        self._credential: Final = credential
        self._clock: Final = clock
        self._random_bytes: Final = random_bytes
        self._timeout_s: Final = timeout_s

    def ask(self, units: int, reason: str, model: ModelId, dimension: Dimension) -> Flow[AskState]:
        """Ask for `units` more of a dimension for this consumer on `model`.

        Raises:
            InvalidValueError: units not 1 to 10**12, or a reason not 1 to 500 characters.
            AIGovToolError: the custodian's refusal, or `Failure.error`.
        """
        ask_id = MessageId(self._random_bytes(16).hex())
        scope = Scope(model=model, borrower=self._credential.borrower, consumer=self._credential.consumer)
        request = AskRequest(ask_id=ask_id, scope=scope, units=units, reason=reason, dimension=dimension)
        body = encode(request)
        decode(body, AskRequest)  # the bounds of the message, before anything is sent
        state = yield from self._exchange("POST", "/v1/asks", body, AskState)
        return _same(state, ask_id)

    def state(self, ask_id: str) -> Flow[AskState]:
        """Return what became of a request; raises as `ask`."""
        known = _message_id(ask_id)
        state = yield from self._exchange("GET", f"/v1/asks/{known}", b"", AskState)
        return _same(state, known)

    def own(self, deadline: Deadline | None = None) -> Flow[OwnView]:
        """Return the consumer's own view, before `deadline` if that is sooner than usual; raises as `ask`."""
        return self._exchange("GET", "/v1/self", b"", OwnView, deadline)

    def prove(self, receipt: Receipt, *, key_set_at_least: int) -> Flow[LeaseProof]:
        """Return the proof that the lease of `receipt` was debited, under no older key set than was seen.

        Raises:
            SignatureInvalidError, LogError: it is not in the log that the custodian signed, or is another lease.
            AIGovToolError: as `ask`.
        """
        proof = yield from self._exchange("GET", f"/v1/leases/{receipt.lease_id}/proof", b"", EntryProof)
        key_set = yield from self._exchange("GET", "/v1/key-set", b"", Envelope)
        root = self._credential.custodian_root
        keys = open_key_set(key_set, root, at_least=key_set_at_least).log_keys()
        granted, checkpoint = open_lease_proof(proof, keys, root.key_id, receipt.lease_id)
        wanted = (receipt.instance, receipt.model, receipt.consumer)
        if (granted.instance, granted.model, granted.consumer) != wanted or not granted.units.covers(receipt.units):
            raise LogError("the lease is not the one that the receipt is charged to", reason="wrong_lease")
        return LeaseProof(granted=granted, checkpoint=checkpoint, proof=proof)

    def _exchange(self, method: str, path: str, body: bytes, kind: type[M], limit: Deadline | None = None) -> Flow[M]:
        usual = Deadline.after(self._clock, self._timeout_s)
        deadline = usual if limit is None else limit.earlier(self._timeout_s)
        event = yield from exchange(_call(method, path, body, deadline))
        if isinstance(event, Failure) and event.kind in REPEATABLE:
            event = yield from exchange(_call(method, path, body, deadline))
        if isinstance(event, Failure):
            raise event.error(CUSTODIAN)
        if event.status not in (200, 201):
            raise error_of(event, CUSTODIAN)
        try:
            return decode(event.body, kind)
        except InputError as error:
            raise FaultError(f"the custodian's answer cannot be read: {error.message}", reason="bad_answer") from None


def _call(method: str, path: str, body: bytes, deadline: Deadline) -> Call:
    return Call(
        channel=CUSTODIAN_CHANNEL,
        method=method,
        path=path,
        headers=(("content-type", "application/json"),) if body else (),
        content=body,
        max_bytes=MAX_CONTROL_BODY_BYTES,
        timeout_s=deadline.left_s(),
    )


def _message_id(text: str) -> MessageId:
    return convert({"ask_id": text}, _AskPath).ask_id


class _AskPath(Message):
    ask_id: MessageId


def _same(state: AskState, ask_id: MessageId) -> AskState:
    if state.ask_id != ask_id:
        raise FaultError("the custodian answered about another request", reason="bad_answer")
    return state
