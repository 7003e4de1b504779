"""How tests start processes of the product: a whole run may ask for all of them under `python -O` or `-OO`."""

import os
from typing import Final

#: "1" or "2" as `PYTHONOPTIMIZE` means it. Set for the product only: pytest itself lives by assertions.
_LEVEL: Final = "AIGOVTOOL_TESTS_OPTIMIZE"

#: Before a command that is to be interrupted: tests may be played where Ctrl-C is ignored, which is inherited.
INTERRUPTIBLE: Final = ("env", "--default-signal=INT")


def environment(**more: str) -> dict[str, str]:
    """Return the environment for a process of the product."""
    return {**os.environ, "PYTHONOPTIMIZE": os.environ.get(_LEVEL, "0"), **more}
