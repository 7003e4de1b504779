"""How fast the body of a request must come."""

from typing import Final

from aigovtool.transport.bounds import HttpLimits


class BodyPace:
    """The body of one connection's request, measured; times are those of the event loop, in seconds."""

    __slots__ = ("_began", "_bounds", "_bytes")

    def __init__(self, bounds: HttpLimits) -> None:
        self._bounds: Final = bounds
        self._began = 0.0
        self._bytes = 0

    def begin(self, now: float) -> None:
        """Measure from here on."""
        self._began, self._bytes = now, 0

    def add(self, count: int) -> None:
        """Count bytes that have come."""
        self._bytes += count

    def patience(self, now: float, *, stranger: bool) -> float:
        """Return how long the next bytes may take: of a stranger, until it has been too slow."""
        bounds = self._bounds
        if not stranger:
            return bounds.body_idle_timeout_s
        earned = bounds.stranger_body_grace_s + self._bytes / bounds.stranger_body_bytes_per_s
        return max(0.0, min(bounds.body_idle_timeout_s, self._began + earned - now))
