"""Boot with a TPM (swtpm) against a real custodian: who gets a key, who does not, and what a consumer may believe."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.custodian.conftest import BORROWER, make_bench
from tests.enclave.attesters.measured_boot import LOG, chip_of, extend, measure_boot, policy_for
from tests.enclave.attesters.software_tpm import SoftwareTpm, missing, software_tpm
from tests.enclave.site import Site, children, open_site, served

from aigovtool.attestation.appraisal import appraise
from aigovtool.attestation.binding import Audience, Binding
from aigovtool.attestation.model import ActivationCredential, ActivationKeys, Evidence, Label, TeeType
from aigovtool.attestation.policy import AppraisalPolicy, FactRule
from aigovtool.attestation.tee.tpm.evidence import Certifies, TpmEvidence, unwrap, wrap
from aigovtool.attestation.verifier import Exchange, VerifierSet
from aigovtool.codec import encode
from aigovtool.consumer.wiring import verifiers_for
from aigovtool.crypto.sign import open_envelope
from aigovtool.custodian import app
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.activation import ROOTS_DIRECTORY
from aigovtool.custodian.key_rotation import Role, State, default_root, revoke, show
from aigovtool.custodian.key_watch import KeyWatch
from aigovtool.custodian.service import views
from aigovtool.custodian.service.reexamination import reexamine
from aigovtool.custodian.store import evidence as kept_evidence
from aigovtool.enclave.attesters.tpm import TpmAttester
from aigovtool.enclave.boot import Instance, boot
from aigovtool.errors import AIGovToolError, AppraisalError, EvidenceError
from aigovtool.ids import Nonce
from aigovtool.ledger.entry import AttestationRefused, Attested, KeyReleased
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol import commands as acts
from aigovtool.protocol import release
from aigovtool.protocol.release import Challenge, ChallengeReply, ChallengeRequest
from aigovtool.protocol.session import NO_MEMORY_ENCRYPTION

if missing():
    pytest.skip(f"not installed: {missing()}; no enclave with a (software) TPM has booted", allow_module_level=True)

BOUND = default_policy(Dial.BOUND)
SESSION_NONCE = Nonce("5a" * 32)


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareTpm]:
    """A TPM into which a boot was measured."""
    with software_tpm(tmp_path_factory.mktemp("tpm")) as running:
        measure_boot(running)
        yield running


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareTpm]:
    """Another TPM, into which the same boot was measured."""
    with software_tpm(tmp_path_factory.mktemp("other")) as running:
        measure_boot(running)
        yield running


def believe(site: Site, *makers: SoftwareTpm) -> None:
    """Put the roots of makers where the custodian looks for them when it starts."""
    bench = site.bench
    place = bench.directory / ROOTS_DIRECTORY
    place.mkdir(exist_ok=True)
    for number, maker in enumerate(makers):
        (place / f"maker{number}.pem").write_bytes(maker.root.public_bytes(Encoding.PEM))
    bench.custodian.verifiers = app.verifiers(bench.directory, bench.custodian.keys, allow_simulated=True)


@pytest.fixture
async def site(tmp_path: Path, tpm: SoftwareTpm) -> AsyncIterator[Site]:
    """A borrower's host, and a custodian whose policy is for exactly this TPM and this boot."""
    async with open_site(tmp_path, policy=BOUND) as made:
        believe(made, tpm)
        await made.bench.command(acts.SetAppraisalPolicy(policy=policy_for(tpm)))
        yield made


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "binary_bios_measurements"
    path.write_bytes(LOG)
    return path


def attester(tpm: SoftwareTpm, log: Path | None = None) -> TpmAttester:
    return TpmAttester(tpm.tcti, event_log=log, endorsements=(tpm.issuer,))


