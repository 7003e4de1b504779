"""Benchmarks: what a promise costs, measured on real processes. No figure is written by hand.

`python -m bench` runs all and writes docs/benchmarks.json and docs/benchmarks.md. Times on a shared machine mean
little; compare ratios of one run, and processor time per request.

`custodian` renewals over HTTPS, with short and long histories side by side · `ledgers` what else could grow: starting,
proofs, views, copies of the log · `deployment` one custodian process · `fleet` enclaves that only renew · `history`
years of use, made in minutes, and `laying`, which writes them in bulk · `report` the page.
"""
