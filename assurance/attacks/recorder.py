"""A pytest plugin that writes down which marked tests were played, how they ended, and what they observed.

python -m pytest -m attack -p assurance.attacks.recorder --record attacks.json
"""

import json
from pathlib import Path
from typing import Final

import pytest

#: The marks whose numbers are recorded.
MARKS: Final = ("attack", "fault")
#: Of what pytest tells of a failure, so much is kept, from its end: that is where the error stands.
MAX_FAILURE_CHARS: Final = 2_048
#: What the fixture `observed` notes, as names of a report's properties.
NOTES: Final = ("refusal", "entry", "figure")


class Recorder:
    """Collects the reports of one run and writes them at its end."""

    def __init__(self, path: Path) -> None:
        """Write to `path`."""
        self._path = path
        self._tests: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst outcome of a test's three phases, why the first of them failed, and what the test noted."""
        test = self._tests.setdefault(report.nodeid, {"outcome": "passed"})
        if report.outcome != "passed":
            test["outcome"] = report.outcome
            test.setdefault("failure", f"{report.when}: {report.longreprtext[-MAX_FAILURE_CHARS:]}")
        if report.when == "teardown":
            test["properties"] = [[name, str(value)] for name, value in report.user_properties]

    def pytest_sessionfinish(self) -> None:
        """Write the record."""
        tests = [{"test": name} | found for name, found in sorted(self._tests.items())]
        self._path.write_text(json.dumps(tests, indent=1), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--record FILE`."""
    parser.addoption("--record", metavar="FILE", help="write what the marked tests observed to FILE")


def pytest_configure(config: pytest.Config) -> None:
    """Record where it was asked for, in the process that sees all reports."""
    if (path := config.getoption("--record")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(path)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note the numbers of each test where its reports carry them."""
    for item in items:
        for name in MARKS:
            numbers = {int(number) for mark in item.iter_markers(name) for number in mark.args}
            item.user_properties.extend((name, number) for number in sorted(numbers))
