"""House rules that no linter checks. A rule may have exceptions; each is named here with its reason.

The tests read what git tracks (and what it would track), so that a private key or a large file is caught
before it is committed. The checkers of code are functions of source text, and each is itself shown to bite.
"""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_BLOB_BYTES = 200_000

# path -> reason
LONG_FILES: dict[str, str] = {}
# "path::function" -> reason
LONG_FUNCTIONS: dict[str, str] = {}
LARGE_BLOBS: dict[str, str] = {
    "requirements/dev.txt": "generated: one hash for every wheel of every supported platform",
}
# path -> reason; only the command line reads the environment
ENVIRONMENT_READERS: dict[str, str] = {
    "src/aigovtool/enclave/engines/onnx.py": "writes one variable, which ONNX Runtime reads when it is loaded",
}

VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc", "stuff"}
PURE_ROOMS = ("ledger", "protocol", "package", "attestation")

# Written in pieces, so that this file does not contain what it forbids.
# The header alone is no key: there must be something of a body, on the next line or after an escaped line break.
PRIVATE_KEY_RE = re.compile("-----BEGIN ([A-Z]+ )*PRIVATE" + r" KEY-----(\s|\\n|b?[\"'])*[A-Za-z0-9+/]{16}")
REGISTRY_RE = re.compile(
    r"(?i)\b("
    + "|".join(["py" + r"pi\.org", "python" + r"hosted\.org", "npm" + r"js\.(org|com)", r"deb\.deb" + r"ian\.org"])
    + ")"
)
MACHINE_PATH_RE = re.compile(
    "(?<![\\w.])/(" + "|".join(["wo" + "rk/", "ro" + "ot/", "ho" + r"me/(?!me/)[a-z]", "Us" + r"ers/[A-Za-z]"]) + ")"
)
UNREASONED_TODO_RE = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b(?!\([^)]+\): \S+ \S+)")


@cache
def tracked() -> tuple[Path, ...]:
    """Return every file that is in git or would be added by `git add --all`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return tuple(path for name in sorted(listing.split("\0")) if name and (path := ROOT / name).is_file())


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def sources(under: str = "src/") -> Iterator[tuple[str, str]]:
    for path in tracked():
        if path.suffix == ".py" and name_of(path).startswith(under):
            yield name_of(path), path.read_text(encoding="utf-8")


def texts() -> Iterator[tuple[str, str]]:
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            yield name_of(path), data.decode("utf-8", errors="replace")


# --- Checkers of code: source text -> complaints -----------------------------------------------


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for such an expression; a call or a subscript in between gives what follows it."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{dotted(value)}.{attr}".lstrip(".")
        case _:
            return ""


FORBIDDEN_CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "compile": "makes code from text",
    "__import__": "hides an import from the import contracts",
    "os.system": "passes text to a shell",
    "os.popen": "passes text to a shell",
    "yaml.load": "builds arbitrary objects",
    "tempfile.mktemp": "names a file that somebody else can make first",
    "datetime.utcnow": "gives a naive time",
    "datetime.utcfromtimestamp": "gives a naive time",
    "datetime.datetime.utcnow": "gives a naive time",
    "datetime.datetime.utcfromtimestamp": "gives a naive time",
    "ssl._create_unverified_context": "verifies nothing",
    "numpy.load": "can unpickle",
    "np.load": "can unpickle",
}
FORBIDDEN_MODULES = {
    "pickle": "builds arbitrary objects",
    "marshal": "builds arbitrary objects",
    "shelve": "is pickle",
    "dill": "is pickle",
    "cloudpickle": "is pickle",
    "random": "is predictable; use os.urandom or secrets in a role",
}
FORBIDDEN_ARGUMENTS = {"shell": (True, "passes text to a shell"), "verify": (False, "switches TLS verification off")}
SECRET_NAME_RE = re.compile(r"(^|_)(token|mac|tag|secret|hmac|password)$", re.IGNORECASE)


def forbidden_constructs(source: str) -> Iterator[str]:
    """Python's own traps: what was never right in code that guards something."""
    for node in ast.walk(ast.parse(source)):
        where = f"line {getattr(node, 'lineno', 0)}: "
        match node:
            case ast.Assert():
                yield where + "assert vanishes under python -O"
            case ast.Import(names=names):
                for alias in names:
                    if (top := alias.name.split(".")[0]) in FORBIDDEN_MODULES:
                        yield f"{where}{top} {FORBIDDEN_MODULES[top]}"
            case ast.ImportFrom(module=str(module), level=0) if (top := module.split(".")[0]) in FORBIDDEN_MODULES:
                yield f"{where}{top} {FORBIDDEN_MODULES[top]}"
            case ast.ExceptHandler(type=None):
                yield where + "a bare except also catches the end of the process"
            case ast.Compare():
                yield from (where + complaint for complaint in secret_comparisons(node))
            case ast.Call():
                yield from (where + complaint for complaint in forbidden_calls(node))
            case _:
                pass


