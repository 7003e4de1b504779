"""An enclave on SEV-SNP whose vendor speaks, is silent, or says something else: who is admitted, and who stays so."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from tests.attestation.tee.snp import maker as snp
from tests.custodian.amd import LIST, Amd
from tests.custodian.conftest import Bench, Enclave, lend, want
from tests.observations import Observed

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.examination import Examined
from aigovtool.attestation.model import Evidence, TeeType, Unchecked, VerifiedEvidence
from aigovtool.attestation.policy import (
    AcceptedTee,
    AppraisalPolicy,
    FactRule,
    ReferenceSet,
    ReferenceValue,
)
from aigovtool.attestation.tee.completion import Vendors
from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.attestation.tee.snp.verify import SnpVerifier
from aigovtool.attestation.tee.supplement import supplemented
from aigovtool.attestation.verifier import VerifierSet
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.endorsements.cache import FRESH_MS, EndorsementCache
from aigovtool.custodian.service import commands
from aigovtool.custodian.service.reexamination import reexamine
from aigovtool.custodian.store import evidence
from aigovtool.errors import AppraisalError, EvidenceError, ReattestRequiredError
from aigovtool.ledger.entry import AttestationRefused, AttestationWithdrawn
from aigovtool.protocol import commands as acts
from aigovtool.protocol.messages import Deny, DenyCode, Grant

DAY_MS = 86_400_000
WHY = Unchecked(reason="not what this test is about")


class Guest:
    """A guest of SEV-SNP that brings its report, and whatever its host gave it."""

    def __init__(self, *brought: bytes) -> None:
        self.brought = brought

    def attest(self, claims: Binding) -> Evidence:
        return Evidence(
            tee=TeeType.SEV_SNP, data=snp.report(report_data=claims.report_data()), endorsements=self.brought
        )


@dataclass
class Site:
    """A custodian that lends to enclaves on SEV-SNP."""

    lent: Bench
    amd: Amd

    @property
    def cache(self) -> EndorsementCache:
        assert self.lent.custodian.endorsements is not None
        return self.lent.custodian.endorsements

    def enclave(self, *brought: bytes) -> Enclave:
        return Enclave(self.lent, platform=Guest(*brought))  # type: ignore[arg-type]

    async def booted(self, *brought: bytes) -> Enclave:
        enclave = self.enclave(*brought)
        await enclave.boot()
        return enclave

    def advance(self, milliseconds: int) -> None:
        self.amd.now_ms = self.lent.now_ms = self.lent.now_ms + milliseconds

    async def withdrawn(self) -> list[str]:
        return [line.reason for line in await self.lent.log() if isinstance(line, AttestationWithdrawn)]


def policy(version: int, verified: VerifiedEvidence, launch: str | None = None) -> AppraisalPolicy:
    """A policy that accepts what was verified, and demands that revocation was checked."""
    (measured,) = verified.measurements
    value = ReferenceValue(name=measured.name, digest=launch or measured.digest)  # type: ignore[arg-type]
    entry = AcceptedTee(
        tee=TeeType.SEV_SNP,
        reference_values=(ReferenceSet(label="release 1", values=(value,)),),
        min_tcb=WHY,
        chips=WHY,
        facts=tuple(
            FactRule(name=fact.name, allowed=("checked",) if fact.name == "revocation" else WHY)
            for fact in verified.facts
        ),
        max_attestation_age_ms=30 * 86_400_000,
    )
    return AppraisalPolicy(version=version, accepted=(entry,))


def said(amd: Amd) -> VerifiedEvidence:
    whole = Evidence(tee=TeeType.SEV_SNP, data=snp.report(), endorsements=snp.der(amd.leaf))
    return SnpVerifier(amd.roots).examine(whole, amd.now_ms).genuine()


@pytest.fixture
async def site(bench: Bench, tmp_path: Path) -> Site:
    bench.policy = msgspec.structs.replace(bench.policy, max_attestation_age_ms=30 * 86_400_000)
    lent = await lend(bench)
    amd = Amd(lent.now_ms)
    lent.custodian.verifiers = VerifierSet({TeeType.SEV_SNP: SnpVerifier(amd.roots)})
    lent.custodian.endorsements = EndorsementCache(
        tmp_path / "endorsements", amd.fetch, lambda: lent.now_ms, Vendors(amd=amd.roots)
    )
    await lent.command(acts.SetAppraisalPolicy(policy=policy(2, said(amd))))
    await lent.grant(100)
    return Site(lent, amd)


async def test_a_guest_without_a_network_is_admitted_with_what_its_vendor_gives(site: Site) -> None:
    """And consumers verify it with what the custodian adds, without asking anybody."""
    enclave = site.enclave()
    admission = await enclave.boot()
    assert site.amd.asked == [site.amd.leaf_url, LIST]
    bare = Guest().attest(enclave.claims(await enclave.challenge()))
    whole = supplemented(bare, admission.endorsements)
    assert SnpVerifier(site.amd.roots).examine(whole, site.amd.now_ms).verified is not None
    await site.booted()
    assert len(site.amd.asked) == 2


@pytest.mark.attack(6)
async def test_a_list_that_the_borrower_brings_is_not_the_vendors_word(site: Site) -> None:
    """Attack: an older list, or that for the other kind of key, where the custodian cannot reach AMD."""
    leaf, harmless = snp.der(site.amd.leaf)[0], site.amd.list()
    site.amd.away = True
    with pytest.raises(AppraisalError) as caught:
        await site.booted(leaf, harmless)
    assert caught.value.reason == "facts"
    site.amd.away = False
    site.advance(30_000)
    site.amd.revoked = (11,)
    with pytest.raises(EvidenceError) as revoked:
        await site.booted(leaf, harmless)
    assert revoked.value.reason == "revoked"
    site.amd.revoked = ()


async def test_a_policy_reaches_enclaves_while_their_vendor_is_silent(site: Site) -> None:
    """Attack: a borrower whose build was retired, and who sees to it that the custodian reaches no vendor."""
    enclave = await site.booted()
    site.amd.away = True
    site.advance(2 * FRESH_MS)
    asked = len(site.amd.asked)
    await site.lent.command(acts.SetAppraisalPolicy(policy=policy(3, said(site.amd), launch="ab" * 48)))
    assert await site.withdrawn() == ["measurements"]
    (denied,) = (await enclave.renew(want(1))).results
    assert isinstance(denied, Deny)
    assert denied.code is DenyCode.REATTEST
    assert len(site.amd.asked) == asked


@pytest.mark.parametrize("page", [None, b"<html>busy</html>"])
async def test_a_vendor_that_is_silent_or_says_something_else_ends_nothing(site: Site, page: bytes | None) -> None:
    """Attack: a 200 with a proxy's page. It is nobody's evidence, and stays nowhere."""
    enclave = await site.booted()
    site.amd.away, site.amd.page = page is None, page
    for _ in range(3):
        site.advance(FRESH_MS)
        await site.cache.refresh()
        await reexamine(site.lent.custodian)
    assert await site.withdrawn() == []
    (granted,) = (await enclave.renew(want(1))).results
    assert isinstance(granted, Grant)


@pytest.mark.attack(6)
async def test_what_a_vendor_revokes_ends_leases_within_the_next_round(site: Site) -> None:
    """The cache is refreshed for machines that were admitted, also after the custodian was started again."""
    enclave = await site.booted()
    site.lent.custodian.endorsements = EndorsementCache(
        site.lent.directory.parent / "endorsements",
        site.amd.fetch,
        lambda: site.lent.now_ms,
        Vendors(amd=site.amd.roots),
    )
    site.amd.revoked = (11,)
    site.advance(FRESH_MS)
    await reexamine(site.lent.custodian)
    assert (await enclave.record()).state == "live"
    await site.cache.refresh()
    await reexamine(site.lent.custodian)
    assert await site.withdrawn() == ["revoked"]
    assert (await enclave.record()).state == "unaccepted"


async def test_what_was_learned_since_is_kept_with_the_evidence(site: Site, tmp_path: Path) -> None:
    """Attack: the cache is emptied after a round. What the evidence was judged by then is not forgotten."""
    enclave = await site.booted()
    site.advance(FRESH_MS)
    site.amd.revoked = (99,)
    await site.cache.refresh()
    await reexamine(site.lent.custodian)
    for file in (tmp_path / "endorsements").iterdir():
        file.unlink()
    site.amd.away = True
    kept = await site.lent.custodian.database.run(lambda transaction: evidence.find(transaction, enclave.instance))
    assert kept is not None
    assert site.amd.list_made in kept.evidence.endorsements
    await reexamine(site.lent.custodian)
    assert await site.withdrawn() == []


async def test_one_that_cannot_be_judged_does_not_spare_the_others(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: an error that nobody thought of, at the first instance of the list."""
    first, second = await site.booted(), await site.booted()
    known = site.cache.known
    calls = []

    def failing(urls: tuple[str, ...]) -> dict[str, Fetched]:
        calls.append(urls)
        if len(calls) == 1:
            raise FileNotFoundError
        return known(urls)

    monkeypatch.setattr(site.cache, "known", failing)
    site.advance(FRESH_MS)
    site.amd.revoked = (11,)
    await site.cache.refresh()
    await reexamine(site.lent.custodian)
    assert sorted([(await one.record()).state for one in (first, second)]) == ["live", "unaccepted"]
    await reexamine(site.lent.custodian)
    assert [(await one.record()).state for one in (first, second)] == ["unaccepted", "unaccepted"]


