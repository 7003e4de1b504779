"""Simulators and fakes that ship with the product, for development, demonstrations and tests.

Nothing here protects anything. A role imports this package only behind its explicit simulated-TEE entry.
"""
