"""A server has as many open files as a full one needs, or says that it has fewer."""

import json
import subprocess
import sys

import pytest

from aigovtool.transport.descriptors import NEEDED

_PROGRAM = """
import logging, resource, sys
from aigovtool.transport import descriptors
logging.basicConfig(format="%(message)s", stream=sys.stdout)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, int(sys.argv[1]))))
descriptors.provide()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.attack(34)
@pytest.mark.parametrize(("hard", "said"), [(NEEDED, []), (NEEDED + 1, []), (100, ["few_open_files"])])
def test_a_low_soft_limit_is_raised_and_a_low_hard_one_is_said(hard: int, said: list[str]) -> None:
    """In a process of its own, whose limits are its own."""
    command = [sys.executable, "-c", _PROGRAM, str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *lines, limit = done.stdout.split()
    assert (lines, json.loads(limit)) == (said, min(hard, NEEDED))
