"""`python -m conformance`: ask a verifier about every vector, and compare its verdicts with the expected ones.

Without a command AIGovTool's own is asked. Public vectors are asked about where `AIGOVTOOL_EVIDENCE_DIR` names their
files. Exit code 1 says that a verdict differs.
"""
# ruff: noqa: T201 - a command line

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from conformance import suite
from conformance.suite import TEES, Vector
from conformance.verdicts import Ask, command, differences, in_process

_OWN = (sys.executable, "-m", "aigovtool", "evidence", "verify")
_Job = tuple[Vector, Path]
_Row = tuple[Vector, list[str]]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--command", help="the verifier: a command line before the arguments of README.md")
    parser.add_argument(
        "--in-process", action="store_true", help="ask AIGovTool's verifiers without starting a process"
    )
    parser.add_argument(
        "--reasons", action="store_true", help="compare AIGovTool's words too (default without --command)"
    )
    parser.add_argument("--only", action="append", choices=TEES, help="vectors of this TEE (may be repeated)")
    parser.add_argument("--name", help="vectors with this text in their names")
    parser.add_argument("--no-public", action="store_true", help="only the vectors that lie in the repository")
    parser.add_argument(
        "--all", action="store_true", help="print a line for every vector, not only for those that differ"
    )
    parser.add_argument(
        "--mutations", type=int, metavar="N", help="also change N single bytes of genuine vectors: none is believed"
    )
    return parser.parse_args(given)


def jobs(*, public: bool, only: Sequence[str] | None = None, name: str = "") -> Iterator[_Job]:
    """Yield each vector with the folder of its files.

    Raises:
        SystemExit: a public file is missing, or is another one than the manifest says.
    """
    chosen = [(vector, suite.VECTORS) for vector in suite.self_made()]
    folder = suite.evidence_folder() if public else None
    if folder is not None:
        manifest = suite.read_public()
        if wrong := suite.wrong_files(manifest, folder):
            raise SystemExit(f"not the files of the manifest: {', '.join(wrong)}")
        chosen += [(vector, folder) for vector in manifest.vectors]
    yield from (job for job in chosen if job[0].tee in (only or TEES) and name in job[0].name)


def _row(ask: Ask, reasons: bool, job: _Job) -> _Row:  # noqa: FBT001 - bound once, below
    vector, folder = job
    return vector, differences(vector.expected, ask(vector, folder), reasons=reasons)


def run(ask: Ask, chosen: Sequence[_Job], *, reasons: bool, workers: int = 1) -> list[_Row]:
    """Return for each vector where its verdict differs."""
    one = partial(_row, ask, reasons)
    if workers == 1:
        return [one(job) for job in chosen]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, chosen))


def _print(rows: Sequence[_Row], *, everything: bool) -> int:
    for vector, wrong in rows:
        if wrong or everything:
            said = "; ".join(wrong) or vector.title
            print(f"{'DIFFERS' if wrong else 'ok':<8} {vector.tee:<8} {vector.name:<48} {said}")
    total, different = Counter(vector.tee for vector, _ in rows), Counter(vector.tee for vector, wrong in rows if wrong)
    print(f"\n{'TEE':<8} {'vectors':>8} {'genuine':>8} {'refused':>8} {'policy':>8} {'differ':>8}")
    for tee in total:
        group = [vector.expected for vector, _ in rows if vector.tee == tee]
        genuine = sum(one.genuine for one in group)
        judged = sum(one.acceptable is not None for one in group)
        print(f"{tee:<8} {total[tee]:>8} {genuine:>8} {len(group) - genuine:>8} {judged:>8} {different[tee]:>8}")
    print(f"{'all':<8} {len(rows):>8} {'':>26} {sum(different.values()):>8}")
    return sum(different.values())


def _mutated(number: int) -> int:
    from conformance.malformed.bundles import load_bundles  # noqa: PLC0415 - only where it is asked for
    from conformance.malformed.mutations import changes, play  # noqa: PLC0415

    counts, wrong = play(changes(load_bundles(), number))
    print(f"{counts['refused']:,} of {counts['changes']:,} single changed bytes refused")
    for one in wrong:
        print(f"BROKEN   {one}")
    return len(wrong)


def main(given: Sequence[str] | None = None) -> int:
    """Run what was asked for."""
    options = _arguments(given)
    ask: Ask = in_process
    workers = 1
    if not options.in_process:
        ask = command(shlex.split(options.command) if options.command else _OWN)
        workers = os.cpu_count() or 1
    chosen = list(jobs(public=not options.no_public, only=options.only, name=options.name or ""))
    if not chosen:
        raise SystemExit("no such vector")
    reasons = options.reasons or not options.command
    wrong = _print(run(ask, chosen, reasons=reasons, workers=workers), everything=options.all)
    if suite.evidence_folder() is None and not options.no_public:
        print("AIGOVTOOL_EVIDENCE_DIR is not set: nothing was asked about the public vectors")
    if options.mutations:
        wrong += _mutated(options.mutations)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
