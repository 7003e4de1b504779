"""Set up what every test shares: reproducible property tests."""

from hypothesis import HealthCheck, settings

# Derandomized: the same commit tries the same examples everywhere. `--hypothesis-profile=deep` is for a long search.
settings.register_profile("default", derandomize=True, max_examples=100, deadline=None, database=None, print_blob=True)
settings.register_profile(
    "deep", max_examples=20_000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")
