"""The published page of benchmarks says what was measured, and nothing else."""

from bench.plots import plots
from bench.report import PAGE_PATH, charts_published, page, published


def test_no_figure_of_the_page_was_written_by_hand() -> None:
    """The page is exactly what the published measurements make."""
    assert PAGE_PATH.read_text(encoding="utf-8") == page(published())


def test_the_charts_are_those_of_the_page() -> None:
    """Each is what the published measurements make, and there is none that they do not make."""
    assert charts_published() == plots(published().points)
