"""Which code a figure is about: a digest over what a campaign covers, with the libraries in use, and the commit.

A figure of one campaign must not become void because another one's library has a new version, or hours of counting
never add up. So each campaign depends on the libraries that its own files name, and on what these require in turn; and
of the bounds that all of the product shares (`aigovtool.limits`) on the values of those that its files name.
"""

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SKIPPED = {"__pycache__"}
#: Of this repository: covered as files.
_OURS = {"aigovtool", "assurance", "bench", "conformance", "tests"}
_LIMITS = "src/aigovtool/limits.py"


def files_under(covers: Iterable[str], root: Path = ROOT) -> list[Path]:
    """Return the files that are covered, in a fixed order.

    Raises:
        FileNotFoundError: a path that covers nothing is a mistake.
    """
    found: set[Path] = set()
    for name in covers:
        path = root / name
        inside = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and p.suffix != ".pyc"]
        if not inside:
            raise FileNotFoundError(f"a campaign covers {name}, and nothing is there")
        found.update(p for p in inside if not _SKIPPED & set(p.parts))
    return sorted(found)


def code_digest(covers: Iterable[str], root: Path = ROOT) -> str:
    """Return a digest that changes with each covered file, added, removed, renamed or edited, library and limit."""
    covers = tuple(covers)
    digest = sha256()
    for path in files_under(covers, root):
        name = path.relative_to(root).as_posix().encode()
        content = path.read_bytes()
        digest.update(f"{len(name)}:".encode() + name + f"{len(content)}:".encode() + content)
    for line in (*libraries(covers, root), *limits(covers, root)):
        digest.update(f"{len(line)}:{line}".encode())
    return digest.hexdigest()


def libraries(covers: Iterable[str], root: Path = ROOT) -> list[str]:
    """Return `name==version` of each library that covered files import, anywhere in them, and of what these require."""
    named = {top for source in _sources(covers, root) for top in _imported(source)}
    known = _distributions()
    found: set[str] = set()
    waiting = [one for top in named - _OURS - set(sys.stdlib_module_names) for one in known.get(top, ())]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _required(name)
    return sorted(f"{name}=={version(name)}" for name in found)


def limits(covers: Iterable[str], root: Path = ROOT) -> list[str]:
    """Return `NAME=value` of each bound that covered files import: all of them where one imports the module itself.

    Raises:
        KeyError: a file imports a bound that there is none of.
    """
    named = {name for source in _sources(covers, root) for name in _limits_in(source)}
    if not named:
        return []
    known = {name: value for name, value in runpy.run_path(str(root / _LIMITS)).items() if name.isupper()}
    return [f"{name}={known[name]!r}" for name in sorted(known if "*" in named else named)]


def _sources(covers: Iterable[str], root: Path) -> Iterator[str]:
    return (path.read_text() for path in files_under(covers, root) if path.suffix == ".py")


@cache
def _imports_of(source: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Return what a file imports, also within functions; most files are covered by many campaigns."""
    return tuple(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom))


def _limits_in(source: str) -> Iterator[str]:
    """Yield the names of bounds that a file imports; `*` for the whole module."""
    for node in _imports_of(source):
        if isinstance(node, ast.ImportFrom) and node.module == "aigovtool.limits":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "aigovtool":
            yield from ("*" for name in node.names if name.name == "limits")
        elif isinstance(node, ast.Import):
            yield from ("*" for name in node.names if name.name == "aigovtool.limits")


def commit_of(covers: Iterable[str], root: Path = ROOT) -> str:
    """Return the commit of the covered files, marked when they differ from it."""
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if not head:
        return "none"
    return head + ("+changes" if _git(root, "status", "--porcelain", "--", *covers) else "")


def _imported(source: str) -> Iterator[str]:
    """Return the first names of all modules that a file imports."""
    for node in _imports_of(source):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif node.module and not node.level:
            yield node.module.partition(".")[0]


@cache
def _distributions() -> dict[str, list[str]]:
    return {top: sorted({_usual(one) for one in names}) for top, names in packages_distributions().items()}


@cache
def _required(name: str) -> tuple[str, ...]:
    """Return what a distribution requires and is installed; what it requires for an extra is not counted."""
    found = []
    for line in requires(name) or ():
        other = _usual(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0])
        try:
            version(other)
        except PackageNotFoundError:
            continue
        if "extra ==" not in line:
            found.append(other)
    return tuple(found)


def _usual(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
