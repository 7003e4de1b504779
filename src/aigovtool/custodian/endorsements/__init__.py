"""Endorsements of platforms, from their vendors: certificates, revocation lists, TCB information.

`vendor` fetches them from fixed hosts · `cache` keeps them on disk and refreshes them · `completion` adds what evidence
needs and did not bring.
"""
