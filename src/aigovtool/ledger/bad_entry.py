"""The refusal of one entry of a log."""

from aigovtool.errors import LogError


def bad(reason: str, what: str) -> LogError:
    """Return the refusal of an entry; whoever reads the log adds which one it is."""
    return LogError(what, reason=reason)