@dataclass
class Liar:
    """A host that changes what its attester says on the way to the custodian."""

    real: TpmAttester
    change: Callable[[Evidence], Evidence] = lambda evidence: evidence
    shown: ActivationKeys | None = None
    deaf: bool = False

    @property
    def tee(self) -> TeeType:
        return TeeType.TPM

    def keys(self) -> ActivationKeys:
        return self.shown or self.real.keys()

    def activate(self, credential: ActivationCredential) -> bytes:
        return b"" if self.deaf else self.real.activate(credential)

    def certify(self, certificate: bytes) -> None:
        self.real.certify(certificate)

    def attest(self, claims: Binding) -> Evidence:
        return self.change(self.real.attest(claims))


async def booted(site: Site, attester: TpmAttester | Liar) -> Instance:
    return await boot(site.party, site.models, attester, site.link, site.cache)


async def refused(site: Site, attester: TpmAttester | Liar, error: type[AIGovToolError], reason: str) -> str:
    """Expect a refusal with a line in the audit log, no key and no engine; return what the refused is told."""
    before = children()
    with pytest.raises(error) as caught:
        await booted(site, attester)
    assert caught.value.reason == reason, caught.value.message
    lines = await site.bench.log()
    assert [one for one in lines if isinstance(one, KeyReleased)] == []
    assert isinstance(lines[-1], AttestationRefused)
    assert (lines[-1].borrower, lines[-1].code, lines[-1].reason) == (BORROWER, error.code, reason)
    assert children() <= before
    return caught.value.message


def changed(evidence: Evidence, **members: object) -> Evidence:
    message: TpmEvidence = msgspec.structs.replace(unwrap(evidence.data), **members)
    return wrap(message, evidence.endorsements)


# -- Who is admitted ------------------------------------------------------------------------------------------


async def test_an_enclave_with_a_tpm_gets_its_key(site: Site, tpm: SoftwareTpm, log: Path) -> None:
    """Challenge, activation, quote, admission, key, load: the ledger has the TPM, and says what it does not do."""
    instance = await booted(site, attester(tpm, log))
    try:
        assert list(instance.models) == site.models
        (shown,) = (await views.show_enclaves(site.bench.custodian)).enclaves
        assert (shown.tee, shown.result.memory_encryption, shown.simulated) == (TeeType.TPM, False, False)
        assert shown.result.chip_id == chip_of(attester(tpm))
        attested, released = (await site.bench.log())[-2:]
        assert isinstance(attested, Attested)
        assert isinstance(released, KeyReleased)
        assert attested.chip == shown.result.chip_id
        assert instance.warning == NO_MEMORY_ENCRYPTION
    finally:
        await instance.engine.kill_and_wait()


async def test_the_same_process_boots_again(site: Site, tpm: SoftwareTpm) -> None:
    """The attester outlives instances: each boot has its own nonce, so each is activated anew."""
    maker = attester(tpm)
    for _ in range(2):
        instance = await booted(site, maker)
        await instance.engine.kill_and_wait()
    assert (await site.bench.kinds()).count("KeyReleased") == 2


async def test_models_are_lent_to_a_tpm_in_bound_mode_only(tmp_path: Path, tpm: SoftwareTpm) -> None:
    """Its host can copy the enclave's memory, so another lease could be used twice."""
    async with open_site(tmp_path) as site:
        believe(site, tpm)
        await site.bench.command(acts.SetAppraisalPolicy(policy=policy_for(tpm)))
        with pytest.raises(AIGovToolError) as caught:
            await booted(site, attester(tpm))
        assert caught.value.reason == "bound_only"


async def test_memory_that_nobody_encrypts_is_refused_unless_it_is_allowed(site: Site, tpm: SoftwareTpm) -> None:
    """A policy that forgets to say so accepts no TPM."""
    strict = msgspec.structs.replace(policy_for(tpm, version=3), memory_encryption_required=True)
    await site.bench.command(acts.SetAppraisalPolicy(policy=strict))
    await refused(site, attester(tpm), AppraisalError, "memory_encryption")


