"""The enclave's HTTP: attestation for consumers, and the Open Inference Protocol.

`inference` one governed inference, from bytes to bytes · `api` the table of routes.
"""
