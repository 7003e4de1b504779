"""What operators see is what the ledger holds, and the log proves itself."""

import base64
import secrets

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, OTHER, STRANGER, Bench, Enclave, report, want

from aigovtool.attestation.policy import policy_digest
from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.custodian.service import boot, renewal, views
from aigovtool.custodian.store import instances, log
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import LogError
from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, key_id_of
from aigovtool.ledger import entry
from aigovtool.ledger.checkpoint import open_checkpoint
from aigovtool.ledger.entry import Entry, PartyRole, StopTarget
from aigovtool.ledger.merkle import leaf_hash, root_of
from aigovtool.ledger.policy import consequences
from aigovtool.ledger.units import ZERO, Dimension, UnitVector
from aigovtool.protocol import commands as acts
from aigovtool.protocol.messages import WIPED, Grant, Wiped
from aigovtool.protocol.release import BOOT_AGAIN
from aigovtool.protocol.trust import open_key_set
from aigovtool.testing.simulated_tee import wiring


async def test_parties_are_shown_by_key_id_and_stay_when_revoked(lent: Bench) -> None:
    """Everybody who ever held a credential, without any secret."""
    await lent.command(acts.RevokeParty(role=PartyRole.CONSUMER, name=STRANGER))
    found = {(party.role, party.name): party for party in (await views.show_parties(lent.custodian)).parties}
    assert set(found) == {
        (PartyRole.OPERATOR, "alice"),
        (PartyRole.BORROWER, BORROWER),
        (PartyRole.BORROWER, OTHER),
        (PartyRole.CONSUMER, CONSUMER),
        (PartyRole.CONSUMER, STRANGER),
    }
    assert found[PartyRole.CONSUMER, CONSUMER].borrower == BORROWER
    assert found[PartyRole.CONSUMER, CONSUMER].key == key_id_of(lent.consumers[CONSUMER].public.raw)
    assert [name for (_, name), party in found.items() if party.revoked] == [STRANGER]


async def test_models_are_shown_without_their_key(lent: Bench) -> None:
    """Names, digests and tensors; not even the wrapped key."""
    shown = await views.show_models(lent.custodian)
    (model,) = shown.models
    assert (model.model, model.manifest, model.package, model.borrowers) == (
        MODEL,
        lent.manifest,
        lent.package,
        [BORROWER],
    )
    assert model.sealer == lent.key.public.key_id
    assert (len(model.inputs), len(model.outputs)) == (1, 1)
    assert "wrapped" not in encode(shown).decode()


async def test_budgets_come_with_what_the_dial_means(lent: Bench) -> None:
    """The three consequences are computed from the room that is left."""
    await lent.grant(1000)
    (row,) = (await views.show_budgets(lent.custodian)).budgets
    assert (row.limit, row.posted, row.pending, row.room) == (1000, 0, 0, 1000)
    assert row.consequences == consequences(lent.policy, Dimension.INFERENCES, 1000, 1000)


async def test_what_a_crash_loses_is_told_for_one_consumer(admitted: Enclave, lent: Bench) -> None:
    """Its lease and the next one; of two consumers an enclave holds twice as much, and a larger batch has more."""
    await lent.add_consumer(ConsumerId("night"), BORROWER)
    await lent.grant(1000)
    told = consequences(lent.policy, Dimension.INFERENCES, 1000, 1000).units_lost_on_crash_max
    for _ in range(2):
        await admitted.renew(want(50), want(50, consumer=ConsumerId("night")))
    (row,) = (await views.show_budgets(lent.custodian)).budgets
    assert told < row.pending <= 2 * told
    batch = msgspec.structs.replace(want(), minimum=UnitVector(inferences=told + 1))
    (larger,) = (await admitted.renew(batch)).results
    assert isinstance(larger, Grant)
    assert larger.units.inferences > told


