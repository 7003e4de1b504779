"""`python -m fuzz [TEE] [libFuzzer options]`: search until something is found, or as long as the options say.

Without a TEE each has a minute. What was reached is kept in `.assurance/fuzz/TEE` and gone on from; an input that is
received wrongly is written as `.assurance/fuzz/TEE-crash-...`, and tried again with `python -m fuzz TEE FILE`.
"""
# ruff: noqa: S603, T201 - a command line that starts itself

import importlib.util
import subprocess
import sys
from collections.abc import Sequence

TEES = ("sev-snp", "tdx", "sgx", "nitro", "tpm")
_NO_ATHERIS = "atheris is not installed: `make fuzz` does that (requirements/fuzz.txt)"


def main(given: Sequence[str]) -> int:
    """Search; return 0 if nothing was found."""
    if importlib.util.find_spec("atheris") is None:
        print(_NO_ATHERIS, file=sys.stderr)
        return 2
    if given and given[0] in TEES:
        from fuzz.harness import search  # noqa: PLC0415 - it instruments whatever is imported afterwards

        search(given[0], given[1:])
        return 0  # not reached: the search ends the process
    options = list(given) or ["-max_total_time=60"]
    codes = [subprocess.run([sys.executable, "-m", "fuzz", tee, *options], check=False).returncode for tee in TEES]
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
