"""Evidence of every kind in whose certificates URLs lie, made by whoever wants a verifier to ask somebody.

It is a program (FOLDER URL...), because it changes how certificates are made: each gets the URLs as where its issuer,
its revocation list and its status are found, and the keys for tests sign them.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID
from tests.attestation.authority import NOW_MS as TPM_NOW_MS
from tests.attestation.tee.intel import maker as intel
from tests.attestation.tee.nitro import maker as nitro
from tests.attestation.tee.snp import maker as snp
from tests.attestation.tee.tpm import maker as tpm

from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.codec import encode


def with_urls(sign: Callable[..., Any], urls: list[str]) -> Callable[..., Any]:
    """Return what signs certificates, and puts the URLs into each of them before."""
    places = [x509.UniformResourceIdentifier(url) for url in urls]
    issuers, statuses = AuthorityInformationAccessOID.CA_ISSUERS, AuthorityInformationAccessOID.OCSP
    # Not all of them in both: a certificate of Nitro has 1,024 bytes at most.
    described = [x509.AccessDescription(issuers, places[0]), x509.AccessDescription(statuses, places[1])]
    points = [x509.DistributionPoint([place], None, None, None) for place in places]

    def signing(builder: x509.CertificateBuilder, *words: Any, **more: Any) -> Any:
        builder = builder.add_extension(x509.AuthorityInformationAccess(described), critical=False)
        builder = builder.add_extension(x509.CRLDistributionPoints(points), critical=False)
        return sign(builder, *words, **more)

    return signing


def made() -> dict[TeeType, tuple[Evidence, int, list[bytes]]]:
    """Return evidence of each kind, when it is good, and the roots by which it is."""
    amd = snp.authorities()
    report = Evidence(tee=TeeType.SEV_SNP, data=snp.report(), endorsements=snp.der(snp.usual_leaf()))
    roots = list(snp.der(amd.ark, amd.ask, amd.asvk))
    return {
        TeeType.SEV_SNP: (report, snp.NOW_MS, roots),
        TeeType.TDX: (intel.evidence(), intel.NOW_MS, [intel.root_der()]),
        TeeType.SGX: (intel.evidence(intel.SGX), intel.NOW_MS, [intel.root_der()]),
        TeeType.NITRO: (nitro.evidence(), nitro.NOW_MS, [nitro.chain()[0]]),
        TeeType.TPM: (tpm.Forgery().made(), TPM_NOW_MS, [tpm.root().public_bytes(Encoding.DER)]),
    }


def main(folder: Path, urls: list[str]) -> None:
    """Write FOLDER/TEE.json, the time as FOLDER/TEE.at, and FOLDER/TEE.roots with the roots in PEM."""
    x509.CertificateBuilder.sign = with_urls(x509.CertificateBuilder.sign, urls)  # type: ignore[method-assign]
    for tee, (evidence, at_ms, roots) in made().items():
        (folder / f"{tee}.json").write_bytes(encode(evidence))
        (folder / f"{tee}.at").write_text(str(at_ms), encoding="ascii")
        pem = b"".join(x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in roots)
        (folder / f"{tee}.roots").write_bytes(pem)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