async def test_usage_and_enclaves_add_up_to_the_ledger(admitted: Enclave, lent: Bench) -> None:
    """What is outstanding on an instance is what its lease holds, until it is closed."""
    await lent.grant(1000)
    (grant,) = (await admitted.renew(want(5))).results
    assert isinstance(grant, Grant)
    shown = await views.show_enclaves(lent.custodian)
    (enclave,) = shown.enclaves
    assert (enclave.instance, enclave.borrower, enclave.state) == (admitted.instance, BORROWER, "live")
    assert enclave.simulated
    assert not enclave.connected
    assert (enclave.outstanding, shown.server_time_ms) == (UnitVector(inferences=5), lent.now_ms)
    # 500 ppm for its clock, and not the grace that the ledger waits for a final report.
    assert enclave.authority_until_ms == lent.now_ms + grant.ttl_ms + 15
    await admitted.renew(reports=(report(grant.lease_id, seq=1, used=4, final=True),))
    (enclave,) = (await views.show_enclaves(lent.custodian)).enclaves
    assert (enclave.outstanding, enclave.authority_until_ms) == (ZERO, lent.now_ms + grant.ttl_ms + 15)
    (usage,) = (await views.show_usage(lent.custodian)).usage
    assert (usage.model, usage.borrower, usage.consumer) == (MODEL, BORROWER, CONSUMER)
    four = UnitVector(inferences=4)
    assert (usage.granted, usage.charged, usage.used) == (UnitVector(inferences=5), four, four)
    assert (usage.ok, usage.err) == (4, 0)


async def test_a_stop_is_shown_until_it_is_lifted(lent: Bench) -> None:
    """With the epoch at which it was set."""
    result = await lent.command(acts.Stop(target=StopTarget.MODEL, value=MODEL, reason="drill"))
    shown = await views.show_stops(lent.custodian)
    assert [(stop.target, stop.value, stop.epoch) for stop in shown.stops] == [(StopTarget.MODEL, MODEL, result.epoch)]
    await lent.command(acts.Resume(target=StopTarget.MODEL, value=MODEL, reason="over"))
    shown = await views.show_stops(lent.custodian)
    assert (shown.stops, shown.epoch) == ([], 2)


async def test_the_policy_shown_is_the_policy_that_was_logged(bench: Bench) -> None:
    """Its digest is in the log, so nobody can show another one."""
    policy = msgspec.structs.replace(wiring.development_policy(), version=2)
    result = await bench.command(acts.SetAppraisalPolicy(policy=policy))
    shown = await views.show_policy(bench.custodian)
    line = (await bench.log())[result.entry]
    assert isinstance(line, entry.AppraisalPolicySet)
    assert (shown, line.digest) == (policy, policy_digest(shown))


async def test_a_new_ledger_begins_with_its_genesis(bench: Bench) -> None:
    """Who the custodian is, its keys, its first operator, its policy: in this order, and nothing before."""
    body = await bench.log()
    assert [type(line) for line in body] == [
        entry.Genesis,
        entry.KeySetPublished,
        entry.PartyAdded,
        entry.AppraisalPolicySet,
    ]
    assert body[0] == entry.Genesis(custodian=bench.custodian.keys.custodian)


@pytest.mark.parametrize("step", [1, 3, 1000])
async def test_pages_form_the_tree_that_the_checkpoint_signs(step: int, admitted: Enclave, lent: Bench) -> None:
    """From pages of any size a reader computes the signed root itself, and every index is there once."""
    await lent.grant(10)
    await admitted.renew(want())
    shown = await views.show_head(lent.custodian)
    key_set = open_key_set(shown.key_set, lent.custodian.keys.root)
    checkpoint = open_checkpoint(shown.checkpoint, key_set.log_keys())
    pages = [await views.show_log(lent.custodian, start, step) for start in range(0, checkpoint.size, step)]
    assert [page.start for page in pages] == list(range(0, checkpoint.size, step))
    entries = [raw for page in pages for raw in page.entries]
    assert [decode(raw, Entry).index for raw in entries] == list(range(checkpoint.size))
    assert root_of([leaf_hash(raw) for raw in entries]) == checkpoint.root
    assert checkpoint.custodian == lent.custodian.keys.custodian
    # One changed byte anywhere is another tree.
    changed = [entries[0].replace(b"0", b"1", 1), *entries[1:]]
    assert root_of([leaf_hash(raw) for raw in changed]) != checkpoint.root


