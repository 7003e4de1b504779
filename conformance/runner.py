"""Ask a verifier about every vector, and compare its verdicts with the expected ones.

Without a command AIGovTool's own is asked. Public vectors are asked about where `AIGOVTOOL_EVIDENCE_DIR` names their
files. Exit code 1 says that a verdict differs or that there was none, 2 that nothing could be asked.
"""
# ruff: noqa: T201 - a command line

import argparse
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from msgspec import structs

from conformance import suite
from conformance.suite import TEES, Public, Vector
from conformance.verdicts import NO_ANSWER, Ask, command, differences, in_process

_OWN = (sys.executable, "-m", "aigovtool", "evidence", "verify")
#: Where nobody looks at a line that changes, a line is written for so many vectors.
_LINE_EVERY = 100
_Job = tuple[Vector, Path]
_Row = tuple[Vector, list[str]]


class NothingAskedError(Exception):
    """The suite cannot be run as it was asked for."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--command", help="the verifier: a command line before the arguments of README.md")
    who.add_argument("--in-process", action="store_true", help="ask AIGovTool's verifiers without starting a process")
    parser.add_argument(
        "--reasons", action="store_true", help="compare AIGovTool's words too (default without --command)"
    )
    parser.add_argument("--only", action="append", choices=TEES, help="vectors of this TEE (may be repeated)")
    parser.add_argument("--name", default="", help="vectors with this text in their names; of public ones, or files'")
    parser.add_argument("--no-public", action="store_true", help="only the vectors that lie in the repository")
    parser.add_argument("--no-policy", action="store_true", help="only vectors without one of AIGovTool's policies")
    parser.add_argument(
        "--all", action="store_true", help="print a line for every vector, not only for those that differ"
    )
    parser.add_argument(
        "--mutations", type=int, metavar="N", help="also change N single bytes of genuine vectors: none is believed"
    )
    return parser


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which vectors are asked about: of which TEEs, with which text in their names, public ones, ones with a policy."""

    only: Sequence[str] = TEES
    name: str = ""
    public: bool = True
    policy: bool = True

    def has(self, vector: Vector, *, public: bool) -> bool:
        """Return whether a vector is among them."""
        named = self.name in vector.name or (public and self.name in vector.data)
        return vector.tee in self.only and named and (self.policy or vector.policy is None)


def jobs(choice: Choice) -> Iterator[_Job]:
    """Yield each vector with the folder of its files.

    Raises:
        NothingAskedError: a public file that is needed is missing, or is another one than the manifest says.
    """
    yield from ((one, suite.VECTORS) for one in suite.self_made() if choice.has(one, public=False))
    folder = suite.evidence_folder() if choice.public else None
    if folder is not None:
        manifest = suite.read_public()
        chosen = [
            one for one in manifest.vectors if choice.has(one, public=True) and _can_be_here(manifest, one, folder)
        ]
        needed = _with_files_of(manifest, chosen)
        if wrong := suite.wrong_files(needed, folder):
            said = f"{folder}: of {len(needed.files)} files {len(wrong)} are missing or not those of public.json"
            raise NothingAskedError(f"{said}, the first: {wrong[0]} (--no-public leaves public vectors out)")
        yield from ((one, folder) for one in chosen)


def _can_be_here(manifest: Public, vector: Vector, folder: Path) -> bool:
    """Return False for a vector whose files are published nowhere (`swtpm_vm_`), if none of them is here."""
    needed = _with_files_of(manifest, [vector]).files.items()
    unpublished = [name for name, file in needed if manifest.origins[file.origin].repository == "none"]
    return not unpublished or any((folder / name).exists() for name in unpublished)


def _with_files_of(manifest: Public, vectors: Sequence[Vector]) -> Public:
    """Return the manifest with the files alone that these vectors name, or that lie in a folder which one names."""
    named: set[str] = set()
    for one in vectors:
        named |= {one.data, *one.endorsements, *one.roots} | ({one.event_log} if one.event_log else set())
    files = {name: file for name, file in manifest.files.items() if name in named or name.rpartition("/")[0] in named}
    return structs.replace(manifest, files=files)


def _row(ask: Ask, reasons: bool, job: _Job) -> _Row:  # noqa: FBT001 - bound once, below
    vector, folder = job
    return vector, differences(vector.expected, ask(vector, folder), reasons=reasons)


def run(
    ask: Ask,
    chosen: Sequence[_Job],
    *,
    reasons: bool,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[_Row]:
    """Return for each vector where its verdict differs; `progress` is told how many were asked about, of how many."""
    one = partial(_row, ask, reasons)
    rows: list[_Row] = []
    with ThreadPoolExecutor(workers) as pool:
        for row in map(one, chosen) if workers == 1 else pool.map(one, chosen):
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(chosen))
    return rows


