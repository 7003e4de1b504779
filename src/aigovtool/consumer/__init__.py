"""The consumer: the role that asks a borrowed model for answers.

The SDK (one core, a synchronous and an asynchronous face) and the local gateway behind
`aigovtool connect`. It verifies the enclave itself with its own nonce, pins the enclave's TLS key, the
model digest and the custodian's key, and checks every receipt. It trusts neither borrower nor network.
"""