async def test_a_maker_that_is_not_in_the_directory_is_not_believed(tmp_path: Path, tpm: SoftwareTpm) -> None:
    """Without a file of its root a TPM is nobody's; only the built-in roots are there."""
    async with open_site(tmp_path, policy=BOUND) as site:
        await site.bench.command(acts.SetAppraisalPolicy(policy=policy_for(tpm)))
        await refused(site, attester(tpm), EvidenceError, "chain_root")


# -- Attacks --------------------------------------------------------------------------------------------------


async def test_an_altered_boot_is_refused_by_the_policy(site: Site, tmp_path: Path) -> None:
    """One more measurement, and the TPM quotes something else: its quote is genuine, and not acceptable."""
    (tmp_path / "altered").mkdir()
    with software_tpm(tmp_path / "altered") as machine:
        measure_boot(machine)
        site.bench.now_ms += 60_000  # its certificate was made just now
        believe(site, machine)
        await site.bench.command(acts.SetAppraisalPolicy(policy=policy_for(machine, version=3)))
        instance = await booted(site, attester(machine))
        await instance.engine.kill_and_wait()
        extend(machine, 4, b"another boot loader")
        with pytest.raises(AppraisalError) as caught:
            await booted(site, attester(machine))
        assert caught.value.reason == "measurements"
        assert "pcr4" in caught.value.message
        last = (await site.bench.log())[-1]
        assert isinstance(last, AttestationRefused)
        assert last.reason == "measurements"
        assert (await site.bench.kinds()).count("KeyReleased") == 1


async def test_a_replayed_quote_is_refused(site: Site, tpm: SoftwareTpm) -> None:
    """An old quote fits no new boot: not with its old secret, nor its old report data, nor the new one put in."""
    maker, sent = attester(tpm), list[Evidence]()

    def remember(evidence: Evidence) -> Evidence:
        sent.append(evidence)
        return evidence

    honest = Liar(maker, change=remember)
    await (await booted(site, honest)).engine.kill_and_wait()
    (old,) = sent
    old_data = unwrap(old.data)
    for change, reason in (
        (lambda _: old, "activation"),
        (lambda new: changed(old, secret=unwrap(new.data).secret), "channel_binding"),
        (
            lambda new: changed(new, attest=old_data.attest, signature=old_data.signature, pcrs=old_data.pcrs),
            "extra_data",
        ),
    ):
        with pytest.raises(EvidenceError) as caught:
            await booted(site, Liar(maker, change=change))
        last = (await site.bench.log())[-1]
        assert isinstance(last, AttestationRefused)
        assert (caught.value.reason, last.reason) == (reason, reason)
    assert (await site.bench.kinds()).count("KeyReleased") == 1


async def test_the_key_of_another_tpm_is_not_activated(site: Site, tpm: SoftwareTpm, other: SoftwareTpm) -> None:
    """A host shows the right TPM's certificate beside the key of another one: neither opens the credential."""
    believe(site, tpm, other)
    ours, theirs = attester(tpm), attester(other)
    mixed = ActivationKeys(ek_certificate=ours.keys().ek_certificate, ak_public=theirs.keys().ak_public)
    for real in (ours, theirs):
        with pytest.raises(EvidenceError) as caught:
            await booted(site, Liar(real, shown=mixed))
        assert caught.value.reason == "attester_tpm"


async def test_the_quote_of_another_tpm_is_refused(site: Site, tpm: SoftwareTpm, other: SoftwareTpm) -> None:
    """The right TPM answers the challenge, and another one with a key of its own quotes what it likes."""
    believe(site, tpm, other)
    foreign = attester(other)

    def lend(evidence: Evidence) -> Evidence:
        genuine = unwrap(evidence.data)
        assert genuine.report_data is not None
        theirs = unwrap(foreign.quote(genuine.report_data).data)
        return changed(
            evidence, ak_public=theirs.ak_public, attest=theirs.attest, signature=theirs.signature, pcrs=theirs.pcrs
        )

    await refused(site, Liar(attester(tpm), change=lend), EvidenceError, "activation")


