"""What runs where: `aigovtool enclaves`.

`verb` shows them · `write_off` gives one up.
"""
