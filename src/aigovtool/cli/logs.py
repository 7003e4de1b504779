"""Logs of the verbs that serve: one JSON object per line on standard error, events and identifiers only.

The text of an exception may quote a prompt or a key, so a log line has its type and where it was raised. Whatever is in
a line is escaped, and bounded in number and size, because some of it comes from peers and libraries. Verbs that do not
serve say what matters themselves; what libraries would log is not shown.
"""

import json
import logging
import os
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from traceback import extract_tb
from typing import Final, TextIO

from aigovtool.cli.words import plain
from aigovtool.errors import ConfigurationError
from aigovtool.limits import MAX_LOG_VALUE_CHARS, MAX_LOG_VALUES
from aigovtool.regular_file import open_regular

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


def log_to(stream: TextIO) -> None:
    """Show events of this program, and warnings of libraries, on a stream: standard error, as a rule."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("aigovtool").setLevel(logging.INFO)


def keep_quiet() -> None:
    """Show nothing: without a handler Python would print warnings, some with a traceback."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())


def open_log(path: Path) -> TextIO:
    """Open a file of this user's alone for further lines.

    Raises:
        ConfigurationError: `unwritable_log`.
    """
    try:
        return os.fdopen(open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise ConfigurationError(f"cannot open {path}: {error.strerror}", reason="unwritable_log") from None
