"""Seal, lend, withdraw: `aigovtool model`.

`verb` · `terms` on which it is lent · `dial` what they mean for a budget.
"""
