"""The campaign that plays one parser, and what it says of its figures."""

from assurance.campaign import Bound, Campaign, Target, each_seed
from assurance.figures import Figures, of_seed
from assurance.parsers.parser import INPUTS, SHARED, Parser, grown_mib, peak_mib, play, replayed


def campaign_of(parser: Parser) -> Campaign:
    """Return the campaign that plays one parser."""

    def figures(seed: int) -> Figures:
        found = play(parser, seed)
        samples = {"slowest_s": [round(found.slowest_s, 4)], "peak_mib": [round(peak_mib(), 1)]}
        samples["grown_mib"] = [round(grown_mib(parser), 1)]
        return of_seed(seed, counts=dict(found.counts), samples=samples, violation=found.told())

    return Campaign(
        name=parser.name,
        claim=parser.claim,
        counts=f"inputs made of genuine ones, {INPUTS} a seed: {parser.counts}",
        target=Target(
            1_000_000,
            "inputs",
            (Bound("slowest_s", 100, 1.0, "s"), Bound("grown_mib", 100, parser.most_mib, "MiB more in a process")),
        ),
        shows_not=f"{parser.shows_not} The edits are ours, and not guided by which code they reach.",
        covers=(*parser.covers, *SHARED),
        run=each_seed(figures),
        replay=lambda seed: replayed(parser, seed),
        figure=figure,
        quick=60,
        batch=20,
    )


def figure(figures: Figures) -> str:
    """Say what was counted."""
    count = figures.count
    kinds = ", ".join(f"{number:,} {name[3:]}" for name, number in figures.counts.items() if name.startswith("of "))
    slowest, peak, grown = (max(figures.sample(name), default=0.0) for name in ("slowest_s", "peak_mib", "grown_mib"))
    return (
        f"{count('inputs'):,} inputs ({kinds}): {count('refused'):,} refused with a typed error, {count('accepted'):,} "
        f"accepted, as the independent reading has them. Slowest {slowest * 1000:.0f} ms, at most {peak:.0f} MiB in a "
        f"process, {grown:.0f} of them since its first input"
    )