async def test_lists_of_many_days_do_not_pile_up(site: Site) -> None:
    """Attack: none. AMD's list is signed anew each day; the newest takes the place of the one before."""
    enclave = await site.booted()
    for day in range(8):
        site.advance(FRESH_MS)
        site.amd.revoked = (100 + day,)
        await site.cache.refresh()
        await reexamine(site.lent.custodian)
    assert await site.withdrawn() == []
    kept = await site.lent.custodian.database.run(lambda transaction: evidence.find(transaction, enclave.instance))
    assert kept is not None
    assert site.amd.list_made in kept.evidence.endorsements
    assert len(kept.evidence.endorsements) == 2


@pytest.mark.parametrize("reason", ["internal", "evidence_too_large"])
async def test_a_fault_of_our_own_is_no_verdict(site: Site, reason: str) -> None:
    """A verifier that ran out of memory, or was given too much at once, has found nothing wrong with a machine."""

    class Failing:
        def examine(self, _evidence: Evidence, _now_ms: int) -> Examined:
            raise EvidenceError("no verdict", reason=reason)

    enclave = await site.booted()
    site.lent.custodian.verifiers = VerifierSet({TeeType.SEV_SNP: Failing()})
    await reexamine(site.lent.custodian)
    assert (await enclave.record()).state == "live"


