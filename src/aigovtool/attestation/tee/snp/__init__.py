"""AMD SEV-SNP: are a report and its endorsements genuine? (spec: attestation/snp).

`report` the attestation report · `product` processor families and their TCB layouts · `azure` the container of Azure's
paravisor · `endorsement_key` the certificate of the key that signs reports · `table` the host's certificate table ·
`endorsements` what came along · `authorities` AMD's pinned certificates · `verify` the verifier · `facts` what is
reported · `wanted` which endorsements a report needs.
"""
