"""One process that searches: which inputs it keeps is decided by the code of the verifier that they reach.

Inputs are changed by the edits of `conformance.malformed`, which know the structures, and by the fuzzer's own.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["aigovtool.attestation"]):
    from conformance.malformed import structured
    from conformance.malformed.bundles import Bundle, broken, load_bundles
    from conformance.malformed.fuzz import well_formed

    from aigovtool.attestation.model import TeeType

from fuzz.frames import framed, unframed

_ROOT = Path(__file__).resolve().parent.parent
_OWN_SHARE = 0.7


class ReceivedWronglyError(Exception):
    """Malformed evidence was accepted, or made the verifier fail."""


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Return another input."""
    chance = Random(seed)  # noqa: S311 - an edit must be repeatable
    parts = list(unframed(data))
    if not parts or chance.random() > _OWN_SHARE:
        return bytes(atheris.Mutate(data, max_size))
    at = chance.randrange(len(parts))
    parts[at] = structured.edit(parts[at], chance)
    return framed(parts)[:max_size]


def judge(bundle: Bundle, data: bytes) -> None:
    """Have one input judged.

    Raises:
        ReceivedWronglyError: it was accepted, or a step failed for a reason of ours.
    """
    parts = unframed(data)
    examined = bundle.judge(parts)
    problem = None if examined is None else broken(examined)
    if problem is not None and not (problem == "accepted" and well_formed(bundle.tee, parts)):
        raise ReceivedWronglyError(problem)


def search(tee: str, options: Sequence[str]) -> None:
    """Search until the options say that it is enough; ends the process."""
    bundles = [one for one in load_bundles() if one is not None and one.tee is TeeType(tee)]
    own = [one for one in bundles if not one.public]  # all with one verifier and one time
    corpus = _ROOT / ".assurance" / "fuzz" / tee
    corpus.mkdir(parents=True, exist_ok=True)
    for bundle in own:
        (corpus / f"genuine-{bundle.name.split(' ')[1]}").write_bytes(framed(bundle.parts))
    judge(own[0], framed(own[0].parts))  # what is loaded for the first input is no input's fault
    prefix = f"-artifact_prefix={corpus.parent}/{tee}-"
    files = [one for one in options if not one.startswith("-")] or [str(corpus)]
    flags = [one for one in options if one.startswith("-")]
    arguments = [sys.argv[0], prefix, "-max_len=70000", "-timeout=2", "-rss_limit_mb=2048", *flags, *files]
    atheris.Setup(arguments, lambda data: judge(own[0], data), custom_mutator=mutate)
    atheris.Fuzz()
