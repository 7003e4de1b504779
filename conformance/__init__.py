"""A conformance suite for verifiers of attestation evidence: vectors with their expected verdicts, and a runner.

`suite` what a vector is · `verdicts` how a verifier is asked, and what must come back · `runner` asks about them all ·
`make` makes them · `malformed` changes genuine evidence, by single bytes or with edits that know its structure.
"""
