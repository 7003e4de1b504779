"""Measured boot with a TPM 2.0: endorsement key, activation, attestation key, quote, event log (attestation spec: tpm).

`structures` what a TPM writes · `event_log` what a firmware measured · `evidence` what travels · `verify` the steps ·
`credential` and `activation` the proof that an attestation key is in a TPM · `bundle` evidence of other tools.
A TPM proves what was booted; it neither encrypts memory nor hides anything from whoever owns the machine.
"""
