"""Intel SGX (DCAP quotes of version 3) and Intel TDX (versions 4 and 5): reading and verifying their quotes."""
