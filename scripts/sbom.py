#!/usr/bin/env python3
"""Write the list of parts (CycloneDX 1.6) of what a user installs: `python scripts/sbom.py [EXTRA]`, by default `all`.

The parts are those that the lock names and that the extra needs, directly or not; versions and hashes are the lock's,
what needs what is read from the installed packages. Nothing is fetched, and the same commit gives the same list.
"""

import json
import re
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parent.parent
_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\;]+)")
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def locked(lock: Path) -> dict[tuple[str, str], list[str]]:
    """Return the hashes of each name and version in a lock; there may be two versions of one, for different Pythons."""
    found: dict[tuple[str, str], list[str]] = {}
    hashes: list[str] = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        if pinned := _PINNED.match(line):
            hashes = found.setdefault((canonicalize_name(pinned[1]), pinned[2]), [])
        hashes.extend(_HASH.findall(line))
    return found


def needed(name: str, extras: frozenset[str]) -> dict[str, set[str]]:
    """Return what a package needs, and what those need, by name."""
    needs: dict[str, set[str]] = {}
    waiting = [(canonicalize_name(name), extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        own = needs.setdefault(one[0], set())
        for text in distribution(one[0]).requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in (*one[1], "")
            ):
                other = canonicalize_name(requirement.name)
                waiting.append((other, frozenset(requirement.extras)))
                if other != one[0]:
                    own.add(other)
    return needs


def bill(extra: str) -> dict[str, object]:
    """Return the document."""
    lock, needs = locked(ROOT / "requirements" / "dev.txt"), needed("aigovtool", frozenset({extra}))
    versions = {name: distribution(name).version for name in needs}
    reference = {name: f"pkg:pypi/{name}@{version}" for name, version in versions.items()}
    parts = sorted(needs.keys() - {"aigovtool"})
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": reference["aigovtool"],
                "name": "aigovtool",
                "version": versions["aigovtool"],
                "purl": reference["aigovtool"],
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        "components": [
            {
                "type": "library",
                "bom-ref": reference[name],
                "name": name,
                "version": versions[name],
                "purl": reference[name],
                "hashes": [{"alg": "SHA-256", "content": digest} for digest in lock[name, versions[name]]],
            }
            for name in parts
        ],
        "dependencies": [
            {
                "ref": reference[name],
                "dependsOn": [reference[other] for other in sorted(needs[name])],
            }
            for name in sorted(needs)
        ],
    }


if __name__ == "__main__":
    json.dump(bill(sys.argv[1] if len(sys.argv) > 1 else "all"), sys.stdout, indent=1)
    sys.stdout.write("\n")
