"""Malformed evidence, very many kinds of it: none is accepted, none makes a verifier fail, none takes long."""

import json
import time
from base64 import b64decode
from binascii import Error
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random

from aigovtool.attestation.examination import Examined
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.errors import TooLargeError
from conformance.malformed import structured
from conformance.malformed.anew import Parts, signed_anew, verifier
from conformance.malformed.bundles import Bundle, broken, load_bundles

INPUTS = 100
_ANEW = 0.2


@dataclass
class Outcome:
    """What was counted with the inputs of one seed."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def rearranged(parts: list[bytes], chance: Random) -> list[bytes]:
    """Return the parts with one more, one less, in another order, or with one of another bundle's."""
    other = chance.choice([one for one in load_bundles() if one is not None])
    match chance.randrange(5):
        case 0:
            return [*parts, chance.choice(parts)]
        case 1:
            return [*parts, chance.choice(other.parts)]
        case 2:
            return parts[:-1] or [b"\0"]
        case 3:
            return chance.sample(parts, len(parts))
        case _:
            at = chance.randrange(len(parts))
            return [*parts[:at], chance.choice(other.parts), *parts[at + 1 :]]


def malformed(bundle: Bundle, chance: Random) -> Parts:
    """Return the parts of a bundle with one to three changes."""
    parts = list(bundle.parts)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if chance.random() < 0.1:
            parts = rearranged(parts, chance)
        else:
            at = chance.randrange(len(parts))
            parts[at] = structured.edit(parts[at], chance) or b"\0"
    return tuple(parts)


def pieces(part: bytes) -> Iterator[bytes]:
    """Yield what a part holds, whatever order and padding: certificates, the events of each register, the rest."""
    if part.startswith(b"-----BEGIN "):
        for block in part.split(b"-----BEGIN ")[1:]:
            try:
                yield b64decode(b"".join(block.split(b"\n")[1:-2]), validate=True)
            except (Error, ValueError):
                yield block
        return
    rest = part.rstrip(b"\0")
    if part.startswith(b"{"):
        try:
            document = json.loads(part)
        except ValueError:
            document = {}
        events = document.get("events", document) if isinstance(document, dict) else {}
        if isinstance(events, dict) and isinstance(events.get("registers"), list):
            yield from (json.dumps(one).encode() for one in events.pop("registers"))
            rest = json.dumps(document).encode()
    yield rest


@cache
def _known(tee: TeeType) -> frozenset[bytes]:
    """Return the digests of everything that genuine bundles of one kind hold."""
    bundles = [one for one in load_bundles() if one is not None and one.tee is tee]
    return frozenset(sha256(one).digest() for bundle in bundles for part in bundle.parts for one in pieces(part))


def well_formed(tee: TeeType, parts: Parts) -> bool:
    """Return whether everything in it is as it was in genuine bundles: put together anew, it is not malformed."""
    return all(sha256(one).digest() in _known(tee) for part in parts for one in pieces(part))


def _inputs(chance: Random) -> Iterator[tuple[Bundle, Parts, bool]]:
    bundles = load_bundles()
    for _ in range(INPUTS):
        bundle = chance.choice(bundles)
        anew = chance.random() < _ANEW
        own = Random(chance.getrandbits(64))  # so that what one input draws changes no other
        if bundle is not None:
            yield bundle, signed_anew(bundle.tee, own) if anew else malformed(bundle, own), anew


def _judged(bundle: Bundle, parts: Parts, *, anew: bool) -> Examined | None:
    if not anew:
        return bundle.judge(parts)
    who, at_ms = verifier(bundle.tee)
    try:
        return who.examine(Evidence(tee=bundle.tee, data=parts[0], endorsements=parts[1:]), at_ms)
    except TooLargeError:
        return None


def play(seed: int) -> Outcome:
    """Make the inputs of a seed and have each judged."""
    found = Outcome()
    for tee in {bundle.tee for bundle in load_bundles() if bundle is not None}:
        verifier(tee)  # making keys and loading libraries is not what is measured
    _began_mib()
    for bundle, parts, anew in _inputs(Random(seed)):
        if parts == bundle.parts:
            continue
        since = time.perf_counter()
        try:
            examined = _judged(bundle, parts, anew=anew)
            problem = None if examined is None else broken(examined)
        except Exception as error:  # noqa: BLE001 - that none comes is what is claimed
            problem = f"raised {type(error).__name__}"
        found.slowest_s = max(found.slowest_s, time.perf_counter() - since)
        _count(found, bundle, parts, problem, anew=anew)
    return found


def _count(found: Outcome, bundle: Bundle, parts: Parts, problem: str | None, *, anew: bool) -> None:
    if problem == "accepted" and (anew or well_formed(bundle.tee, parts)):
        found.counts["signed anew and genuine" if anew else "put together anew and genuine"] += 1
        return
    found.counts["inputs"] += 1
    found.counts[f"of {bundle.tee.value}"] += 1
    found.counts["signed anew"] += anew
    found.counts["refused"] += problem is None
    if problem is not None:
        digest = sha256(b"".join(parts)).hexdigest()[:16]
        found.wrong.append(f"{problem}: {'signed anew, ' if anew else ''}{bundle.name}, {digest}")


@cache
def _began_mib() -> float:
    """Return the memory of this process when it had judged nothing."""
    return peak_mib()


def grown_mib() -> float:
    """Return by how much the most memory has grown since then."""
    return peak_mib() - _began_mib()


def peak_mib() -> float:
    """Return the most memory that this process has had, in MiB.

    From the kernel's account of its memory: that of its resource usage would begin with what its parent had.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
