"""AWS Nitro Enclaves: attestation documents, signed by the Nitro hypervisor (spec: attestation/nitro)."""
