"""Which enclaves are accepted: `aigovtool appraisal`.

`verb` shows and sets the policy · `words` says it, and what changes.
"""
