"""The enclave: the role that runs a lent model on the borrower's machine, inside a TEE.

Two processes. The parent terminates TLS, attests, meters and signs; the child (`engines`) holds the model
key, the plaintext and the session, in a sandbox. Killing the child and waiting for it is the wipe.
"""
