"""Loading a sealed model is measured beside loading it alone: as the product does it, each in a fresh process."""

import pytest
from bench.graphs import tiny
from bench.loading import KINDS, Kind, Load, Loading, measure, prepared


def load(seconds: float, peak_bytes: int) -> Load:
    """Return a load."""
    return Load(seconds=seconds, copied_s=0, started_s=0, peak_bytes=peak_bytes, held_bytes=0)


def test_times_and_peaks_of_the_middle_are_compared() -> None:
    """Neither the luckiest load nor the unluckiest counts; memory is told in sizes of the model."""
    found = Loading(
        model="m",
        files=1,
        size_bytes=100,
        ours=(load(2, 150), load(9, 400), load(1, 10)),
        alone=(load(4, 110), load(3, 100), load(90, 900)),
    )
    assert found.ratio() == 0.5
    assert found.above() == pytest.approx(0.4)


def test_the_enclave_and_the_model_alone_are_measured_in_turns() -> None:
    """Every load has taken time; only what has an engine child was started, and only the other was copied."""
    found = measure(Kind(model="mlp", beside=False, rounds=2))
    assert (found.files, len(found.ours), len(found.alone)) == (1, 2, 2)
    assert all(one.seconds > 0 and one.started_s > 0 and one.copied_s == 0 for one in found.ours)
    assert all(one.seconds > one.copied_s > 0 and one.started_s == 0 for one in found.alone)
    # A mebibyte is written over at the most, and this model has a few kilobytes.
    assert all(0 <= one.held_bytes <= one.peak_bytes for one in found.ours)


def test_a_model_that_is_loaded_leaves_nothing_behind() -> None:
    """Its files and copies are gone with it."""
    with prepared(tiny(), beside=False) as order:
        assert order.sealed is not None
        folder = order.folder
    with pytest.raises(FileNotFoundError):
        open(folder, encoding="ascii").close()  # noqa: PTH123


def test_a_large_model_has_its_weights_beside_it() -> None:
    """One model is packed as one file, and one as the product packs what protobuf cannot hold."""
    assert {kind.beside for kind in KINDS} == {False, True}
