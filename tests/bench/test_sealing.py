"""Sealing is measured beside what bounds it."""

from bench.graphs import tiny
from bench.sealing import Sealing, measure


def test_sealing_is_compared_with_the_slower_of_disk_and_cipher() -> None:
    """A fast cipher on a slow disk asks no more of the sealer than the disk can take, and the other way round."""
    slow_disk = Sealing(model="m", size_bytes=1, sealed_per_s=50, written_per_s=100, encrypted_per_s=1_000)
    slow_cipher = Sealing(model="m", size_bytes=1, sealed_per_s=50, written_per_s=1_000, encrypted_per_s=200)
    assert (slow_disk.share(), slow_cipher.share()) == (0.5, 0.25)


def test_each_is_measured_in_a_process_of_its_own() -> None:
    """All three have moved as many bytes as the model has, and taken time for it."""
    found = measure(tiny(), rounds=1)
    assert found.size_bytes > 8_000
    assert min(found.sealed_per_s, found.written_per_s, found.encrypted_per_s) > 0
