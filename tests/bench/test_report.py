"""The published page of benchmarks says what was measured, and nothing else."""

from bench.report import PAGE_PATH, page, published


def test_no_figure_of_the_page_was_written_by_hand() -> None:
    """The page is exactly what the published measurements make."""
    assert PAGE_PATH.read_text(encoding="utf-8") == page(published())
