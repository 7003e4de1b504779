"""Genuine evidence to begin with: the vectors of the conformance suite, and the public ones where they are there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aigovtool.attestation.examination import Examined, StepOutcome
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.verifier import Verifier
from aigovtool.cli.evidence.verb import verifier_for
from aigovtool.errors import TooLargeError
from conformance import suite
from conformance.suite import Vector


@dataclass(frozen=True)
class Bundle:
    """Genuine evidence as its parts (data first, then endorsements), and who judges it as of when."""

    name: str
    tee: TeeType
    parts: tuple[bytes, ...]
    verifier: Verifier
    at_ms: int
    public: bool

    def judge(self, parts: Sequence[bytes]) -> Examined | None:
        """Return what the verifier finds in other parts; None if they are more than evidence can be."""
        if not parts or not parts[0]:
            return None
        try:
            evidence = Evidence(tee=self.tee, data=parts[0], endorsements=tuple(parts[1:]))
        except TooLargeError:
            return None
        return self.verifier.examine(evidence, self.at_ms)


@cache
def load_bundles() -> tuple[Bundle | None, ...]:
    """Return the genuine vectors in their order; None for a public one whose files are not here.

    What only a policy tells apart from another is left out: byte for byte it is the same in other values.
    """
    own = [_bundle(one, suite.VECTORS) for one in suite.self_made() if _chosen(one)]
    folder, manifest = suite.evidence_folder(), suite.read_public()
    if folder is not None and (wrong := suite.wrong_files(manifest, folder)):
        raise SystemExit(f"not the files of the manifest: {', '.join(wrong)}")
    chosen = [one for one in manifest.vectors if _chosen(one)]
    return (*own, *(None if folder is None else _bundle(one, folder) for one in chosen))


def _chosen(vector: Vector) -> bool:
    return vector.expected.genuine and vector.policy is None and not vector.name.startswith("time-")


def _bundle(vector: Vector, folder: Path) -> Bundle:
    data, endorsements = suite.parts(vector, folder)
    tee = TeeType(vector.tee)
    return Bundle(
        name=f"{vector.tee} {vector.name}",
        tee=tee,
        parts=(data, *endorsements),
        verifier=verifier_for(tee, [folder / root for root in vector.roots], vector.nonce),
        at_ms=vector.at_ms,
        public=folder != suite.VECTORS,
    )


def broken(examined: Examined) -> str | None:
    """Return what is wrong with how malformed evidence was received: only failed steps, and none of ours, may be."""
    failed = [step for step in examined.steps if step.outcome is StepOutcome.FAILED]
    if examined.verified is not None:
        return "accepted"
    if not failed:
        return "refused without a reason"
    return "internal" if any(step.reason == "internal" for step in failed) else None
