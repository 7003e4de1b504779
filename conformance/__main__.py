"""`python -m conformance`: see `runner`; what it needs is looked for first, so that a sentence says what is missing."""

import sys
from importlib.util import find_spec


def main() -> int:
    """Run the suite; 2 if it cannot be run."""
    if find_spec("msgspec") is None:
        sys.stderr.write("the conformance suite needs Python 3.11 or newer and msgspec: pip install msgspec\n")
        return 2
    from conformance.runner import main as run  # noqa: PLC0415 - it needs msgspec

    return run()


if __name__ == "__main__":
    sys.exit(main())
