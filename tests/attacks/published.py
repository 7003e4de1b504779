"""What is published, built from clones of this repository, and what may not be in it."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
_BUILD: Final = "from flit_core import buildapi; buildapi.build_wheel('dist'); buildapi.build_sdist('dist')"

#: What looks like a secret, by its kind. Written in pieces, so that this file has none.
PATTERNS: Final[Mapping[str, re.Pattern[bytes]]] = {
    "private key": re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE" + rb" KEY-----(\s|\\n|b?[\"'])*[A-Za-z0-9+/]{16}"),
    "key of a party": re.compile(rb'"(enrolment_' + rb'key|key)": ?"[A-Za-z0-9+/]{43}="'),
    "password": re.compile(
        rb"(?i)\b[a-z_]*(pass" + rb"word|passwd|secret|token|api_?key)[\"']?\s*[:=]\s*[\"'][^\"'\s<>{}$]{8,}[\"']"
    ),
    "token": re.compile(
        rb"\b(AK" + rb"IA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|xox[abprs]-[0-9A-Za-z-]{10,}|glpat-[\w-]{20}"
        rb"|eyJ[\w-]{16,}\.eyJ[\w-]{16,}\.)"
    ),
}
#: How captured traffic begins (pcap in both orders, with both resolutions, and pcapng).
_CAPTURED: Final = tuple(bytes.fromhex(one) for one in ("d4c3b2a1", "a1b2c3d4", "4d3cb2a1", "a1b23c4d", "0a0d0d0a"))
_NAMES: Final = re.compile(r"\.(key|p12|pfx|jks|keytab|pcap|pcapng|env|kdbx)$|(^|/)id_(rsa|ed25519|ecdsa)$")
#: Words that tests look for, and a challenge of zeros.
_HARMLESS: Final = re.compile(rb"[\"'](prompt-[0-9a-f]+|A{20,}=*)[\"']")


def secrets_in(name: str, data: bytes) -> set[str]:
    """Return the kinds of secrets that a file seems to hold; a TEST-ONLY key that says so is none."""
    found = {
        kind
        for kind, pattern in PATTERNS.items()
        for match in pattern.finditer(data)
        if not _HARMLESS.search(match[0]) and not (kind == "private key" and b"TEST-ONLY" in data)
    }
    if data.startswith(_CAPTURED):
        found.add("captured traffic")
    if _NAMES.search(name):
        found.add("name of a secret file")
    return found


def git(*words: str, at: Path = ROOT, given: bytes | None = None) -> bytes:
    """Run git."""
    return subprocess.run(["git", *words], cwd=at, input=given, capture_output=True, check=True).stdout


def history() -> Iterator[tuple[str, bytes]]:
    """Yield every content that a file ever had, in all branches and tags that are here, with one of its names."""
    listed = [line.partition(" ") for line in git("rev-list", "--objects", "--all").decode().splitlines()]
    named = {identifier: name for identifier, _, name in listed if name}
    out, position = git("cat-file", "--batch", given="\n".join(named).encode()), 0
    while position < len(out):
        end = out.index(b"\n", position)
        identifier, kind, size = out[position:end].split()
        content = out[end + 1 : end + 1 + int(size)]
        position = end + 2 + int(size)
        if kind == b"blob":
            yield named[identifier.decode()], content


def build(clone: Path, *, umask: int = 0o022) -> Path:
    """Clone the newest commit and build from it; return where the results are."""
    git("clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(clone))
    (clone / "dist").mkdir()
    epoch = git("log", "-1", "--format=%ct").decode().strip()
    subprocess.run(
        [sys.executable, "-c", _BUILD],
        cwd=clone,
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
        umask=umask,
        check=True,
        capture_output=True,
    )
    return clone / "dist"


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files in a wheel or a source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                yield name, wheel.read(name)
        return
    with tarfile.open(archive) as source:
        for member in source.getmembers():
            file = source.extractfile(member)
            if file is not None:
                yield member.name, file.read()
