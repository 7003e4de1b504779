"""Stop and resume: `aigovtool stop | resume`.

`verb` · `stopped` which enclaves were told, and what the others can still do.
"""
