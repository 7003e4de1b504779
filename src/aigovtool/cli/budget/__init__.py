"""Limits, and requests for more: `aigovtool budget`.

`verb` · `asks` requests · `time` windows and ends.
"""
