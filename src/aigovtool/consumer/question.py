"""One inference as it is sent, whoever has made its bytes, and the receipt that its answer must have.

The bytes are the same at every repetition, under the same request id, so that the enclave recognises it. An answer is
believed when its receipt, signed by the attested instance, is for exactly these bytes and those of the answer.
"""

from dataclasses import dataclass, field

from aigovtool.consumer.attest import Session
from aigovtool.consumer.exchange import Call, Reply
from aigovtool.consumer.receipts import Answered, SavedReceipt, body_digest, read_receipt_header, save, verify_answer
from aigovtool.ids import ConsumerId, ModelId, RequestKey
from aigovtool.ledger.receipt import SignedReceipt
from aigovtool.limits import MAX_INFER_BODY_BYTES
from aigovtool.protocol.infer_body import HEADER_LENGTH_NAME
from aigovtool.protocol.session import RECEIPT_HEADER, REQUEST_ID_HEADER, SALT_HEADER

_BINARY, _JSON = "application/octet-stream", "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is sent; `header_length` is how much of the body is JSON, where not all of it is."""

    consumer: ConsumerId
    model: ModelId
    request_key: RequestKey
    salt: bytes = field(repr=False)
    body: bytes = field(repr=False)
    header_length: str | None

    def call(self, session: Session, timeout_s: float) -> Call:
        """Return the exchange that sends this to `session`."""
        headers = [
            # Programs say all kinds of things, or nothing; what it is follows from whether there is a binary part.
            ("content-type", _JSON if self.header_length is None else _BINARY),
            (REQUEST_ID_HEADER, self.request_key),
            (SALT_HEADER, self.salt.hex()),
        ]
        if self.header_length is not None:
            headers.append((HEADER_LENGTH_NAME, self.header_length))
        return Call(
            channel=session.channel,
            method="POST",
            path=f"/v2/models/{self.model}/infer",
            headers=tuple(headers),
            content=self.body,
            max_bytes=MAX_INFER_BODY_BYTES,
            timeout_s=timeout_s,
        )


def receipt_of(reply: Reply, question: Question, session: Session) -> tuple[SignedReceipt, SavedReceipt]:
    """Return the verified receipt of an answer, and its record.

    Raises:
        ReceiptError: it is missing, or not for this exchange: there is no answer then.
    """
    answered = Answered(
        consumer=question.consumer,
        model=question.model,
        manifest=session.models[question.model],
        request_key=question.request_key,
        salt=question.salt,
        request=body_digest(question.salt, "request", question.body),
        response=body_digest(question.salt, "response", reply.body),
    )
    signed = read_receipt_header(reply.headers.get(RECEIPT_HEADER))
    verify_answer(signed, session, answered)
    return signed, save(signed, session, answered)
