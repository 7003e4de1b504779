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


def test_a_line_is_bounded_whatever_is_logged() -> None:
    """A megabyte in the event and in each of a hundred values makes a line that fits a screen, and is still JSON."""
    huge = "\x1b[31m\u202e\x9b\r\n" * 200_000
    found = line(logging.makeLogRecord({"msg": huge} | {f"value{number}": huge for number in range(100)}))
    assert len(json.dumps(found)) < 32_768
    assert found["event"].startswith("?[31m????")
    assert found["event"].endswith("... (1799000 more)")
    assert len(found) < 20


def test_values_of_usual_length_are_whole() -> None:
    """What we log ourselves is not cut."""
    assert line(logging.makeLogRecord({"msg": "x" * 1_000}))["event"] == "x" * 1_000