def forbidden_calls(node: ast.Call) -> Iterator[str]:
    name = dotted(node.func)
    if name in FORBIDDEN_CALLS:
        yield f"{name}() {FORBIDDEN_CALLS[name]}"
    if name in {"datetime.now", "datetime.datetime.now"} and not node.args and not node.keywords:
        yield f"{name}() gives a naive time"
    if name.endswith("fromtimestamp") and len(node.args) == 1 and not node.keywords:
        yield f"{name}() gives a naive time"
    for keyword in node.keywords:
        wrong, why = FORBIDDEN_ARGUMENTS.get(keyword.arg or "", (None, ""))
        if wrong is not None and isinstance(keyword.value, ast.Constant) and keyword.value.value is wrong:
            yield f"{keyword.arg}={wrong} {why}"


def secret_comparisons(node: ast.Compare) -> Iterator[str]:
    sides = [node.left, *node.comparators]
    harmless = any(isinstance(side, ast.Constant) and side.value is None for side in sides)
    if harmless or not any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops):
        return
    for side in sides:
        if SECRET_NAME_RE.search(name := dotted(side).rsplit(".", maxsplit=1)[-1]):
            yield f"{name} is compared with ==; use hmac.compare_digest"


def environment_reads(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and dotted(node) in {"os.environ", "os.environb", "os.getenv", "os.putenv"}:
            yield f"line {node.lineno}: {dotted(node)}"
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (
                f"line {node.lineno}: {a.name}" for a in node.names if "environ" in a.name or a.name == "getenv"
            )


def printing(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and dotted(node.func) in {"print", "input"}:
            yield f"line {node.lineno}: {dotted(node.func)}"


CLOCKS = {"now", "today", "utcnow", "monotonic", "monotonic_ns", "time_ns", "perf_counter", "urandom", "token_bytes"}


def outside_world(source: str) -> Iterator[str]:
    """Find what a pure room asks the world for: the time, randomness, a file by name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name == "open" or (name.rsplit(".", maxsplit=1)[-1] in CLOCKS and "." in name):
                yield f"line {node.lineno}: {name}()"


def missing_docstrings(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    if not ast.get_docstring(tree):
        yield "the module"
    waiting: list[ast.Module | ast.ClassDef] = [tree]
    while waiting:
        for node in waiting.pop().body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                overload = any(dotted(decorator) == "overload" for decorator in node.decorator_list)
                if not node.name.startswith("_") and not overload and not ast.get_docstring(node):
                    yield f"line {node.lineno}: {node.name}"
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    waiting.append(node)


def long_functions(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{node.name} ({lines} lines)"


def complaints(check: Callable[[str], Iterator[str]], under: str = "src/", skip: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{name}: {complaint}"
        for name, source in sources(under)
        if not name.startswith(skip or ("\0",))
        for complaint in check(source)
    ]


# --- The rules -----------------------------------------------------------------------------------


def test_there_is_something_to_check() -> None:
    """A wrong path would make every rule below pass."""
    assert {"src/aigovtool/errors.py", "src/aigovtool/crypto/sign.py"} <= {name for name, _ in sources()}
    assert {"LICENSE", "pyproject.toml", ".ci/run", "tests/test_house_rules.py"} <= {name for name, _ in texts()}


@pytest.mark.fault(26)
def test_python_traps_are_not_used() -> None:
    """No assert, pickle, eval, shell, unverified TLS, bare except, naive time or guessable randomness in src."""
    assert complaints(forbidden_constructs) == []


def test_only_the_command_line_reads_the_environment() -> None:
    """Configuration is a file and options; a variable could be set by whoever owns the host."""
    assert complaints(environment_reads, skip=("src/aigovtool/cli/", *ENVIRONMENT_READERS)) == []


def test_only_the_command_line_prints() -> None:
    """A library logs events; it does not talk."""
    assert complaints(printing, skip=("src/aigovtool/cli/",)) == []


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_pure_rooms_ask_nobody_for_time_or_randomness(room: str) -> None:
    """The time, nonces and streams are arguments, so that the simulator runs the very same code."""
    assert complaints(outside_world, f"src/aigovtool/{room}/") == []


def test_everything_public_has_a_docstring() -> None:
    """Every module says what it is for; every public class and function says what it does."""
    assert complaints(missing_docstrings) == []


def test_every_test_says_what_it_shows() -> None:
    """One sentence per test, about the rule or the attack."""
    found = [
        f"{name}: {node.name}"
        for name, source in sources("tests/")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert found == []


def test_files_are_not_long() -> None:
    """A file that grows past its one subject is split, or named above with a reason."""
    long = {name for name, source in sources() if len(source.splitlines()) > MAX_FILE_LINES}
    assert long == set(LONG_FILES)


def test_functions_are_not_long() -> None:
    """A function fits on a screen, or is named above with a reason."""
    found = {f"{name}::{item}" for name, source in sources() for item in long_functions(source)}
    assert {item.split(" ")[0] for item in found} == set(LONG_FUNCTIONS), sorted(found)


def test_names_of_modules_say_what_is_inside() -> None:
    """No drawer for everything."""
    vague = [name for name, _ in sources() if VAGUE_NAMES & set(re.split(r"[/_.]", name))]
    assert vague == []


def test_open_ends_carry_a_reason() -> None:
    """A reminder names its issue and says in words what is missing."""
    found = [
        f"{name}:{number}"
        for under in ("src/", "tests/", "scripts/", "bench/", "fuzz/", "image/")
        for name, source in sources(under)
        for number, line in enumerate(source.splitlines(), 1)
        if "#" in line and UNREASONED_TODO_RE.search(line.split("#", 1)[1])
    ]
    assert found == []


@pytest.mark.fault(4)
def test_private_keys_in_git_are_marked_as_test_keys() -> None:
    """A key that anybody can read protects nothing, and must say so where it stands."""
    found = [name for name, text in texts() if PRIVATE_KEY_RE.search(text) and "TEST-ONLY" not in text]
    assert found == []


def test_no_large_files_in_git() -> None:
    """A repository is for what people wrote; evidence and models have other homes."""
    large = {name_of(path) for path in tracked() if path.stat().st_size > MAX_BLOB_BYTES}
    assert large - set(LARGE_BLOBS) == set()


def test_no_file_names_a_registry_or_a_machine() -> None:
    """A clone works anywhere: where packages come from and where the clone lies is the reader's choice."""
    found = [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if REGISTRY_RE.search(line) or MACHINE_PATH_RE.search(line)
    ]
    assert found == []


def test_a_decision_has_the_number_of_its_file() -> None:
    """Decisions are cited by number, and the list of them shows their titles."""
    decisions = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert [f"# {path.name[:4]}. " for path in decisions] == [path.read_text()[:8] for path in decisions]
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))