async def test_the_times_in_the_log_never_go_back(lent: Bench) -> None:
    """Although the host's clock did."""
    await lent.grant(1)
    lent.now_ms -= 200_000
    await lent.grant(1)
    page = await views.show_log(lent.custodian, 0, 1000)
    times = [decode(raw, Entry).at_ms for raw in page.entries]
    assert times == sorted(times)


async def test_a_checkpoint_of_another_key_does_not_verify(bench: Bench) -> None:
    """Neither the command key nor a stranger's signs checkpoints."""
    shown = await views.show_head(bench.custodian)
    for key in (bench.custodian.keys.commands, SigningKey.generate()):
        with pytest.raises(LogError):
            open_checkpoint(shown.checkpoint, [key.public])


async def test_an_empty_page_is_beyond_the_end(bench: Bench) -> None:
    """No error and no entries: a reader that is up to date."""
    size = (await bench.custodian.database.run(log.head)).size
    assert (await views.show_log(bench.custodian, size, 10)).entries == []
    first = await views.show_log(bench.custodian, size - 1, 10)
    assert len(first.entries) == 1
    assert base64.b64encode(first.entries[0]) in encode(first)


async def test_an_instance_that_is_not_heard_of_is_shown_as_silent(admitted: Enclave, lent: Bench) -> None:
    """By then it has wiped itself or is off; one that wiped can release nothing, however lately it was heard of."""
    lent.now_ms += lent.policy.wipe_after_ms
    (enclave,) = (await views.show_enclaves(lent.custodian)).enclaves
    assert enclave.state == "live"
    lent.now_ms += 1
    (enclave,) = (await views.show_enclaves(lent.custodian)).enclaves
    assert enclave.state == "silent"
    statement = Wiped(instance=admitted.instance, epoch=0, reports=[])
    await renewal.wiped(lent.custodian, seal(WIPED, statement, admitted.identity))
    (enclave,) = (await views.show_enclaves(lent.custodian)).enclaves
    assert (enclave.state, enclave.authority_until_ms) == ("wiped", 0)


async def test_whoever_boots_again_and_again_hides_no_enclave(admitted: Enclave, lent: Bench) -> None:
    """Attack: another borrower's two hundred and five newer boots; what is not shown of its own is counted."""
    await lent.grant(1000)
    await admitted.renew(want(5))
    booted = 205
    await lent.custodian.database.run(lambda transaction: _boots(transaction, OTHER, booted, lent.now_ms + 1))
    shown = await views.show_enclaves(lent.custodian)
    assert [one.state for one in shown.enclaves if one.instance == admitted.instance] == ["live"]
    assert sum(one.borrower == OTHER for one in shown.enclaves) == 200
    assert shown.unlisted == {OTHER: booted - 200}


async def test_what_an_enclave_holds_is_shown_however_many_came_after_it(admitted: Enclave, lent: Bench) -> None:
    """Also of its own borrower's, and long after it was heard of last: it can be written off."""
    await lent.grant(1000)
    await admitted.renew(want(5))
    lent.now_ms += 7 * 86_400_000
    await lent.custodian.database.run(lambda transaction: _boots(transaction, BORROWER, 205, lent.now_ms))
    shown = await views.show_enclaves(lent.custodian)
    (found,) = [one for one in shown.enclaves if one.instance == admitted.instance]
    assert found.outstanding == UnitVector(inferences=5)


