"""Evidence: malformed evidence of every kind is refused, quickly, and by a step."""

from conformance.malformed.fuzz import INPUTS, grown_mib, peak_mib, play

from assurance.campaign import Bound, Campaign, Target, each_seed
from assurance.campaigns.evidence_mutations import COVERS
from assurance.figures import Figures, of_seed

_TEES = ("sev-snp", "tdx", "sgx", "nitro", "tpm")


def _figures(seed: int) -> Figures:
    found = play(seed)
    samples = {"slowest_s": [round(found.slowest_s, 4)], "peak_mib": [round(peak_mib(), 1)]}
    samples["grown_mib"] = [round(grown_mib(), 1)]
    violation = "; ".join(found.wrong[:5]) or None
    return of_seed(seed, counts=dict(found.counts), samples=samples, violation=violation)


def _replayed(seed: int) -> str:
    found = play(seed)
    return "\n".join([*found.wrong, f"{dict(found.counts)}", f"slowest {found.slowest_s:.4f} s"])


def figure(figures: Figures) -> str:
    """Say what was counted."""
    count = figures.count
    kinds = ", ".join(f"{count(f'of {tee}'):,} {tee}" for tee in _TEES)
    slowest, peak, grown = (max(figures.sample(name), default=0.0) for name in ("slowest_s", "peak_mib", "grown_mib"))
    again = count("signed anew and genuine") + count("put together anew and genuine")
    return (
        f"{count('inputs'):,} malformed inputs ({kinds}; {count('signed anew'):,} of them signed anew): "
        f"{count('refused'):,} refused by a step of verification. Slowest {slowest * 1000:.0f} ms, at most {peak:.0f} "
        f"MiB in a process, {grown:.0f} of them since its first input. Beside them {again:,} that turned out to be "
        f"well-formed and genuine, and do not count"
    )


CAMPAIGN = Campaign(
    name="evidence-fuzz",
    claim="No malformed evidence is accepted, makes a verifier fail, or takes it a second.",
    counts=f"inputs made of genuine bundles, {INPUTS} a seed: fields swapped, lengths that lie, structures cut, nested "
    "or doubled, elements of DER, CBOR, JSON and PEM changed with everything around them written anew, parts of other "
    "bundles; and a fifth of them signed again with the right keys, so that they reach what reads signed contents. An "
    "input that is accepted counts as malformed unless all that it holds is, piece by piece, as in genuine bundles, or "
    "unless it was signed again: whoever has the keys can say anything.",
    target=Target(
        1_000_000, "inputs", (Bound("slowest_s", 100, 1.0, "s"), Bound("grown_mib", 100, 64, "MiB more in a process"))
    ),
    shows_not="that signed contents are refused where they should be: the conformance suite shows that, vector by "
    "vector. The edits are ours, and not guided by which code they reach: `make fuzz` is.",
    covers=(
        *COVERS,
        "tests/attestation/authority.py",
        "tests/attestation/tee/snp/maker.py",
        "tests/attestation/tee/intel/maker.py",
        "tests/attestation/tee/nitro/maker.py",
        "tests/attestation/tee/tpm/maker.py",
        "assurance/campaigns/evidence_fuzz.py",
    ),
    run=each_seed(_figures),
    replay=_replayed,
    figure=figure,
    quick=60,
    batch=10,
)
