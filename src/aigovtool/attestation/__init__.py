"""Is it genuine, is it bound to this conversation, is it acceptable? (RATS, RFC 9334).

`model` evidence and attestation results · `binding` what the report data covers · `verifier` the port
that TEE platforms implement ("genuine?") · `appraisal` policy against verified evidence ("acceptable?").
Pure: time and nonces are arguments, endorsements travel with the evidence, nothing is fetched.
"""
