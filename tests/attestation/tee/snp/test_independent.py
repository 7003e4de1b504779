"""Two verifiers that share nothing agree on all that is genuine, and on all that is not."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.attestation.tee.snp import independent, public
from tests.attestation.tee.snp.public import VECTORS, Vector, certificates, file, genoa, needs_evidence

from aigovtool.attestation.model import Evidence, TeeType, VerifiedEvidence
from aigovtool.attestation.tee.snp.verify import SnpVerifier

_GENOA = Vector(public.GENOA_REPORT, "", "", public.GENOA_TIME)


def product_says(report: bytes, chain: tuple[bytes, ...], now: datetime) -> dict[str, Any] | None:
    evidence = Evidence(tee=TeeType.SEV_SNP, data=report, endorsements=chain)
    found = SnpVerifier().examine(evidence, int(now.timestamp() * 1000))
    return None if found.verified is None else fields(found.verified)


def fields(found: VerifiedEvidence) -> dict[str, Any]:
    facts = {str(fact.name): fact.value for fact in found.facts}
    tcb = {str(part.name): part.version for part in found.tcb.components}
    return {
        "tcb": {name: tcb[name] for name in ("bootloader", "tee", "snp", "microcode", "fmc") if name in tcb},
        "svn": tcb["guest_svn"],
        "vmpl": int(facts["vmpl"]),
        "debug": found.debug,
        "measurement": found.measurements[0].digest,
        "report_data": found.report_data.hex(),
        "host_data": facts["host_data"],
        "product": facts["product"],
        "vlek": facts["signing_key"] == "vlek",
        "chip": found.chip_id,
    }


def independent_says(report: bytes, chain: tuple[bytes, ...], now: datetime) -> dict[str, Any] | None:
    try:
        return independent.verify(report, (chain[0], chain[1], chain[2]), now)
    except (independent.Wrong, ValueError, KeyError, IndexError):
        return None


def cases() -> Iterator[tuple[str, bytes, tuple[bytes, ...], datetime]]:
    """Yield every real report with its chain and a time."""
    for name, vector in VECTORS.items():
        data = file(vector.data)
        yield name, data[0x20 : 0x20 + 1184] if name == "azure" else data, vector.whole_chain(), vector.time
    table = genoa().endorsements[0]
    root, authority, leaf = (certificates_in(table, at) for at in range(3))
    yield "genoa", genoa().data, (leaf, authority, root), _GENOA.time


def certificates_in(table: bytes, at: int) -> bytes:
    start, length = (int.from_bytes(table[24 * at + 16 + word : 24 * at + 20 + word], "little") for word in (0, 4))
    return public.der_of(table[start : start + length])


@needs_evidence
def test_both_read_the_same_out_of_every_real_report() -> None:
    """Verdict and fields agree on every real report, and both refuse it a century later."""
    seen = 0
    for name, data, chain, now in cases():
        ours = product_says(data, chain, now)
        assert ours is not None, name
        assert ours == independent_says(data, chain, now), name
        late = now + timedelta(days=36_500)
        assert product_says(data, chain, late) is independent_says(data, chain, late) is None, name
        seen += 1
    assert seen == 7


@needs_evidence
def test_both_refuse_every_mixture() -> None:
    """Each report with each other chain, each leaf under each other authority, and the two altered leaves."""
    known = list(cases())
    altered = [certificates(f"snp/trustee_test-vcek-invalid-{name}.der")[0] for name in ("legacy", "new")]
    tried = 0
    for name, data, chain, now in known:
        mixtures = [other for _, _, other, _ in known if other[0] != chain[0]]
        mixtures += [(chain[0], *other[1:]) for _, _, other, _ in known if other[1] != chain[1]]
        mixtures += [(leaf, *chain[1:]) for leaf in altered]
        for mixture in mixtures:
            assert product_says(data, mixture, now) is None, name
            assert independent_says(data, mixture, now) is None, name
            tried += 1
    assert tried == 86


@needs_evidence
@pytest.mark.parametrize(
    "offset", [0x00, 0x0A, 0x34, 0x49, 0x50, 0x90, 0x180, 0x1A0, 0x29F, 0x2A0, 0x2CF, 0x2E8, 0x317, 0x330]
)
def test_both_refuse_a_changed_byte(offset: int) -> None:
    """A change in the signed part, in either half of the signature, or behind it."""
    for name, data, chain, now in cases():
        changed = data[:offset] + bytes((data[offset] ^ 0x10,)) + data[offset + 1 :]
        assert product_says(changed, chain, now) is None, name
        assert independent_says(changed, chain, now) is None, name