def test_a_lock_names_versions_and_hashes_and_nothing_else() -> None:
    """No index, no link, no local path, no package without a hash: what is installed is exactly what was locked."""
    locks = [(name, text) for name, text in texts() if re.fullmatch(r"requirements/(?:peers/)?\w+\.txt", name)]
    assert {"requirements/dev.txt", "requirements/enclave.txt"} <= {name for name, _ in locks}
    for name, text in locks:
        logical = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
        for line in logical:
            assert re.fullmatch(
                r"[a-z0-9-]+(\[[a-z,]+\])?==[\w.+!]+( ; [^#]+?)?( +--hash=sha256:[0-9a-f]{64})+ *", line
            ), f"{name}: {line[:100]}"


def test_named_exceptions_still_exist() -> None:
    """An exception outlives its reason only until this test is run."""
    names = {name_of(path) for path in tracked()}
    for exceptions in (LONG_FILES, LONG_FUNCTIONS, LARGE_BLOBS, ENVIRONMENT_READERS):
        for item, reason in exceptions.items():
            assert item.split("::", maxsplit=1)[0] in names, item
            assert reason


# --- The checkers bite ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "assert x",
        "import pickle",
        "import xml, marshal",
        "from random import choice",
        "import random as r",
        "eval('1')",
        "exec(text)",
        "yaml.load(f)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "httpx.Client(verify=False)",
        "httpx.get(url, verify=False)",
        "tempfile.mktemp()",
        "try:\n    pass\nexcept:\n    pass",
        "datetime.now()",
        "datetime.datetime.now()",
        "datetime.utcnow()",
        "datetime.fromtimestamp(0)",
        "token == given",
        "request.token != given",
        "given == self.session_secret",
        "mac == expected",
        "auth_tag == other",
    ],
)
def test_a_trap_is_recognised(code: str) -> None:
    """Each forbidden construct is found."""
    assert list(forbidden_constructs(code))


