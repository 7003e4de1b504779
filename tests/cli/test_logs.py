import json
import logging

import pytest

from aigovtool.cli.logs import JsonLines

SECRET = "prompt-77aa"


def line(record: logging.LogRecord) -> dict[str, str]:
    text = JsonLines().format(record)
    assert "\n" not in text
    found: dict[str, str] = json.loads(text)
    return found


def test_a_log_line_is_one_json_object_with_what_was_logged() -> None:
    """Event, level, logger and the identifiers that came with it; nothing that would break a line."""
    extra = {
        "name": "aigovtool.x",
        "levelname": "WARNING",
        "msg": "boot_failed id=%s",
        "args": ("a\nb",),
        "code": "stopped",
    }
    found = line(logging.makeLogRecord(extra | {"levelno": logging.WARNING}))
    del found["at"]
    assert found == {"level": "warning", "logger": "aigovtool.x", "event": "boot_failed id=a?b", "code": "stopped"}


def test_the_text_of_an_exception_is_not_logged() -> None:
    """It may quote a prompt; the type and the place are enough to find the bug."""
    with pytest.raises(ValueError, match=SECRET) as raised:
        int(SECRET)
    error = raised.value
    found = line(logging.makeLogRecord({"msg": "failed", "exc_info": (type(error), error, error.__traceback__)}))
    assert found["exception"] == "ValueError"
    assert "test_logs.py" in found["raised_at"]
    assert SECRET not in json.dumps(found)
