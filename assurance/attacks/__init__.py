"""The known attacks and the predecessor's faults: what each is, how it is tried, and what must be seen.

Tests carry the number of what they try (`pytest.mark.attack(1)`, `pytest.mark.fault(17)`) and note what they saw with
the fixture `observed`. Nothing here says that something was refused: that is only ever read from a run of those tests.
"""
