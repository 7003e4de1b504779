"""Benchmarks: what a promise costs, measured on real processes. No figure is written by hand.

`python -m bench` runs all and writes docs/benchmarks.json and docs/benchmarks.md. Times on a shared machine mean
little; compare ratios of one run, and processor time per request.

`custodian` renewals over HTTPS on both stores, and how they grow with history · `fleet` enclaves that only renew ·
`history` years of use, written into a ledger at once · `report` the page.
"""
