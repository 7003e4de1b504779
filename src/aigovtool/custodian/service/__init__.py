"""The custodian's use cases, one module each: boot, release, renewal, commands, asks, views.

Every module works on a `Custodian` (keys, ledger, clock, push hub) and on typed messages; none knows HTTP.
"""
