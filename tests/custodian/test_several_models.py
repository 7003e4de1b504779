"""A boot that asks for several models: each is judged alone; what is refused is named, written down and taken up."""

import msgspec
import pytest
from tests.custodian import conftest
from tests.custodian.conftest import BORROWER, MODEL, OTHER, Bench, Enclave, message_id
from tests.custodian.test_attesting_again import again

from aigovtool.crypto.sign import seal
from aigovtool.custodian.service import key_release, renewal, views
from aigovtool.errors import ForbiddenError, NotFoundError, StoppedError
from aigovtool.ids import ModelId
from aigovtool.ledger.entry import AttestationRefused, StopTarget
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.protocol import commands as acts
from aigovtool.protocol import release
from aigovtool.protocol.release import NotServed
from aigovtool.protocol.views import ModelNotServed

SECOND, NOBODYS, FOREIGN = ModelId("second"), ModelId("nobodys"), ModelId("foreign")
#: Why two of four are not admitted.
REFUSED = (
    NotServed(model=NOBODYS, code="not_found", reason="no_such_model"),
    NotServed(model=FOREIGN, code="forbidden", reason="not_lent"),
)


@pytest.fixture
async def four(lent: Bench, monkeypatch: pytest.MonkeyPatch) -> Enclave:
    """An enclave that asks for four models, of which two are lent to its borrower."""
    first = lent.manifest
    for name in (FOREIGN, SECOND):
        monkeypatch.setattr(conftest, "MODEL", name)
        upload = lent.upload()
        await lent.command(upload)
        if name == FOREIGN:
            await lent.command(acts.SetModelTerms(model=name, policy=bumped(upload), borrowers=[OTHER]))
    monkeypatch.setattr(conftest, "MODEL", MODEL)
    lent.manifest = first
    return Enclave(lent, models=[NOBODYS, MODEL, FOREIGN, SECOND])


def bumped(upload: acts.AddModel) -> ServingPolicy:
    """Return the next version of the same terms."""
    return msgspec.structs.replace(upload.policy, version=upload.policy.version + 1)


async def stop(bench: Bench, target: StopTarget, value: str = "", *, lift: bool = False) -> None:
    """Order a stop, or lift it."""
    act = acts.Resume if lift else acts.Stop
    await bench.command(act(target=target, value=value, reason="test"))


async def more(enclave: Enclave) -> bool:
    """Renew, and return whether there is more to be admitted for."""
    return (await renewal.renew(enclave.bench.custodian, enclave.renewal())).more


async def test_what_may_be_served_is_admitted_and_the_rest_is_named(four: Enclave, lent: Bench) -> None:
    """In the order that was asked for; the record has no other model, so that stops, ttl and units go by these."""
    admission = await four.boot()
    assert [offer.model for offer in admission.models] == [MODEL, SECOND]
    assert admission.refused == REFUSED
    record = await four.record()
    assert (record.models, record.refused, record.set_aside) == ([MODEL, SECOND], REFUSED, ())
    (shown,) = (await views.show_enclaves(lent.custodian)).enclaves
    assert [(one.model, one.by, one.reason) for one in shown.not_served] == [
        (NOBODYS, "custodian", "no_such_model"),
        (FOREIGN, "custodian", "not_lent"),
    ]


async def test_each_refused_model_leaves_the_line_of_a_refused_boot(four: Enclave, lent: Bench) -> None:
    """Whoever reads the log sees what was tried, with how often, as if it had been tried alone."""
    await four.boot()
    refused = [(one.code, one.reason) for one in await lent.log() if isinstance(one, AttestationRefused)]
    assert refused == [(one.code, one.reason) for one in REFUSED]


@pytest.mark.parametrize("model", [NOBODYS, FOREIGN])
async def test_no_key_goes_out_for_what_was_not_admitted(four: Enclave, lent: Bench, model: ModelId) -> None:
    """Nor for a model that is lent meanwhile: it takes a new boot."""
    await four.boot()
    request = release.ReleaseRequest(
        instance=four.instance, request_id=message_id(), model=model, manifest=lent.manifest
    )
    with pytest.raises((ForbiddenError, NotFoundError)):
        await key_release.release_key(lent.custodian, seal(release.RELEASE_REQUEST, request, four.identity))


async def test_with_none_that_may_be_served_the_boot_is_refused(lent: Bench) -> None:
    """For the first one's reason; nothing is recorded."""
    with pytest.raises(NotFoundError) as caught:
        await Enclave(lent, models=[NOBODYS, ModelId("another")]).boot()
    assert caught.value.reason == "no_such_model"
    assert (await views.show_enclaves(lent.custodian)).enclaves == []


@pytest.mark.parametrize("target", [(StopTarget.ALL, ""), (StopTarget.BORROWER, BORROWER)])
async def test_a_stop_of_everything_is_one_of_all_models(
    four: Enclave, lent: Bench, target: tuple[StopTarget, str]
) -> None:
    """Only a stop of a model is that model's."""
    await stop(lent, *target)
    with pytest.raises(StoppedError):
        await four.boot()


async def test_what_is_stopped_is_taken_up_when_the_stop_is_lifted(four: Enclave, lent: Bench) -> None:
    """The instance is told with its renewals, and a new one is admitted for it."""
    await stop(lent, StopTarget.MODEL, MODEL)
    admission = await four.boot()
    assert [offer.model for offer in admission.models] == [SECOND]
    assert not await more(four)
    with lent.custodian.hub.listen(await four.record()) as stream:
        await stop(lent, StopTarget.MODEL, MODEL, lift=True)
        line = stream.get_nowait()
    assert line is not None
    assert line.granted
    assert await more(four)
    admission = await Enclave(lent, models=four.models).boot()
    assert [offer.model for offer in admission.models] == [MODEL, SECOND]


async def test_a_stop_of_what_it_does_not_serve_leaves_an_instance_alone(four: Enclave, lent: Bench) -> None:
    """It has no key of that model, so there is nothing to wipe."""
    await stop(lent, StopTarget.MODEL, MODEL)
    await four.boot()
    await stop(lent, StopTarget.MODEL, FOREIGN)
    reply = await renewal.renew(lent.custodian, four.renewal())
    assert not four.stop_state(reply.stop_state).is_wide()
    assert four.opened(reply).ttl_ms > 0


async def test_what_attests_again_is_refused_with_one_of_its_models(four: Enclave, lent: Bench) -> None:
    """An instance never changes; what it was refused at its boot stays in its record."""
    await four.boot()
    four.models = [MODEL, SECOND]
    await again(four)
    assert (await four.record()).refused == REFUSED
    await stop(lent, StopTarget.MODEL, SECOND)
    with pytest.raises(StoppedError):
        await again(four)


async def test_what_an_enclave_set_aside_is_shown_and_decides_nothing(lent: Bench) -> None:
    """It is the enclave's word; whoever lies with it shows operators a model that nobody serves."""
    enclave = Enclave(lent)
    claims = enclave.claims(await enclave.challenge())
    aside = (NotServed(model=SECOND, code="engine_failed", reason="engine_died"),)
    request = msgspec.structs.replace(enclave.request(claims), not_served=aside)
    admission = await enclave.admit(enclave.sealed(request))
    assert [offer.model for offer in admission.models] == [MODEL]
    (shown,) = (await views.show_enclaves(lent.custodian)).enclaves
    assert shown.not_served == (ModelNotServed(model=SECOND, by="enclave", code="engine_failed", reason="engine_died"),)
    assert not await more(enclave)
