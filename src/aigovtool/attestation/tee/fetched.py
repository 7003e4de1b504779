"""What a vendor's service answered, as it is kept: endorsements that did not come with the evidence."""

from typing import Annotated

from msgspec import Meta

from aigovtool.codec import Message
from aigovtool.ids import Millis
from aigovtool.limits import MAX_REVOCATION_LIST_BYTES


class Fetched(Message):
    """One answer: its address, when it was fetched, and those headers that belong to it. It proves nothing yet."""

    url: Annotated[str, Meta(max_length=1024)]
    fetched_at_ms: Millis
    body: Annotated[bytes, Meta(max_length=MAX_REVOCATION_LIST_BYTES)]
    headers: dict[str, str]
