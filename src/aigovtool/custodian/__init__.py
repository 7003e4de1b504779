"""The custodian: the role that owns models and lends them.

Verifies and appraises evidence, releases model keys to attested enclaves only, keeps the ledger of
budgets and leases, answers operators (API and dashboard), and orders stops. It is the only role with a
database. It never runs a model, and it never imports the enclave or the consumer.
"""