async def test_another_tpm_of_the_same_maker_is_refused(site: Site, tpm: SoftwareTpm, other: SoftwareTpm) -> None:
    """The policy names one TPM: another one is genuine, has booted the same, and is not that one."""
    believe(site, tpm, other)
    await refused(site, attester(other), AppraisalError, "chip")


async def test_a_key_that_was_not_activated_gets_nothing(site: Site, tpm: SoftwareTpm) -> None:
    """Certificates of TPMs are public: without the secret the quote could be software's, and with a guess it fails."""
    deaf = Liar(attester(tpm), deaf=True)
    told = await refused(site, deaf, AppraisalError, "tcb")
    assert "attestation_key is unproven" in told
    guess = Liar(attester(tpm), deaf=True, change=lambda evidence: changed(evidence, secret=bytes(32)))
    await refused(site, guess, EvidenceError, "activation")


async def test_each_custodian_has_an_activation_key_of_its_own(site: Site, tmp_path: Path) -> None:
    """What one put into a credential another one does not know; every machine that serves this one does."""
    elsewhere = make_bench(tmp_path / "elsewhere").custodian
    ours = site.bench.custodian.keys.activation
    assert elsewhere.keys.activation != ours
    assert ours is not None
    assert len(set(ours)) > 8  # chance, not zeros
    elsewhere.database.close()
    found = custodian_keys.load(site.bench.directory)
    assert found.activation == ours


async def test_a_log_that_does_not_replay_is_refused(site: Site, tpm: SoftwareTpm, log: Path) -> None:
    """Events that the TPM did not measure; an honest attester does not send them either."""

    def forge(evidence: Evidence) -> Evidence:
        events = unwrap(evidence.data).events
        cut = tuple(msgspec.structs.replace(one, digests=one.digests[:1]) for one in events.registers)
        return changed(evidence, events=msgspec.structs.replace(events, registers=cut))

    await refused(site, Liar(attester(tpm, log), change=forge), EvidenceError, "replay")


async def test_keys_that_cannot_be_activated_are_refused_at_once(site: Site, tpm: SoftwareTpm) -> None:
    """Rubbish in place of a certificate or a key is a typed refusal with a line in the log, before any evidence."""
    real = attester(tpm)
    keys = real.keys()
    for shown, reason in (
        (ActivationKeys(ek_certificate=b"rubbish", ak_public=keys.ak_public), "certificate_encoding"),
        (ActivationKeys(ek_certificate=keys.ek_certificate, ak_public=b"rubbish"), "public_area"),
    ):
        await refused(site, Liar(real, shown=shown), EvidenceError, reason)


async def test_the_custodians_own_certificate_is_no_proof_for_itself(site: Site, tpm: SoftwareTpm) -> None:
    """It is for consumers: a boot with it, a stolen authority's for example, is refused; each boot is activated."""
    maker = attester(tpm)
    await (await booted(site, maker)).engine.kill_and_wait()
    certificate = maker._ak_certificate
    assert certificate is not None

    def show(evidence: Evidence) -> Evidence:
        bare = msgspec.structs.replace(evidence, endorsements=())
        return changed(bare, certifies=Certifies.AK, certificate=certificate, secret=None)

    with pytest.raises(EvidenceError) as caught:
        await booted(site, Liar(maker, change=show))
    assert caught.value.reason == "chain_root"


# -- Judged again -----------------------------------------------------------------------------------------------


