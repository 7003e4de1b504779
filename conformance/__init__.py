"""A conformance suite for verifiers of attestation evidence: vectors with their expected verdicts, and a runner.

`suite` what a vector is · `verdicts` how a verifier is asked, and what must come back · `make` makes the vectors.
"""
