"""An inference that another program made, passed on as it is.

Its bytes are sent as they came, over a connection to the attested enclave, with a request id and a salt beside them.
What comes back is believed when its receipt vouches for exactly these bytes and for the bytes of the answer, and is
handed on as it came. Neither is parsed: what a program says to a model, and in which form, is between these two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from aigovtool.consumer.attest import Session, add_warning
from aigovtool.consumer.exchange import Call, Reply
from aigovtool.consumer.receipts import Answered, SavedReceipt, body_digest, read_receipt_header, save, verify_answer
from aigovtool.ids import ConsumerId, ModelId, RequestKey
from aigovtool.limits import MAX_INFER_BODY_BYTES
from aigovtool.protocol.infer_body import HEADER_LENGTH_NAME
from aigovtool.protocol.session import (
    RECEIPT_HEADER,
    REQUEST_ID_HEADER,
    SALT_HEADER,
    UNITS_HEADER,
    WARNING_HEADER,
)

#: Of the enclave's own words these reach the program, beside what is said here of the verified receipt.
_PASSED_ON: Final = ("content-type", HEADER_LENGTH_NAME.lower(), UNITS_HEADER, RECEIPT_HEADER)
_BINARY, _JSON = "application/octet-stream", "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A request as a program made it; `header_length` is how much of the body is JSON, where not all of it is."""

    consumer: ConsumerId
    model: ModelId
    request_key: RequestKey
    salt: bytes = field(repr=False)
    body: bytes = field(repr=False)
    header_length: str | None = None

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """An answer whose receipt is verified: its bytes, the header fields that go with them, and the record."""

    body: bytes = field(repr=False)
    headers: Sequence[tuple[str, str]]
    saved: SavedReceipt = field(repr=False)


def read_relayed(reply: Reply, relay: Relay, session: Session) -> Relayed:
    """Return a successful answer once its receipt is verified.

    Raises:
        ReceiptError: it is missing, or not for this exchange: there is no answer then.
    """
    answered = Answered(
        consumer=relay.consumer,
        model=relay.model,
        manifest=session.models[relay.model],
        request_key=relay.request_key,
        salt=relay.salt,
        request=body_digest(relay.salt, "request", relay.body),
        response=body_digest(relay.salt, "response", reply.body),
    )
    signed = read_receipt_header(reply.headers.get(RECEIPT_HEADER))
    verify_answer(signed, session, answered)
    headers = [(name, reply.headers[name]) for name in _PASSED_ON if name in reply.headers]
    headers.append((REQUEST_ID_HEADER, relay.request_key))
    warnings = add_warning(session.warnings, reply.headers.get(WARNING_HEADER))
    if warnings:
        headers.append((WARNING_HEADER, "; ".join(warnings)))
    return Relayed(body=reply.body, headers=tuple(headers), saved=save(signed, session, answered))