def progress_on(stream: TextIO) -> Callable[[int, int], None]:
    """Return who says on a stream how far it is: on a terminal in one line that changes, else now and then."""
    terminal = stream.isatty()

    def tell(done: int, of: int) -> None:
        if terminal:
            stream.write(f"\r{done} of {of} vectors" if done < of else "\r\033[K")
        elif done % _LINE_EVERY == 0:
            stream.write(f"{done} of {of} vectors\n")
        stream.flush()

    return tell


def _print(rows: Sequence[_Row], *, everything: bool) -> int:
    """Print what differs and a table; return how many verdicts differ or are missing."""
    marks: list[str] = []
    for vector, wrong in rows:
        silent = bool(wrong) and wrong[0].startswith(NO_ANSWER)
        marks.append("SILENT" if silent else "DIFFERS" if wrong else "ok")
        if wrong or everything:
            print(f"{marks[-1]:<8} {vector.tee:<8} {vector.name:<48} {'; '.join(wrong) or vector.title}")
    print(f"\n{'TEE':<8} {'vectors':>8} {'genuine':>8} {'refused':>8} {'policy':>8} {'differ':>8} {'no answer':>10}")
    counts = Counter((vector.tee, mark) for (vector, _), mark in zip(rows, marks, strict=True))
    for tee in dict.fromkeys(vector.tee for vector, _ in rows):
        group = [vector.expected for vector, _ in rows if vector.tee == tee]
        genuine = sum(one.genuine for one in group)
        judged = sum(one.acceptable is not None for one in group)
        print(f"{tee:<8} {len(group):>8} {genuine:>8} {len(group) - genuine:>8} {judged:>8}", end="")
        print(f" {counts[tee, 'DIFFERS']:>8} {counts[tee, 'SILENT']:>10}")
    print(f"{'all':<8} {len(rows):>8} {'':>26} {marks.count('DIFFERS'):>8} {marks.count('SILENT'):>10}")
    return len(marks) - marks.count("ok")


def _mutated(number: int) -> int:
    from conformance.malformed.bundles import load_bundles  # noqa: PLC0415 - only where it is asked for
    from conformance.malformed.mutations import changes, play  # noqa: PLC0415

    counts, wrong = play(changes(load_bundles(), number))
    print(f"{counts['refused']:,} of {counts['changes']:,} single changed bytes refused")
    for one in wrong:
        print(f"BROKEN   {one}")
    return len(wrong)


def _words(given: str | None) -> Sequence[str]:
    """Return the command of the verifier; AIGovTool's if none was given.

    Raises:
        NothingAskedError: it is empty, or no command line, or there is no such program.
    """
    if given is None:
        return _OWN
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise NothingAskedError(f"--command is no command line: {error}") from None
    if not words:
        raise NothingAskedError("--command is empty: it names the verifier to ask")
    if shutil.which(words[0]) is None:
        raise NothingAskedError(f"--command: there is no program {words[0]}")
    return words


def _chosen(options: argparse.Namespace) -> list[_Job]:
    """Return what is asked about.

    Raises:
        NothingAskedError: nothing, or it needs what is not here.
    """
    choice = Choice(
        only=options.only or TEES, name=options.name, public=not options.no_public, policy=not options.no_policy
    )
    found = list(jobs(choice))
    if not found:
        unset = " (and none was looked for among the public ones: AIGOVTOOL_EVIDENCE_DIR is not set)"
        hidden = choice.public and suite.evidence_folder() is None
        raise NothingAskedError(f"no such vector{unset if hidden else ''}")
    public = sum(folder != suite.VECTORS for _, folder in found)
    if suite.evidence_folder() is not None and choice.public:
        wanted = sum(choice.has(one, public=True) for one in suite.read_public().vectors)
        if wanted > public:
            print(f"{wanted - public} vectors are left out: their files are published nowhere", file=sys.stderr)
    if find_spec("aigovtool") is None and (public or options.command is None or options.mutations):
        raise NothingAskedError(
            "AIGovTool is not installed: only --command with --no-public, and without --mutations, does without it"
        )
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Run what was asked for."""
    options = _parser().parse_args(given)
    try:
        words, chosen = _words(options.command), _chosen(options)
    except NothingAskedError as error:
        print(error, file=sys.stderr)
        return 2
    ask, workers = (in_process, 1) if options.in_process else (command(words), os.cpu_count() or 1)
    reasons = options.reasons or options.command is None
    rows = run(ask, chosen, reasons=reasons, workers=workers, progress=progress_on(sys.stderr))
    wrong = _print(rows, everything=options.all)
    if suite.evidence_folder() is None and not options.no_public:
        print("AIGOVTOOL_EVIDENCE_DIR is not set: nothing was asked about the public vectors")
    if options.mutations:
        wrong += _mutated(options.mutations)
    return 1 if wrong else 0
