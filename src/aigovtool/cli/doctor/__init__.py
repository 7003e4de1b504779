"""What this machine offers, and what is wrong with it: `aigovtool doctor`.

`verb` · `check` one finding · `custodian` and `sqlite` what is looked at.
"""
