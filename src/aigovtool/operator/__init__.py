"""The operator's side of a custodian: signed commands, views, uploads, and the audit log on file.

`connection` one mutual-TLS connection with bounded answers, retries and typed errors · `client` what operators
do · `party_client` what consumers and borrowers may ask for themselves · `deposit` the file that carries a wrapped
model key · `order` what two operators sign, on file · `audit_file` the audit log on disk, for verification without the
custodian · `witness` its checkpoints over time, for everybody · `proofs` that a lease was debited.

It believes nothing that a custodian says beyond its TLS certificate; what must be believed is signed and verified
by whoever uses it (`protocol.trust`, `ledger.audit`).
"""
