"""The audit log, and who co-signs it: `aigovtool audit`.

`verb` · `listing` entries in words · `entries` what each kind says · `root` whom to believe · `watch` checkpoints
and proofs · `reconcile` ledger against receipts · `witness`, `witness_accept` who co-signs · `witness_enrol` whose
co-signatures the custodian takes · `witnessed` what was co-signed.
"""
