"""Evidence: no single changed byte of it is believed."""

from conformance.malformed.bundles import load_bundles
from conformance.malformed.mutations import of_seed, play

from assurance.campaign import Campaign, Target, each_seed
from assurance.figures import Figures
from assurance.figures import of_seed as figures_of_seed

COVERS = (
    "src/aigovtool/attestation",
    "src/aigovtool/codec.py",
    "src/aigovtool/errors.py",
    "src/aigovtool/ids.py",
    "src/aigovtool/cli/evidence",
    "conformance/suite.py",
    "conformance/public.json",
    "conformance/vectors",
    "conformance/malformed",
)


def _figures(seed: int) -> Figures:
    counts, wrong = play(of_seed(load_bundles(), seed))
    return figures_of_seed(seed, counts=dict(counts), violation="; ".join(wrong[:5]) or None)


def _replayed(seed: int) -> str:
    counts, wrong = play(of_seed(load_bundles(), seed))
    words = [change.words() for change in of_seed(load_bundles(), seed)]
    return "\n".join([*words, *wrong, f"{dict(counts)}"])


def figure(figures: Figures) -> str:
    """Say what was counted."""
    count = figures.count
    public = count("of public evidence")
    return (
        f"{count('changes'):,} changed bytes of {len(load_bundles())} genuine bundles, {public:,} of them of evidence "
        f"of real machines: {count('refused'):,} refused by a step of verification"
    )


CAMPAIGN = Campaign(
    name="evidence-mutations",
    claim="No single changed byte of genuine evidence is believed, and none makes a verifier fail.",
    counts="bytes of report, quote or document and of all endorsements that were changed, one at a time: in the first "
    "round each of them once, in 255 rounds each to every other value. Self-made bundles of all five kinds of TEEs, "
    "and the public ones of real machines where their files are there.",
    target=Target(1_000_000, "changes"),
    shows_not="what several changes at once do, and what changes do that are signed again: `evidence-fuzz`.",
    covers=(*COVERS, "assurance/campaigns/evidence_mutations.py"),
    run=each_seed(_figures),
    replay=_replayed,
    figure=figure,
    quick=150,
    batch=20,
)
