"""The custodian's database: SQL behind typed functions, one module per noun.

`schema` the tables · `database` the single writer with group commit · `log` the audit log · `budgets`
rows and limits · `leases` · `instances` enclaves, nonces, answers · `parties` · `models` · `stops` · `asks`
and commands. Every function takes the connection of the running transaction and commits nothing itself.
"""
