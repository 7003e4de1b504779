"""Leave out what makes real processes fail where nothing can do that, and say so; in CI that is an error."""

import os
import shutil

import pytest

_NO_STRACE = "strace is not installed (apt install strace): tests that make system calls fail are left out"


def pytest_report_header() -> list[str]:
    """Say at the top what is missing here."""
    return [] if shutil.which("strace") else [_NO_STRACE]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that need strace where there is none."""
    if shutil.which("strace") is not None:
        return
    if os.environ.get("CI"):
        raise pytest.UsageError(_NO_STRACE)
    left_out = [item for item in items if "start" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
