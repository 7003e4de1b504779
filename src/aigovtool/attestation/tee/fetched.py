"""What a vendor's service answered, as it is kept: endorsements that did not come with the evidence."""

from typing import Annotated, Final, NamedTuple

from msgspec import Meta

from aigovtool.codec import Message
from aigovtool.ids import Millis
from aigovtool.limits import MAX_REVOCATION_LIST_BYTES

#: What a file of answers is called.
FETCHED: Final = "fetched-endorsements.v1"


class Fetched(Message):
    """One answer: its address, when it was fetched, and those headers that belong to it. It proves nothing yet."""

    url: Annotated[str, Meta(max_length=1024)]
    fetched_at_ms: Millis
    body: Annotated[bytes, Meta(max_length=MAX_REVOCATION_LIST_BYTES)]
    headers: dict[str, str]


class Issued(NamedTuple):
    """When a vendor issued an answer, in the order in which answers replace each other.

    `evaluation` is the number of Intel's evaluation, which grows: older ones are still signed anew, with later dates.
    """

    evaluation: int
    at_ms: int


class FetchedAnswers(Message):
    """Answers that are brought to a verifier which cannot ask: what one piece of evidence, or some, needed."""

    answers: Annotated[tuple[Fetched, ...], Meta(max_length=64)]
