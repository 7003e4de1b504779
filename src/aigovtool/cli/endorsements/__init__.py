"""Endorsements of vendors, for who cannot ask them: `aigovtool endorsements`.

`verb` fetches, adds and lists · `answers` reads the file in which they travel.
"""