async def test_admitted_evidence_is_verified_again_with_the_nonce_of_its_boot(site: Site, tpm: SoftwareTpm) -> None:
    """The secret is of that exchange: with its nonce the instance stays, with another one it would not."""
    instance = await booted(site, attester(tpm))
    await instance.engine.kill_and_wait()
    custodian = site.bench.custodian
    await reexamine(custodian)
    (shown,) = (await views.show_enclaves(custodian)).enclaves
    assert (shown.state, shown.why) == ("live", "")
    kept = await custodian.database.run(lambda transaction: kept_evidence.find(transaction, instance.instance))
    assert kept is not None
    with pytest.raises(EvidenceError) as caught:
        custodian.verifiers.within(Exchange(nonce=bytes(32))).verify(kept.evidence, site.bench.now_ms)
    assert caught.value.reason == "activation"


# -- Consumers --------------------------------------------------------------------------------------------------


def verified_by_a_consumer(
    site: Site, evidence: Evidence, authorities: tuple[bytes, ...], policy: AppraisalPolicy
) -> str:
    """Return `accepted`, or the reason why a consumer with this policy refuses."""
    verifiers = verifiers_for(policy, allow_simulated=False).within(Exchange(authorities=authorities))
    try:
        appraise(verifiers.verify(evidence, site.bench.now_ms), policy, site.bench.now_ms)
    except (EvidenceError, AppraisalError) as error:
        return str(error.reason)
    return "accepted"


async def test_a_consumer_believes_its_own_custodians_certificate_alone(
    site: Site, tpm: SoftwareTpm, tmp_path: Path
) -> None:
    """It carries no secret. The custodian's policy fits it, chip included; another custodian's authority does not."""
    maker, policy = attester(tpm), policy_for(tpm)
    instance = await booted(site, maker)
    await instance.engine.kill_and_wait()
    claims, evidence = instance.session_evidence(Audience("consumer:ward7"), SESSION_NONCE)
    sent = unwrap(evidence.data)
    assert (sent.secret, sent.certifies, evidence.endorsements) == (None, Certifies.AK, ())
    own = instance.key_set.attestation
    assert verified_by_a_consumer(site, evidence, own, policy) == "accepted"
    verifiers = verifiers_for(policy, allow_simulated=False).within(Exchange(authorities=own))
    found = verifiers.verify(evidence, site.bench.now_ms)
    assert found.report_data == claims.report_data()
    assert found.chip_id == chip_of(maker)
    assert found.endorsed_until_ms <= instance.admission.valid_until_ms
    elsewhere = make_bench(tmp_path / "elsewhere").custodian
    elsewhere.database.close()
    assert verified_by_a_consumer(site, evidence, elsewhere.keys.key_set.attestation, policy) == "chain_signature"
    assert verified_by_a_consumer(site, evidence, (), policy) == "chain_root"


async def test_an_authority_that_is_revoked_has_a_running_enclave_certified_anew(site: Site, tpm: SoftwareTpm) -> None:
    """Stolen, it certifies any key. Consumers who know of it believe nothing of before; the enclave goes on.

    The instance is the same, its model stays loaded, and what the custodian keeps of its boot is as good as it was.
    """
    bench, policy = site.bench, policy_for(tpm)
    async with served(site, attester(tpm)) as service:
        instance, stolen = service.run.instance, bench.custodian.keys
        before, certified = await quoted(instance), instance.admission.certificate
        key = show(bench.directory).of(Role.ATTESTATION, State.IN_USE)
        revoke(bench.directory, key, default_root(bench.directory), bench.now_ms)
        watch = KeyWatch(bench.custodian, bench.directory, (), partial(verifiers_of, bench.directory))
        assert await watch.changed()
        now = bench.custodian.keys.key_set.attestation
        assert not set(now) & set(stolen.key_set.attestation)
        assert verified_by_a_consumer(site, before, stolen.key_set.attestation, policy) == "accepted"
        assert verified_by_a_consumer(site, before, now, policy) == "chain_root"
        async with asyncio.timeout(30):
            while instance.key_set.attestation != now or instance.admission.certificate == certified:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        after = await quoted(instance)
        assert verified_by_a_consumer(site, after, now, policy) == "accepted"
        assert verified_by_a_consumer(site, after, stolen.key_set.attestation, policy) == "chain_root"
        assert instance.keys.envelope == bench.custodian.keys.key_set_envelope
        assert (await bench.kinds())[-2:] == ["KeySetPublished", "Attested"]
        await reexamine(bench.custodian)
        (shown,) = (await views.show_enclaves(bench.custodian)).enclaves
        assert (shown.instance, shown.state, service.run.ending) == (instance.instance, "live", None)
        assert "AttestationWithdrawn" not in await bench.kinds()


