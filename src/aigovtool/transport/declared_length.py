"""Where an ASGI application's answer of a declared length ends."""

from collections.abc import MutableMapping
from typing import Any

#: As ASGI defines it (asgiref): an untyped mapping.
Event = MutableMapping[str, Any]


class DeclaredLength:
    """Ends an answer with the last byte of its declared length, not with the application's next event.

    A streaming application says that it has ended in an event of its own, a moment after the last piece. The peer
    counts bytes, may send its next request within that moment, and is right to: it must not be taken for one that does
    not wait for its answer.
    """

    __slots__ = ("_left", "ended")

    def __init__(self) -> None:
        self._left: int | None = None
        self.ended = False

    def seen(self, event: Event) -> Event:
        """Return the event to send in the place of `event`."""
        if event["type"] == "http.response.start":
            found = [value for name, value in event.get("headers", ()) if name.lower() == b"content-length"]
            self._left = int(found[0]) if found else None
        elif event["type"] == "http.response.body" and self._left is not None:
            self._left -= len(event.get("body", b""))
            if self._left == 0 and event.get("more_body"):
                self.ended = True
                return {**event, "more_body": False}
        return event
