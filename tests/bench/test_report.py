"""The published page of benchmarks says what was measured, and nothing else."""

import msgspec
from bench.data_plane import OURS
from bench.data_plane_page import points_part
from bench.pieces import WIDE, WIDE_PROGRAM
from bench.plots import plots
from bench.report import PAGE_PATH, charts_published, page, published


def test_no_figure_of_the_page_was_written_by_hand() -> None:
    """The page is exactly what the published measurements make."""
    assert PAGE_PATH.read_text(encoding="utf-8") == page(published())


def test_the_charts_are_those_of_the_page() -> None:
    """Each is what the published measurements make, and there is none that they do not make."""
    assert charts_published() == plots(published().points)


def test_what_an_enclave_with_more_threads_is_said_to_be_is_what_is_asked() -> None:
    """Where it was measured, and nowhere else."""
    assert WIDE_PROGRAM.count("threads_per_run=2") == 1
    points = [one for one in published().points if one.server != WIDE]
    wide = [msgspec.structs.replace(one, server=WIDE) for one in points if one.server == OURS]
    told = "the same with `--threads-per-run 2`"
    assert told not in points_part(points)
    assert told in points_part([*points, *wide])
