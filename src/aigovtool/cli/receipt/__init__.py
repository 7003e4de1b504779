"""What a consumer was given for its units: `aigovtool receipt`.

`verb` · `prove` that its lease is in the log.
"""