async def quoted(instance: Instance) -> Evidence:
    """Have the TPM quote for a consumer, with whatever certificate there is for its key at this moment."""
    _, evidence = await asyncio.to_thread(instance.session_evidence, Audience("consumer:ward7"), SESSION_NONCE)
    return evidence


def verifiers_of(directory: Path, keys: custodian_keys.CustodianKeys) -> VerifierSet:
    return app.verifiers(directory, keys, allow_simulated=True)


async def test_a_consumer_refuses_a_key_that_nobody_has_shown_to_be_in_a_tpm(site: Site, tpm: SoftwareTpm) -> None:
    """Evidence with the TPM's own certificate says nothing to a consumer; nor does a secret that it did not ask for."""
    maker, policy = attester(tpm), policy_for(tpm)
    instance = await booted(site, maker)
    await instance.engine.kill_and_wait()
    own = instance.key_set.attestation
    plain = maker.quote(bytes(64))
    assert verified_by_a_consumer(site, plain, own, policy) == "chain_root"
    boot_evidence = maker.attest(msgspec.structs.replace(instance.claims, role="boot"))
    assert verified_by_a_consumer(site, boot_evidence, own, policy) == "chain_root"
    # The authority certifies attestation keys only: as the certificate of an endorsement key it leads nowhere.
    _, evidence = instance.session_evidence(Audience("consumer:ward7"), SESSION_NONCE)
    posing = changed(evidence, certifies=Certifies.EK)
    assert verified_by_a_consumer(site, posing, own, policy) == "chain_root"


async def test_a_policy_of_activated_keys_alone_refuses_consumers(site: Site, tpm: SoftwareTpm) -> None:
    """To a consumer the key is certified, so a policy for both names both."""
    instance = await booted(site, attester(tpm))
    await instance.engine.kill_and_wait()
    policy = policy_for(tpm)
    rule = FactRule(name=Label("attestation_key"), allowed=("activated",))
    facts = tuple(rule if one.name == rule.name else one for one in policy.accepted[0].facts)
    narrow = msgspec.structs.replace(policy, accepted=(msgspec.structs.replace(policy.accepted[0], facts=facts),))
    _, evidence = instance.session_evidence(Audience("consumer:ward7"), SESSION_NONCE)
    assert verified_by_a_consumer(site, evidence, instance.key_set.attestation, narrow) == "facts"


# -- Messages -----------------------------------------------------------------------------------------------------


async def test_only_a_tpm_is_asked_for_its_keys(site: Site, tpm: SoftwareTpm) -> None:
    """Other enclaves send what they always sent, and get a challenge without a credential, byte by byte."""
    old = {"borrower": "hospital", "models": ["sorter"]}
    assert encode(ChallengeRequest(borrower=BORROWER, models=site.models)) == encode(old)
    await (await booted(site, attester(tpm))).engine.kill_and_wait()
    reply = site.link.seen["/v1/boot/challenge"]
    assert isinstance(reply, ChallengeReply)
    keys = site.bench.custodian.keys.key_set.command_keys()
    challenge = open_envelope(reply.challenge, release.CHALLENGE, Challenge, keys)
    assert challenge.credential is not None
    assert b"credential" not in encode(msgspec.structs.replace(challenge, credential=None))
