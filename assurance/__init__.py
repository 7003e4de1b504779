"""Campaigns: long searches for a broken promise, whose figures accumulate and are published.

A campaign makes one claim in one sentence, says what it counts, how much is enough, and what it does not show. Its
figures belong to a digest of the code under test: they accumulate over runs and void themselves when that code, or
the campaign's own, changes. `python -m assurance --help` says how to run them; `docs/assurance.md` is generated.

This package is never shipped. It imports the product as its users do, and the simulators and drills under `tests`.
"""
