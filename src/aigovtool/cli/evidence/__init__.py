"""Evidence of TEEs, judged offline: `aigovtool evidence`.

`verb` verifies and appraises · `files` reads what vendors and other tools write · `verdict` says what was found.
"""
