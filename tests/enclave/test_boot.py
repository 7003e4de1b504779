"""From nothing to a ready instance, against a real custodian, and against one that cheats."""

from pathlib import Path

import msgspec
import pytest
from tests.custodian.conftest import MODEL
from tests.enclave.site import Site, children

from aigovtool.attestation.binding import Expectation, require_bound
from aigovtool.attestation.model import Unchecked
from aigovtool.crypto.sign import SigningKey
from aigovtool.enclave.app import EnclaveOptions, attester_for
from aigovtool.enclave.boot import boot
from aigovtool.errors import AIGovToolError, ConfigurationError, ForbiddenError, SignatureInvalidError
from aigovtool.ids import ModelId, Nonce
from aigovtool.protocol import release
from aigovtool.testing.simulated_tee import wiring


@pytest.mark.parametrize(
    ("tee", "allow", "reason"), [("simulated", False, "simulated_refused"), ("sev-snp", True, "no_tee")]
)
def test_the_simulated_tee_is_never_a_default(tee: str, allow: bool, reason: str, tmp_path: Path) -> None:  # noqa: FBT001
    """Not without the opt-in, and not in place of a real one that is absent."""
    options = EnclaveOptions(
        tee=tee,
        allow_simulated=allow,
        borrower_file=tmp_path,
        models=(MODEL,),
        host="127.0.0.1",
        port=0,
        cache=tmp_path,
    )
    with pytest.raises(ConfigurationError) as caught:
        attester_for(options)
    assert caught.value.reason == reason


async def test_a_boot_ends_with_a_loaded_model_and_bound_evidence(site: Site) -> None:
    """The key travelled to the engine; evidence for a consumer binds its nonce, this TLS key and this model."""
    instance = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache)
    try:
        assert list(instance.models) == [MODEL]
        assert (await site.bench.kinds())[-2:] == ["Attested", "KeyReleased"]
        nonce = Nonce("cd" * 32)
        claims, evidence = instance.session_evidence("ward7", nonce)
        verified = wiring.verifier().verify(evidence, site.bench.now_ms)
        expected = Expectation(
            role="session",
            audience=release.session_audience("ward7"),
            nonce=nonce,
            tls_spki=claims.tls_spki,
            instance=instance.instance,
            custodian_root=site.bench.custodian.keys.custodian,
            configuration=(site.party.configuration(),),
            appraisal_policy=Unchecked(reason="the custodian's"),
            manifests=(site.bench.manifest,),
        )
        require_bound(claims, verified.report_data, expected)
        assert claims.tls_spki == instance.tls.spki_sha256
        assert instance.simulated
    finally:
        await instance.engine.kill_and_wait()


async def test_a_refused_boot_leaves_no_engine(site: Site) -> None:
    """The child, with its HPKE key, is gone before the error is told."""
    site.models = [ModelId("other")]
    before = children()
    with pytest.raises(AIGovToolError) as caught:
        await site.boot()
    assert caught.value.code == "not_found"
    assert children() <= before


async def test_a_wrong_enrolment_key_is_refused(site: Site) -> None:
    """Another borrower's party file, or a stale one, boots nothing."""
    party = msgspec.structs.replace(site.party, enrolment_key=SigningKey.generate().to_secret().reveal())
    await site.refused(ForbiddenError, "not_enrolled", party)


async def test_a_custodian_with_another_root_is_not_obeyed(site: Site) -> None:
    """The TLS address may be right: the key set must be signed by the pinned root."""
    custodian = msgspec.structs.replace(site.party.custodian, root=SigningKey.generate().public.raw)
    await site.refused(SignatureInvalidError, "wrong_key", msgspec.structs.replace(site.party, custodian=custodian))


async def test_the_admission_of_another_boot_is_refused(site: Site) -> None:
    """A replayed admission names another instance and another nonce, however genuine it is."""
    first = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache)
    await first.engine.kill_and_wait()
    old = site.link.seen["/v1/boot"]
    site.link.changes["/v1/boot"] = lambda _: old
    await site.refused(SignatureInvalidError, "wrong_admission")


async def test_the_key_release_of_another_boot_is_refused(site: Site) -> None:
    """It is wrapped to another engine, and says so under its signature."""
    first = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache)
    await first.engine.kill_and_wait()
    old = site.link.seen["/v1/release"]
    site.link.changes["/v1/release"] = lambda _: old
    await site.refused(SignatureInvalidError, "wrong_release")


@pytest.mark.parametrize(("path", "other"), [("/v1/boot", "/v1/release"), ("/v1/release", "/v1/boot")])
async def test_an_answer_of_another_kind_is_refused(path: str, other: str, site: Site) -> None:
    """Both are signed by the custodian, and neither can be taken for the other."""
    first = await boot(site.party, [MODEL], wiring.platform(), site.link, site.cache)
    await first.engine.kill_and_wait()
    swapped = site.link.seen[other]
    site.link.changes[path] = lambda _: swapped
    await site.refused(SignatureInvalidError, "wrong_kind")


async def test_a_borrower_cannot_ask_in_anothers_name(site: Site) -> None:
    """Its key is known, the name is not its own: refused before any evidence is made."""
    party = msgspec.structs.replace(site.party, borrower="nobody")
    await site.refused(SignatureInvalidError, "wrong_sender", party)
    assert "AttestationRefused" not in await site.bench.kinds()
