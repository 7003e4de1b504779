"""An instance attests again with its own keys: it lives longer, and is the same in everything else."""

import msgspec
import pytest
from tests.custodian.conftest import OTHER, Bench, Enclave, want

from aigovtool.crypto.sign import Envelope, SigningKey, open_by_any, seal
from aigovtool.custodian.service import boot, renewal
from aigovtool.custodian.store import evidence
from aigovtool.errors import (
    AIGovToolError,
    AppraisalError,
    EvidenceError,
    ForbiddenError,
    ReattestRequiredError,
    SignatureInvalidError,
    StoppedError,
)
from aigovtool.ids import ModelId
from aigovtool.ledger.entry import AttestationRefused, Attested, StopTarget
from aigovtool.protocol import commands as acts
from aigovtool.protocol import messages, release
from aigovtool.protocol.messages import Grant
from aigovtool.protocol.release import Admission, BootRequest
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform, measure

DAY_MS = 86_400_000


def sealed(enclave: Enclave, request: BootRequest, *keys: SigningKey) -> Envelope:
    return seal(release.BOOT_AGAIN, request, *(keys or (enclave.bench.enrolment[enclave.borrower], enclave.identity)))


async def request_of(enclave: Enclave) -> BootRequest:
    return enclave.request(enclave.claims(await enclave.challenge()))


async def admit(enclave: Enclave, envelope: Envelope) -> Admission:
    answer = await boot.admit_again(enclave.bench.custodian, envelope)
    return open_by_any(answer, release.ADMISSION, Admission, enclave.bench.command_keys)


async def again(enclave: Enclave) -> Admission:
    return await admit(enclave, sealed(enclave, await request_of(enclave)))


async def test_an_instance_that_attests_again_lives_longer(admitted: Enclave, lent: Bench) -> None:
    """The same instance with the same leases: what it holds and may do does not change; the log says that it did."""
    await lent.grant(9)
    before = await admitted.record()
    lent.now_ms += DAY_MS // 2
    admission = await again(admitted)
    after = await admitted.record()
    assert after.valid_until_ms == admission.valid_until_ms == before.valid_until_ms + DAY_MS // 2
    assert (after.identity_key, after.models, after.state) == (before.identity_key, before.models, "live")
    assert admission.instance == admitted.instance
    lent.now_ms = before.valid_until_ms + 1
    (granted,) = (await admitted.renew(want(1))).results
    assert isinstance(granted, Grant)
    assert [line.instance for line in await lent.log() if isinstance(line, Attested)] == [admitted.instance] * 2
    kept = await lent.custodian.database.run(lambda transaction: evidence.find(transaction, admitted.instance))
    assert kept is not None
    assert kept.nonce == admission.nonce


async def test_what_is_over_needs_a_new_boot(admitted: Enclave, lent: Bench) -> None:
    """Too late, wiped, or unknown: keys that were given up do not come back."""
    unknown = Enclave(lent)
    with pytest.raises(ForbiddenError):
        await again(unknown)
    other = Enclave(lent)
    await other.boot()
    gone = messages.Wiped(instance=other.instance, epoch=1, reports=[])
    await renewal.wiped(lent.custodian, seal(messages.WIPED, gone, other.identity))
    with pytest.raises(ReattestRequiredError):
        await again(other)
    lent.now_ms = (await admitted.record()).valid_until_ms
    with pytest.raises(ReattestRequiredError):
        await again(admitted)


@pytest.mark.attack(3)
async def test_another_machine_does_not_take_the_place_of_an_instance(admitted: Enclave, lent: Bench) -> None:
    """Attack: other keys under its name, other models, or its request signed by somebody else."""
    before = await admitted.record()
    thief = Enclave(lent, boot_nonce=admitted.boot_nonce)
    stolen = thief.claims(await thief.challenge())
    forged = msgspec.structs.replace(
        thief.request(stolen), claims=msgspec.structs.replace(stolen, instance=admitted.instance)
    )
    with pytest.raises(AIGovToolError):
        await admit(thief, sealed(thief, forged))
    for keys in ((lent.enrolment[OTHER], admitted.identity), (lent.enrolment[admitted.borrower], thief.identity)):
        with pytest.raises((SignatureInvalidError, ForbiddenError)):
            await admit(admitted, sealed(admitted, await request_of(admitted), *keys))
    fewer = Enclave(lent, identity=admitted.identity, hpke=admitted.hpke, boot_nonce=admitted.boot_nonce, models=[])
    request = await request_of(admitted)
    with pytest.raises(AIGovToolError):
        await admit(fewer, sealed(fewer, msgspec.structs.replace(request, models=[ModelId("nothing")])))
    assert (await admitted.record()) == before


async def test_each_attestation_needs_a_nonce_of_its_own(admitted: Enclave) -> None:
    """Attack: a request that was sent before, or the request of a boot as one of these."""
    request = await request_of(admitted)
    await admit(admitted, sealed(admitted, request))
    with pytest.raises(EvidenceError, match="fresh"):
        await admit(admitted, sealed(admitted, request))
    with pytest.raises(SignatureInvalidError):
        await admit(admitted, admitted.sealed(await request_of(admitted)))
    with pytest.raises(SignatureInvalidError):
        await admitted.admit(sealed(admitted, await request_of(admitted)))


async def test_what_the_policy_refuses_now_does_not_live_longer(admitted: Enclave, lent: Bench) -> None:
    """It is in the log, and the instance keeps the time that it had."""
    before = await admitted.record()
    request = await request_of(admitted)
    debugged = SimulatedPlatform(measure(), debug=True).attest(request.claims)
    lent.now_ms += 1_000
    with pytest.raises(AppraisalError):
        await admit(admitted, sealed(admitted, msgspec.structs.replace(request, evidence=debugged)))
    assert (await admitted.record()).valid_until_ms == before.valid_until_ms
    assert [line.reason for line in await lent.log() if isinstance(line, AttestationRefused)] == ["debug"]


async def test_what_is_stopped_does_not_live_longer(admitted: Enclave, lent: Bench) -> None:
    """A stop is not outlived by attesting."""
    await lent.command(acts.Stop(target=StopTarget.ALL, value="", reason="test"))
    with pytest.raises(StoppedError):
        await again(admitted)
