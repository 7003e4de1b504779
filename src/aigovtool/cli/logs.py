"""Logs of the verbs that serve: one JSON object per line on standard error, events and identifiers only.

The text of an exception may quote a prompt or a key, so a log line has its type and where it was raised. Whatever is in
a line is escaped, and bounded in number and size, because some of it comes from peers and libraries. Verbs that do not
serve say what matters themselves; what libraries would log is not shown.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from itertools import islice
from traceback import extract_tb
from typing import Final

from aigovtool.cli.words import plain
from aigovtool.limits import MAX_LOG_VALUE_CHARS, MAX_LOG_VALUES

#: What every record has; anything beyond it was given as `extra` by whoever logged.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _bounded(record.getMessage()),
        }
        more = ((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        line |= {name: _bounded(value) for name, value in islice(more, MAX_LOG_VALUES)}
        if record.exc_info and record.exc_info[0] is not None:
            frames = extract_tb(record.exc_info[2])
            line["exception"] = record.exc_info[0].__qualname__
            line["raised_at"] = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
        return json.dumps(line, ensure_ascii=False)


def _bounded(value: object) -> str:
    text = str(value)
    cut = len(text) - MAX_LOG_VALUE_CHARS
    return plain(text) if cut <= 0 else f"{plain(text[:MAX_LOG_VALUE_CHARS])}... ({cut} more)"


def log_to_stderr() -> None:
    """Show events of this program, and warnings of libraries, on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("aigovtool").setLevel(logging.INFO)


def keep_quiet() -> None:
    """Show nothing: without a handler Python would print warnings, some with a traceback."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())
