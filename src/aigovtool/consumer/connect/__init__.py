"""`aigovtool connect`: a gateway on the consumer's own machine, through which any program uses a lent model.

It verifies the enclaves, and offers their models on loopback as any Open Inference Protocol server does; a program that
knows nothing of evidence, receipts or certificates never speaks to an enclave that is not verified.

`member` one enclave, kept verified · `fleet` several, and which of them answers · `evidence_log` what was seen of
them · `kept_receipts` the records of answers · `api` what programs ask · `local` who may ask · `status` and `page` what
people look at · `app` the wiring.
"""
