"""`python -m bench`: measure, and publish the figures.

Options: `--closed N,N,...` lengths of history in closed leases (two log entries each), `--renewals N` per measurement,
`--dry` prints the page and publishes nothing.
"""

import argparse
import subprocess
import sys
from datetime import UTC, datetime

from assurance.machine import this_machine

from bench.custodian import measure
from bench.report import ROOT, Benchmarks, page, write


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--closed", default="0,1000,100000", help="closed leases in the ledger")
    parser.add_argument("--renewals", type=int, default=2_000, help="renewals per measurement")
    parser.add_argument("--dry", action="store_true", help="print the page, publish nothing")
    chosen = parser.parse_args()
    renewals = measure([int(count) for count in chosen.closed.split(",")], chosen.renewals)
    found = Benchmarks(
        commit=_git("rev-parse", "--short=12", "HEAD"),
        changed=bool(_git("status", "--porcelain", "--", "src", "bench", "requirements")),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=this_machine(),
        renewals=renewals,
    )
    if not chosen.dry:
        write(found)
    sys.stdout.write(page(found))


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
