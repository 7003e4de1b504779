"""`aigovtool evidence verify --root` for SEV-SNP: certificates of other authorities than AMD's."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.attestation.tee.snp import maker
from tests.attestation.tee.snp.maker import GENOA, MILAN, TURIN

from aigovtool.attestation.examination import Examined
from aigovtool.attestation.model import TeeType
from aigovtool.attestation.tee.snp.authorities import authorities_of
from aigovtool.cli.evidence.verb import verifier_for
from aigovtool.errors import InvalidValueError

OWN = maker.authorities(MILAN)
LEAF = maker.usual_leaf()


def examined(folder: Path, roots: Sequence[bytes], *endorsements: bytes) -> Examined:
    """Return what is found with the roots in files."""
    files = [folder / f"{number}.crt" for number in range(len(roots))]
    for file, content in zip(files, roots, strict=True):
        file.write_bytes(content)
    evidence = maker.bundle(None, *endorsements)
    return verifier_for(TeeType.SEV_SNP, files).examine(evidence, maker.NOW_MS)


def test_roots_of_a_product_are_believed_instead_of_amds(tmp_path: Path) -> None:
    """In DER or PEM, in any order, together or apart; beside them those of other products."""
    genoa = maker.authorities(GENOA)
    for roots in (
        maker.der(OWN.ark, OWN.ask, OWN.asvk),
        maker.der(OWN.asvk, OWN.ask, OWN.ark),
        (maker.pem(OWN.ark, OWN.ask, OWN.asvk),),
        maker.der(genoa.ark, OWN.ask, OWN.ark),
    ):
        assert examined(tmp_path, roots, *maker.der(LEAF)).verified is not None
    assert maker.failures(examined(tmp_path, maker.der(genoa.ark, genoa.ask))) == {"chain": "chain_root"}


def test_an_authority_that_is_not_given_must_come_along(tmp_path: Path) -> None:
    """A root alone believes its authorities, and nothing that it has not issued."""
    root = maker.der(OWN.ark)
    assert examined(tmp_path, root, *maker.der(LEAF, OWN.ask)).verified is not None
    assert maker.failures(examined(tmp_path, root, *maker.der(LEAF))) == {"chain": "chain_issuer"}
    wrong = maker.der(OWN.ark, OWN.asvk)
    assert maker.failures(examined(tmp_path, wrong, *maker.der(LEAF))) == {"chain": "chain_issuer"}


@pytest.mark.parametrize(
    "roots",
    [
        maker.der(OWN.ask, OWN.asvk),
        maker.der(OWN.ark, OWN.ark),
        maker.der(OWN.ark, LEAF),
        maker.der(OWN.ark, maker.authorities(TURIN).ask),
        (),
    ],
    ids=["no root", "twice", "a leaf", "an authority without its root", "none"],
)
def test_roots_that_mean_nothing_are_refused(roots: tuple[bytes, ...]) -> None:
    """No certificate is left unread: whoever gives it believes that it counts."""
    with pytest.raises(InvalidValueError) as caught:
        authorities_of(roots)
    assert caught.value.reason == "bad_root"


@pytest.mark.parametrize("tee", [TeeType.SEV_SNP, TeeType.TDX, TeeType.SGX, TeeType.TPM])
def test_a_file_that_is_no_certificate_is_no_root(tmp_path: Path, tee: TeeType) -> None:
    """A typed error that is no verdict: it is not the evidence that is wrong."""
    file = tmp_path / "root.der"
    for content in (b"x" * 100, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        file.write_bytes(content)
        with pytest.raises(InvalidValueError) as caught:
            verifier_for(tee, [file])
        assert caught.value.reason == "bad_root"