@pytest.mark.parametrize(
    "code",
    [
        "from secrets import token_bytes",
        "re.compile('x')",
        "token is None",
        "token == None",
        "stage == 1",
        "percentage == 1",
        "datetime.now(UTC)",
        "datetime.fromtimestamp(0, UTC)",
        "Client(verify=context)",
        "run(['ls'], shell=False)",
        "session.evaluate()",
        "try:\n    pass\nexcept OSError:\n    pass",
    ],
)
def test_plain_code_is_left_alone(code: str) -> None:
    """A rule that cries wolf is switched off; these are not traps."""
    assert list(forbidden_constructs(code)) == []


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (environment_reads, "os.environ['A']", "os.path.join(a)"),
        (environment_reads, "os.getenv('A')", "environment['A']"),
        (environment_reads, "from os import environ", "from os import urandom"),
        (printing, "print(1)", "log.info('event')"),
        (printing, "input('name: ')", "stream.write('x')"),
        (outside_world, "time.monotonic()", "clock(now_ms)"),
        (outside_world, "datetime.now(UTC)", "datetime.fromtimestamp(0, UTC)"),
        (outside_world, "open('f')", "stream.read()"),
        (outside_world, "os.urandom(32)", "nonce.hex()"),
        (missing_docstrings, "def f(): ...", '"""M."""\ndef f():\n    """F."""'),
        (missing_docstrings, '"""M."""\nclass A:\n    """A."""\n    def f(self): ...', '"""M."""\ndef _f(): ...'),
        (long_functions, "def f():\n" + "    x\n" * 50, "def f():\n" + "    x\n" * 49),
    ],
)
def test_each_checker_bites(check: Callable[[str], Iterator[str]], bad: str, good: str) -> None:
    """Each checker finds what it is for, and only that."""
    assert list(check(bad))
    assert list(check(good)) == []


@pytest.mark.parametrize(
    ("pattern", "bad", "good"),
    [
        (
            PRIVATE_KEY_RE,
            "-----BEGIN PRIVATE" + " KEY-----\nMC4CAQAwBQYDK2VwBCIE",
            "-----BEGIN CERTIFICATE-----\nMC4CAQAwBQYDK2VwBCIE",
        ),
        (
            PRIVATE_KEY_RE,
            "-----BEGIN EC PRIVATE" + " KEY-----\\n'\n  b'MC4CAQAwBQYDK2VwBCIE",
            "-----BEGIN PRIVATE" + " KEY-----",
        ),
        (REGISTRY_RE, "https://py" + "pi.org/simple", "a package index"),
        (REGISTRY_RE, "files.python" + "hosted.org", "packages are hosted elsewhere"),
        (MACHINE_PATH_RE, "cd /ho" + "me/alice/x", "/var/lib/aigovtool"),
        (MACHINE_PATH_RE, "'/wo" + "rk/x'", "a/wo" + "rk/x"),
        (UNREASONED_TODO_RE, "TO" + "DO later", "TO" + "DO(#12): refuse empty windows"),
        (UNREASONED_TODO_RE, "FIX" + "ME", "fixed"),
    ],
)
def test_each_pattern_bites(pattern: re.Pattern[str], bad: str, good: str) -> None:
    """Each pattern finds what it is for, and only that."""
    assert pattern.search(bad)
    assert not pattern.search(good)
