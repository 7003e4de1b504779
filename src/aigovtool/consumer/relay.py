"""An inference that another program made, passed on as it is.

Its bytes are sent as they came to the attested enclave, with a request id and a salt beside them.
What comes back is believed for its receipt, and is handed on as it came. Neither is parsed: what a program says to a
model, and in which form, is between these two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from aigovtool.consumer.attest import Session, add_warning
from aigovtool.consumer.exchange import Reply
from aigovtool.consumer.question import Question, receipt_of
from aigovtool.consumer.receipts import SavedReceipt
from aigovtool.protocol.infer_body import HEADER_LENGTH_NAME
from aigovtool.protocol.session import RECEIPT_HEADER, REQUEST_ID_HEADER, UNITS_HEADER, WARNING_HEADER

#: Of the enclave's own words these reach the program, beside what is said here of the verified receipt.
_PASSED_ON: Final = ("content-type", HEADER_LENGTH_NAME.lower(), UNITS_HEADER, RECEIPT_HEADER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """An answer whose receipt is verified: its bytes, the header fields that go with them, and the record."""

    body: bytes = field(repr=False)
    headers: Sequence[tuple[str, str]]
    saved: SavedReceipt = field(repr=False)


def read_relayed(reply: Reply, question: Question, session: Session) -> Relayed:
    """Return a successful answer once its receipt is verified; raises as `receipt_of`."""
    _, saved = receipt_of(reply, question, session)
    headers = [(name, reply.headers[name]) for name in _PASSED_ON if name in reply.headers]
    headers.append((REQUEST_ID_HEADER, question.request_key))
    warnings = add_warning(session.warnings, reply.headers.get(WARNING_HEADER))
    if warnings:
        headers.append((WARNING_HEADER, "; ".join(warnings)))
    return Relayed(body=reply.body, headers=tuple(headers), saved=saved)
