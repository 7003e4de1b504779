"""The ONNX project's own tests of a backend, through a whole deployment: what ONNX Runtime alone gives is answered."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from assurance.campaign import Campaign, Target
from assurance.figures import Figures, of_seed
from assurance.nodes.bare import Bare, Came, run_bare
from assurance.nodes.cases import CASES, Case, batch
from assurance.nodes.comparison import NO_LOCALE, NOT_TAKEN, Judgement, judge
from assurance.nodes.lending import Backend, backend
from assurance.table import Table

_IN_BOTH: Final = ("passes in both", "fails in both", "not loaded in both", "not run in both")
_NOT_TAKEN: Final = "not taken: "
#: Of those that are not taken, those to which ONNX Runtime alone gives an answer.
_ALONE: Final = "answered alone: "
_LOCALE: Final = "a locale of the system, which an engine in its sandbox cannot open"

Judged = tuple[Case, Bare, Judgement]


def judged(lender: Backend, tests: Sequence[Case]) -> list[Judged]:
    """Have tests answered by ONNX Runtime alone and by an enclave, and compare."""
    alone = [(case, run_bare(case)) for case in tests]
    told = lender.answers_to(alone)
    return [(case, bare, judge(case, bare, one)) for (case, bare), one in zip(alone, told, strict=True)]


def counted(seed: int, results: Sequence[Judged]) -> Figures:
    """Return the figures of a batch; its violation names each test that differs."""
    counts = Counter(judgement.counted for _, _, judgement in results)
    counts["tests"] = len(results)
    for _, bare, judgement in results:
        if bare.came is Came.ANSWERED and judgement.counted.startswith(_NOT_TAKEN):
            counts[_ALONE + judgement.counted.removeprefix(_NOT_TAKEN)] += 1
    wrong = [f"{case.name}: {judgement.wrong}" for case, _, judgement in results if judgement.wrong]
    return of_seed(seed, counts=dict(counts), violation="; ".join(wrong) or None)


def live(seeds: list[int], deadline: float) -> Iterator[Figures]:
    """Play one batch after another with one custodian, each with an enclave of its own."""
    with tempfile.TemporaryDirectory(prefix="aigovtool-nodes-") as folder, backend(Path(folder)) as lender:
        for seed in seeds:
            if time.monotonic() >= deadline:
                return
            yield counted(seed, judged(lender, batch(seed)))


def _replay(seed: int) -> str:
    with tempfile.TemporaryDirectory(prefix="aigovtool-nodes-") as folder, backend(Path(folder)) as lender:
        results = judged(lender, batch(seed))
    return "\n".join(f"{case.name}: {one.counted}{f': {one.wrong}' if one.wrong else ''}" for case, _, one in results)


def _reasons(figures: Figures) -> list[str]:
    """Return the refusals by which tests were not taken, those of most tests first."""
    found = [name.removeprefix(_NOT_TAKEN) for name in figures.counts if name.startswith(_NOT_TAKEN)]
    return sorted(found, key=lambda reason: (-figures.count(_NOT_TAKEN + reason), reason))


def _figure(figures: Figures) -> str:
    both = ", ".join(f"{figures.count(name):,} {name.removesuffix(' in both')}" for name in _IN_BOTH)
    reasons = _reasons(figures)
    taken_not = ", ".join(f"{figures.count(_NOT_TAKEN + reason):,} `{reason}`" for reason in reasons)
    total = sum(figures.count(_NOT_TAKEN + reason) for reason in reasons)
    return (
        f"{figures.count('tests'):,} tests: the same in both, bit for bit, {both}; not taken by design {total:,}"
        f"{f' ({taken_not})' if reasons else ''}; {len(figures.violations)} violations"
    )


def _table(figures: Figures) -> Table:
    rows = [
        [
            f"`{reason}`",
            _LOCALE if reason == NO_LOCALE else NOT_TAKEN[reason],
            f"{figures.count(_NOT_TAKEN + reason):,}",
            f"{figures.count(_ALONE + reason):,}",
        ]
        for reason in _reasons(figures)
    ]
    return Table(head=["Not taken", "What the model has", "Tests", "Answered by ONNX Runtime alone"], rows=rows)


CAMPAIGN = Campaign(
    name="node-tests",
    claim="What a model gives in an enclave is what ONNX Runtime gives with it, bit for bit.",
    counts="the ONNX project's own tests of a backend: each operator in all its forms, exports of layers by PyTorch, "
    "whole networks. Each model is run by ONNX Runtime alone, as anybody would; and it is sealed, lent with some fifty "
    "others to one enclave's process, and asked for once by the consumer's SDK over TLS. The answer has the same "
    "names, datatypes, shapes and bits, and so passes the test or not as the other does; what ONNX Runtime cannot load "
    "or run is refused by a typed error; what the product does not take, by one of the reasons in the table and by no "
    "other. Each answer is charged one unit, and a refusal none.",
    target=Target(CASES, "tests"),
    shows_not="that ONNX Runtime computes rightly: where it fails a test, an enclave does. Each model is asked for "
    "once, so not what happens under load; ONNX Runtime alone has one thread here, and both run on this processor. "
    "Denormal numbers, which an engine flushes to zero, are in no test that is passed.",
    covers=(
        "src/aigovtool",
        "tests/attacks/deployments.py",
        "tests/e2e/model.py",
        "tests/e2e/orders.py",
        "tests/e2e/party_files.py",
        "tests/e2e/world.py",
        "tests/product_process.py",
        "assurance/nodes",
        "assurance/campaigns/nodes.py",
    ),
    run=live,
    replay=_replay,
    figure=_figure,
    table=_table,
    quick=1,
    batch=6,
    steady=False,
    alone=True,
)
