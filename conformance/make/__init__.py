"""Makes the vectors of this suite from TEST-ONLY keys: `python -m conformance.make`.

Every signature is deterministic, so that a second run writes the same bytes.
"""