async def test_one_that_has_wiped_itself_is_shown_with_that(admitted: Enclave, lent: Bench) -> None:
    """Whoever watches a stop sees who acknowledged it, also behind two hundred newer boots."""
    await lent.custodian.database.run(lambda transaction: _boots(transaction, OTHER, 205, lent.now_ms + 1))
    statement = Wiped(instance=admitted.instance, epoch=7, reports=[])
    await renewal.wiped(lent.custodian, seal(WIPED, statement, admitted.identity))
    shown = await views.show_enclaves(lent.custodian)
    assert [one.wiped_epoch for one in shown.enclaves if one.instance == admitted.instance] == [7]


async def test_an_enclave_that_attests_again_counts_from_then_on(admitted: Enclave, lent: Bench) -> None:
    """One that lives for weeks is not behind all that came since its first boot."""
    lent.now_ms += 12 * 3_600_000
    await lent.custodian.database.run(lambda transaction: _boots(transaction, BORROWER, 3, lent.now_ms - 1))
    claims = admitted.claims(await admitted.challenge())
    await boot.admit_again(
        lent.custodian, seal(BOOT_AGAIN, admitted.request(claims), lent.enrolment[BORROWER], admitted.identity)
    )
    (newest, *_) = (await views.show_enclaves(lent.custodian)).enclaves
    assert newest.instance == admitted.instance


async def test_authority_by_a_ttl_that_was_longer_is_shown_until_it_is_over(admitted: Enclave, lent: Bench) -> None:
    """Attack: the host withholds the answer with a shorter ttl. What the longer one gave ends when that says."""
    longer = msgspec.structs.replace(lent.policy, version=2, ttl_ms=300_000)
    shorter = msgspec.structs.replace(lent.policy, version=3, ttl_ms=10_000)
    await lent.command(acts.SetModelTerms(model=MODEL, policy=longer, borrowers=[BORROWER]))
    lent.now_ms += 1_000
    contact_ms = lent.now_ms
    assert (await admitted.renew()).ttl_ms == 300_000
    lent.now_ms += 5_000
    await lent.command(acts.SetModelTerms(model=MODEL, policy=shorter, borrowers=[BORROWER]))
    assert await _authority_until(lent) == contact_ms + 300_000 + 150
    lent.now_ms += 1_000
    changed_ms = lent.now_ms - 1_000
    await admitted.renew()  # of which nobody knows whether the answer came
    assert await _authority_until(lent) == changed_ms + 300_000 + 150
    lent.now_ms += 300_000
    await admitted.renew()
    assert await _authority_until(lent) == lent.now_ms + 10_000 + 5


@pytest.mark.usefixtures("admitted")
async def test_of_ttls_that_were_longer_the_longest_counts(lent: Bench) -> None:
    """Made shorter twice: what the first gave is not forgotten with the second; one that grows is as long as it is."""
    now_ms, versions = lent.now_ms, iter(range(2, 10))
    for ttl_s in (300, 100, 20, 40):
        policy = msgspec.structs.replace(lent.policy, version=next(versions), ttl_ms=ttl_s * 1_000)
        await lent.command(acts.SetModelTerms(model=MODEL, policy=policy, borrowers=[BORROWER]))
    assert await _authority_until(lent) == now_ms + 300_000 + 150


async def _authority_until(bench: Bench) -> int:
    (enclave,) = (await views.show_enclaves(bench.custodian)).enclaves
    return enclave.authority_until_ms


def _boots(transaction: Transaction, borrower: BorrowerId, number: int, now_ms: int) -> None:
    """Record as many instances of a borrower as its boots would have left."""
    (known, _), *_ = instances.listed(transaction, instances.Since(attested_ms=0, heard_ms=0), 1)
    for _ in range(number):
        key = SigningKey.generate().public.raw
        name = InstanceId(secrets.token_hex(32))
        changed = {"instance": name, "borrower": borrower, "identity_key": key, "attested_at_ms": now_ms}
        instances.add(transaction, msgspec.structs.replace(known, **changed))
