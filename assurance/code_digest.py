"""Which code a figure is about: a digest over the files that a campaign covers, and the commit they were in."""

import subprocess
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What every campaign depends on: the versions of all libraries.
_ALWAYS = ("requirements/dev.txt",)
_SKIPPED = {"__pycache__"}


def files_under(covers: Iterable[str], root: Path = ROOT) -> list[Path]:
    """Return the files that are covered, in a fixed order.

    Raises:
        FileNotFoundError: a path that covers nothing is a mistake.
    """
    found: set[Path] = set()
    for name in (*covers, *_ALWAYS):
        path = root / name
        inside = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and p.suffix != ".pyc"]
        if not inside:
            raise FileNotFoundError(f"a campaign covers {name}, and nothing is there")
        found.update(p for p in inside if not _SKIPPED & set(p.parts))
    return sorted(found)


def code_digest(covers: Iterable[str], root: Path = ROOT) -> str:
    """Return a digest that changes when a covered file is added, removed, renamed or edited."""
    digest = sha256()
    for path in files_under(covers, root):
        name = path.relative_to(root).as_posix().encode()
        content = path.read_bytes()
        digest.update(f"{len(name)}:".encode() + name + f"{len(content)}:".encode() + content)
    return digest.hexdigest()


def commit_of(covers: Iterable[str], root: Path = ROOT) -> str:
    """Return the commit of the covered files, marked when they differ from it."""
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if not head:
        return "none"
    return head + ("+changes" if _git(root, "status", "--porcelain", "--", *covers, *_ALWAYS) else "")


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
