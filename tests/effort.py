"""How much a test tries: in the suite enough to fail for its reason, in a campaign far more."""

import os
from typing import Final

#: Set to 1 by the campaigns that play marked tests, and by whoever wants the long form.
LONG: Final = "AIGOVTOOL_TESTS_LONG"


def is_long() -> bool:
    """Return whether the long form is played."""
    return os.environ.get(LONG, "0") == "1"


def effort(suite: int, *, campaign: int) -> int:
    """Return how often something is tried, or how much of it there is."""
    return campaign if is_long() else suite
