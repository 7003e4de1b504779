"""Make a custodian and serve it: `aigovtool custodian`.

`verb` · `gap` a ledger that was restored · `certificate` of its TLS · `backup` of its ledger · `keys` of its own.
"""