@pytest.mark.attack(11)
async def test_no_key_goes_out_before_the_new_policy_has_judged(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: thousands of instances, so that judging takes long, and a key is asked for in the meantime."""
    enclave = await site.booted()

    async def later(_custodian: Custodian) -> None: ...

    monkeypatch.setattr(commands, "reexamine", later)
    await enclave.release()
    await site.lent.command(acts.SetAppraisalPolicy(policy=policy(3, said(site.amd))))
    await enclave.release()
    await site.lent.command(acts.SetAppraisalPolicy(policy=policy(4, said(site.amd), launch="ab" * 48)))
    assert (await enclave.record()).state == "live"
    with pytest.raises(ReattestRequiredError):
        await enclave.release()
    assert await site.withdrawn() == ["measurements"]


@pytest.mark.fault(29)
@pytest.mark.parametrize("silent", [False, True], ids=["refreshed", "stale"])
async def test_after_a_month_only_what_was_refreshed_is_good(silent: bool, site: Site, observed: Observed) -> None:  # noqa: FBT001
    """31 days by the custodian's clock, under a policy that takes lists of 30: it asks the vendor itself, each day."""
    (entry,) = policy(3, said(site.amd)).accepted
    monthly = msgspec.structs.replace(entry, max_collateral_age_ms=30 * DAY_MS)
    await site.lent.command(acts.SetAppraisalPolicy(policy=AppraisalPolicy(version=3, accepted=(monthly,))))
    await site.booted()
    site.amd.away = silent
    for _ in range(31):
        site.advance(DAY_MS)
        await site.cache.refresh()
        await reexamine(site.lent.custodian)
    if not silent:
        await site.booted()
        assert site.amd.asked.count(LIST) == 32
        return
    with pytest.raises(AppraisalError) as caught:
        await site.booted()
    assert observed.refusal(caught.value) == "evidence_unacceptable: collateral_age"
    refused = [line.reason for line in await site.lent.log() if isinstance(line, AttestationRefused)]
    assert refused == ["collateral_age"]
    observed.entry("attestation_refused")
