"""The arithmetic of budgets and leases, the audit log and receipts: pure code, no I/O, no clock.

`units` the vector that is counted · `policy` the strictness dial · `budget` rows and windows · `lease`
the custodian's record of a lease and its state table · `book` the transitions · `merkle` RFC 6962 ·
`entry` what the audit log records · `checkpoint` signed notes · `receipt` proof of one inference.

The same functions run in the custodian's transaction, in the enclave's meter and in the simulator.
"""
