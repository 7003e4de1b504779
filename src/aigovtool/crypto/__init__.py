"""The only home of cryptographic primitives; everything else composes these.

`secret` redacted byte strings · `sign` Ed25519 and DSSE envelopes · `wrap` HPKE · `aead` segmented
AES-256-GCM for files · `frames` the same for conversations · `x509` certificates for TLS · `keyfile` private
keys at rest.
"""
