"""No changed byte of genuine evidence is believed, and no bytes at all end the verifier otherwise than by a step.

`AIGOVTOOL_ALL_MUTATIONS` set makes the first test try every byte, with two flips each; without it a sample is tried.
"""

import os
import random
from collections.abc import Callable, Iterator

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from tests.attestation.tee.snp import public
from tests.attestation.tee.snp.maker import (
    GENOA,
    MILAN,
    NOW_MS,
    TURIN,
    authorities,
    authority,
    bundle,
    claims_hash,
    container,
    der,
    failures,
    leaf,
    pem,
    report,
    revocation_list,
    roots,
    table,
    usual_leaf,
)

from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.snp.verify import SnpVerifier

_WHOLE = bool(os.environ.get("AIGOVTOOL_ALL_MUTATIONS"))
_OURS = SnpVerifier(roots())
_AMDS = SnpVerifier()
_Case = tuple[SnpVerifier, Evidence, int]


def _made(data: bytes, *endorsements: bytes) -> _Case:
    return _OURS, bundle(data, *endorsements), NOW_MS


def _chain_and_list() -> _Case:
    known = authorities()
    return _made(report(), *der(usual_leaf(), known.ask, known.ark, revocation_list(5, 6)))


def _pem_and_list() -> _Case:
    known = authorities(TURIN)
    parts = pem(usual_leaf(TURIN, "vlek"), known.asvk).replace(b"\n", b"\r\n")
    return _made(report(TURIN, version=5, kind="vlek"), parts, pem(revocation_list(5, issuer="ARK-Turin")))


def _table() -> _Case:
    known = authorities(GENOA)
    parts = der(usual_leaf(GENOA), known.ask, known.ark, revocation_list(issuer="ARK-Genoa"))
    content = table(list(zip(("vcek", "ask", "ark", "crl"), parts, strict=True)), gap=9, padding_bytes=300)
    return _made(report(GENOA), content, bytes(60))


def _container() -> _Case:
    return _made(container(report(MILAN, version=2, report_data=claims_hash()), filling=64), *der(usual_leaf()))


def _public(name: str) -> Callable[[], _Case]:
    def case() -> _Case:
        if name == "genoa":
            return _AMDS, public.genoa(), int(public.GENOA_TIME.timestamp() * 1000)
        vector = public.VECTORS[name]
        return _AMDS, vector.evidence(), vector.now_ms

    return case


_CASES = {"chain_and_list": _chain_and_list, "pem_and_list": _pem_and_list, "table": _table, "container": _container}
_PARAMETERS = [pytest.param(case, id=name) for name, case in _CASES.items()]
_PARAMETERS += [
    pytest.param(_public(name), id=f"real_{name}", marks=public.needs_evidence) for name in (*public.VECTORS, "genoa")
]


def _mutations(size: int, dice: random.Random) -> Iterator[tuple[int, int]]:
    """Yield places and what is to be flipped there: everywhere the lowest bit and another one, or in a sample one."""
    for index in range(size):
        if _WHOLE:
            yield from ((index, 1), (index, 2 << dice.randrange(7)))
        elif dice.random() < 100 / size:
            yield index, 1 << dice.randrange(8)


@pytest.mark.timeout(3600 if _WHOLE else 60)
@pytest.mark.parametrize("case", _PARAMETERS)
@pytest.mark.attack(7)
def test_every_changed_byte_is_refused(case: Callable[[], _Case]) -> None:
    """A flipped bit in any byte of report and endorsements is refused by a step, and never as a mistake of ours."""
    verifier, evidence, now_ms = case()
    assert verifier.examine(evidence, now_ms).verified
    parts = [evidence.data, *evidence.endorsements]
    dice = random.Random(20261126)
    for number, part in enumerate(parts):
        for index, flip in _mutations(len(part), dice):
            changed = part[:index] + bytes((part[index] ^ flip,)) + part[index + 1 :]
            mutant = (*parts[:number], changed, *parts[number + 1 :])
            found = verifier.examine(Evidence(tee=TeeType.SEV_SNP, data=mutant[0], endorsements=mutant[1:]), now_ms)
            reasons = set(failures(found).values())
            assert found.verified is None, (number, index, flip)
            assert reasons, (number, index, flip)
            assert "internal" not in reasons, (number, index, flip)


@pytest.mark.parametrize("kind", ["leaf", "authority", "list"])
@pytest.mark.attack(7)
def test_a_signature_has_no_unused_bits(kind: str) -> None:
    """How many of its last bits are unused stands outside of what is signed, so that number has one value too."""
    makers: dict[str, Callable[[], x509.Certificate | x509.CertificateRevocationList]] = {
        "leaf": leaf,
        "authority": lambda: authority("SEV-Milan", "ARK-Milan", path_length=0),
        "list": revocation_list,
    }
    # The padding has a random part; every other signature ends in a zero bit, which may be called unused.
    (data,) = der(next(part for part in (makers[kind]() for _ in range(200)) if not part.signature[-1] & 1))
    rest = () if kind == "leaf" else der(usual_leaf())
    assert _OURS.examine(bundle(None, data, *rest), NOW_MS).verified
    at = len(data) - 513
    changed = data[:at] + b"\1" + data[at + 1 :]
    assert failures(_OURS.examine(bundle(None, changed, *rest), NOW_MS)) == {"endorsements": "endorsement_unknown"}


def _refused(data: bytes, endorsements: tuple[bytes, ...]) -> None:
    evidence = Evidence(tee=TeeType.SEV_SNP, data=data, endorsements=endorsements)
    found = _OURS.examine(evidence, NOW_MS)
    reasons = set(failures(found).values())
    assert found.verified is None
    assert reasons
    assert "internal" not in reasons


@given(
    data=st.binary(min_size=1, max_size=1300) | st.binary(max_size=1200).map(lambda rest: b"HCLA" + rest),
    endorsements=st.lists(
        st.binary(max_size=200)
        | st.binary(max_size=200).map(lambda rest: b"0\x82" + rest)
        | st.binary(max_size=100).map(lambda rest: b"-----BEGIN CERTIFICATE-----\n" + rest)
        | st.binary(max_size=100).map(lambda rest: bytes.fromhex("63da758de6644564adc5f4b93be8accd") + rest),
        max_size=4,
    ),
)
def test_random_bytes_are_refused_by_a_step(data: bytes, endorsements: list[bytes]) -> None:
    """Any bytes at all give a report of steps."""
    _refused(data, tuple(endorsements))


@given(part=st.integers(0, 4), start=st.floats(0, 1), piece=st.binary(min_size=1, max_size=40), drop=st.integers(0, 40))
def test_genuine_evidence_with_foreign_bytes_is_refused_by_a_step(
    part: int, start: float, piece: bytes, drop: int
) -> None:
    """Bytes overwritten, put in or taken out anywhere give a report of steps, and nothing is believed."""
    _, evidence, _ = _chain_and_list()
    parts = [evidence.data, *evidence.endorsements]
    at = int(start * len(parts[part]))
    changed = parts[part][:at] + piece + parts[part][at + drop :]
    if changed != parts[part]:
        parts[part] = changed
        _refused(parts[0], tuple(parts[1:]))
