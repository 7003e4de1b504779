"""What the product is made of, how it is built, and what its guides and scripts do to a machine."""

import json
import re
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final

import pytest
from tests.attacks.published import ROOT, build, git
from tests.observations import Observed

#: Parts that read bytes of others, and what for. A new one needs a line here, and is looked at before.
READERS: Final = {
    "cryptography": "certificates, keys, AEAD, HPKE (OpenSSL)",
    "msgspec": "JSON and MessagePack",
    "httptools": "HTTP/1.1, behind a stricter reader of our own",
    "h11": "HTTP/1.1, answers to our own clients",
    "onnxruntime": "models, after our own reader, in a sandboxed child",
    "protobuf": "comes with onnxruntime; nothing of ours calls it",
    "flatbuffers": "comes with onnxruntime; nothing of ours calls it",
    "dcap-qvl": "Intel's quotes and collateral",
    "psycopg": "PostgreSQL's protocol",
    "psycopg-binary": "PostgreSQL's protocol (libpq)",
    "numpy": "arrays; never its own file format with pickles",
    "pillow": "a consumer's own pictures, of four formats that are named to it",
}
#: Parts that read only what we or the user wrote, or nothing.
OTHERS: Final = {
    *("anyio", "certifi", "cffi", "click", "httpcore", "httpx", "idna", "jinja2", "markdown-it-py", "markupsafe"),
    *("mdurl", "packaging", "pycparser", "pygments", "rich", "sqlalchemy", "starlette", "typing-extensions"),
    *("uvicorn", "uvloop"),
}
#: What the predecessor was built on, and nobody maintains, or is for development.
ABANDONED: Final = {"flask", "werkzeug", "rouille", "tiny-http", "serde-cbor", "rapidjson", "python-rapidjson", "torch"}
#: Lines that name such a program, and download nothing with it.
LOOKED_AT: Final = {
    "command -v curl >/dev/null || missing+=(curl)": "one of the clients that tests run against the gateway",
    '_shown(console, here, f"curl -s {url}/v2/models/risk/infer -d @patient.json")': "asks the gateway on this machine",
}
#: Below these there are published faults.
AT_LEAST: Final = {"h11": (0, 16), "cryptography": (44, 0), "onnxruntime": (1, 20), "jinja2": (3, 1, 6)}


def bill(extra: str) -> dict[str, Any]:
    """Return the list of parts."""
    words = [sys.executable, str(ROOT / "scripts" / "sbom.py"), extra]
    found: dict[str, Any] = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return found


def scripts() -> dict[str, str]:
    """Return everything that is run to set up, build or test: scripts, the Makefile, and what CI does."""
    names = git("ls-files", "scripts", ".ci", ".github", ".gitlab-ci.yml", "Makefile").decode().split()
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names}


@pytest.mark.fault(42, 47)
def test_each_part_is_known_and_none_is_abandoned(observed: Observed) -> None:
    """Those that read foreign bytes are named with what for; a new part fails here until somebody has looked."""
    parts = {one["name"]: one["version"] for one in bill("all")["components"]}
    assert parts.keys() == READERS.keys() | OTHERS
    assert parts.keys() & ABANDONED == set()
    versions = {name: tuple(int(one) for one in parts[name].split(".")[:3]) for name in AT_LEAST}
    assert {name: version for name, version in versions.items() if version < AT_LEAST[name]} == {}
    observed.figure("parts", len(parts))


@pytest.mark.fault(48)
def test_the_list_of_parts_is_what_is_installed() -> None:
    """Names and versions of the lock of an enclave, with hashes; and every part that another needs is in it."""
    found = bill("enclave")
    lock = (ROOT / "requirements" / "enclave.txt").read_text(encoding="utf-8")
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert {one["name"] for one in found["components"]} == set(re.findall(r"(?m)^([a-z0-9-]+)==", lock))
    for one in found["components"]:
        assert one["version"] == distribution(one["name"]).version
        assert one["hashes"]
        assert all(digest["content"] in lock for digest in one["hashes"])
    known = {one["bom-ref"] for one in found["components"]} | {found["metadata"]["component"]["bom-ref"]}
    for one in found["dependencies"]:
        assert {one["ref"], *one["dependsOn"]} <= known


