"""The command line: one module per verb, each a thin shell around a role.

Parses options, reads the environment (nothing below this layer does), prints tables for people and
`--json` for programs, and ends with the exit code of the error's class. It holds no rules of its own:
what it refuses, a role or a lower layer refused.
"""