@pytest.mark.fault(48)
def test_there_is_a_security_policy_and_refusals_are_tested(observed: Observed) -> None:
    """Where to report, until when to expect what, which versions; a check-list for releases; tests that refuse."""
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert all(word in policy for word in ("## Reporting", "90 days", "## Supported versions", "## Safe harbour"))
    steps = (ROOT / "docs" / "release.md").read_text(encoding="utf-8")
    assert all(word in steps for word in ("pip-audit", "git tag -s", "SHA256SUMS", "make sbom", "make build"))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    marks = len(re.findall(r"pytest\.mark\.(?:attack|fault)\(", tests))
    refusals = len(re.findall(r"pytest\.raises\(", tests))
    assert marks > 20
    assert refusals > 500
    observed.figure("places in the tests that demand a refusal", refusals)


@pytest.mark.fault(45)
def test_two_builds_are_equal(tmp_path: Path, observed: Observed) -> None:
    """From two clones in different places, made by users with different masks."""
    first, second = build(tmp_path / "a"), build(tmp_path / "another place", umask=0o077)
    digests = [{one.name: sha256(one.read_bytes()).hexdigest() for one in place.iterdir()} for place in (first, second)]
    assert digests[0] == digests[1]
    assert {Path(name).suffix for name in digests[0]} == {".whl", ".gz"}
    observed.figure("archives that were equal", len(digests[0]))


@pytest.mark.fault(46)
def test_nothing_runs_what_it_downloads() -> None:
    """No pipe from the network into a shell, no key of a repository, no installation without hashes, no privileges."""
    found = scripts()
    assert {"Makefile", ".ci/run", "scripts/bootstrap.sh", "scripts/lock.sh"} <= found.keys()
    assert [line for line in LOOKED_AT if not any(line in text for text in found.values())] == []
    assert {name: complaints for name, text in found.items() if (complaints := unsafe(text))} == {}


def unsafe(text: str) -> list[str]:
    """Return what a script may not do."""
    joined = re.sub(r"\\\n\s*", " ", text)
    wrong = []
    for line in joined.splitlines():
        code = line.split("#", 1)[0] if line.lstrip().startswith("#") else line
        if code.strip() not in LOOKED_AT and re.search(
            r"\b(curl|wget|fetch|gdown|apt-key|add-apt-repository|privileged|nightly)\b|\|\s*(ba|z)?sh\b", code
        ):
            wrong.append(code.strip())
        if re.search(r"\bpip\b.*\binstall\b", code) and not re.search(
            r"--require-hashes|--no-index|fail |printf", code
        ):
            wrong.append(code.strip())
        if re.search(r"uses:\s*\S+@(?![0-9a-f]{40}\b)|runs-on:.*self-hosted", code):
            wrong.append(code.strip())
    return wrong


@pytest.mark.parametrize(
    "line",
    [
        "curl https://sh.example | sh",
        "wget -qO- https://x.example/key | sudo apt-key add -",
        "cat x | bash",
        "pip install earthly",
        "  - uses: actions/checkout@v4",
        "docker run --privileged x",
    ],
)
def test_what_may_not_be_is_found(line: str) -> None:
    """As the predecessor's build had it."""
    assert unsafe(line)


#: What takes something away from a machine, or makes it older.
_WORSENS: Final = re.compile(
    r"\b(apt|apt-get|dnf|yum|zypper)\b.*\b(remove|purge|autoremove|downgrade|--allow-downgrades)\b"
    r"|\bdpkg (-r|-P|--purge)|\brpm -e\b|\bdowngrade|linux-(image|headers)-\d"
    r"|\bmitigations=off|\bnospectre|\bsetenforce 0|\bufw disable"
    r"|apt-mark hold|\bpip install\b.*==\s*0\.|--no-check-certificate|\bchmod 777"
)


@pytest.mark.fault(44)
def test_no_guide_or_script_makes_a_machine_older_or_weaker(observed: Observed) -> None:
    """Nothing is removed, downgraded, held back or switched off: in all documents, scripts and the Makefile."""
    names = git("ls-files", "*.md", "scripts", ".ci", "Makefile").decode().split()
    lines = [(name, line) for name in names for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    assert [(name, line) for name, line in lines if _WORSENS.search(line)] == []
    assert _WORSENS.search("sudo apt remove linux-image-5.15.0-azure")
    assert _WORSENS.search("apt-get install --allow-downgrades linux-image-5.4")
    observed.figure("lines of guides and scripts", len(lines))
