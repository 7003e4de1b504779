"""A running custodian takes up changed keys: in the log first, never back, and only those that fit."""

import logging

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, MODEL, Bench, Enclave, message_id, want

from aigovtool.codec import decode, encode
from aigovtool.crypto.keyfile import read_signing_key, write_secret_file
from aigovtool.crypto.sign import seal
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.activation_keys import activation_path
from aigovtool.custodian.app import verifiers
from aigovtool.custodian.hub import Stream
from aigovtool.custodian.key_rotation import Role, State, announce, default_root, revoke, show, use
from aigovtool.custodian.key_watch import KeyWatch, fingerprint
from aigovtool.custodian.keys import CustodianKeys
from aigovtool.custodian.service import key_sets, renewal, views
from aigovtool.custodian.store import models
from aigovtool.custodian.store.transaction import Gap, Transaction
from aigovtool.errors import AIGovToolError, ConfigurationError, LogError, SignatureInvalidError
from aigovtool.ids import digest_of
from aigovtool.ledger.checkpoint import open_checkpoint, parse_checkpoint, sign_checkpoint
from aigovtool.ledger.entry import KeySetPublished
from aigovtool.protocol import messages
from aigovtool.protocol.release import deposit_context
from aigovtool.protocol.trust import KEY_SET, open_key_set
from aigovtool.protocol.views import CheckpointSeen

NOW_MS = 1_800_000_000_000


def watch_of(bench: Bench) -> KeyWatch:
    def judging(keys: CustodianKeys) -> object:
        return verifiers(bench.directory, keys, allow_simulated=True)

    return KeyWatch(bench.custodian, bench.directory, fingerprint(bench.directory), judging)  # type: ignore[arg-type]


@pytest.fixture
async def watch(lent: Bench) -> KeyWatch:
    made = watch_of(lent)
    await made.begin()
    return made


def revoked(bench: Bench, role: Role) -> None:
    key = show(bench.directory).of(role, State.IN_USE)
    revoke(bench.directory, key, default_root(bench.directory), NOW_MS)


async def published(bench: Bench) -> list[int]:
    return [body.version for body in await bench.log() if isinstance(body, KeySetPublished)]


async def test_a_new_set_is_in_the_log_before_it_is_shown_and_once(lent: Bench, watch: KeyWatch) -> None:
    """The first look after a change takes it up, the next ones find nothing new."""
    before = lent.custodian.keys
    assert not await watch.changed()
    announce(lent.directory, Role.COMMANDS, default_root(lent.directory), NOW_MS)
    assert await watch.changed()
    assert not await watch.changed()
    assert await published(lent) == [1, 2]
    assert lent.custodian.keys.key_set.version == 2
    assert lent.custodian.keys.commands.public == before.commands.public
    use(lent.directory, Role.COMMANDS)
    assert await watch.changed()
    assert await published(lent) == [1, 2]
    assert lent.custodian.keys.commands.public != before.commands.public


async def test_enclaves_that_listen_are_told(admitted: Enclave, lent: Bench, watch: KeyWatch) -> None:
    """At once; the number of the set is also beside each renewal."""
    record = await admitted.record()
    with lent.custodian.hub.listen(record) as stream:
        announce(lent.directory, Role.LOG, default_root(lent.directory), NOW_MS)
        assert await watch.changed()
        told: Stream = stream
        line = told.get_nowait()
    assert line is not None
    assert line.key_set == 2
    reply = await renewal.renew(lent.custodian, admitted.renewal())
    assert reply.key_set == 2


async def test_keys_that_do_not_fit_are_logged_once_and_those_in_use_stay(
    lent: Bench, watch: KeyWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy that was broken off, for example; once it is whole it is taken up."""
    used, path = lent.custodian.keys, lent.directory / "keys" / "log.key"
    revoked(lent, Role.LOG)
    whole = path.read_bytes()
    path.write_bytes((lent.directory / "keys" / "commands.key").read_bytes())
    with caplog.at_level(logging.ERROR, "aigovtool.custodian.key_watch"):
        assert not await watch.changed()
        assert not await watch.changed()
    assert [(line.message, getattr(line, "reason", "")) for line in caplog.records] == [
        ("keys_unusable", "key_set_mismatch")
    ]
    assert lent.custodian.keys is used
    path.write_bytes(whole)
    assert await watch.changed()
    assert lent.custodian.keys.log.public != used.log.public


async def test_an_older_set_and_another_one_of_the_same_number_are_not_taken_up(lent: Bench, watch: KeyWatch) -> None:
    """Neither by who runs, nor by who starts: the log knows which one was published last."""
    path = lent.directory / "keys" / "key-set.json"
    first = path.read_bytes()
    announce(lent.directory, Role.LOG, default_root(lent.directory), NOW_MS)
    assert await watch.changed()
    second = lent.custodian.keys
    root = read_signing_key(default_root(lent.directory))
    forked = msgspec.structs.replace(second.key_set, issued_at_ms=NOW_MS + 5)
    for content, reason in ((first, "key_set_rollback"), (encode(seal(KEY_SET, forked, root)), "key_set_fork")):
        path.write_bytes(content)
        assert not await watch.changed()
        assert lent.custodian.keys is second
        lent.custodian.keys = custodian_keys.load(lent.directory)
        with pytest.raises(ConfigurationError) as caught:
            await watch_of(lent).begin()
        assert caught.value.reason == reason
        lent.custodian.keys = second
    assert await published(lent) == [1, 2]


async def test_a_ledger_that_has_forgotten_a_set_does_not_bring_the_one_before_back(
    lent: Bench, watch: KeyWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was restored, and so were the keys: the running custodian remembers what it uses."""
    path = lent.directory / "keys" / "key-set.json"
    first = path.read_bytes()
    announce(lent.directory, Role.LOG, default_root(lent.directory), NOW_MS)
    assert await watch.changed()
    monkeypatch.setattr(key_sets, "publish", lambda *_: None)
    path.write_bytes(first)
    assert not await watch.changed()
    assert lent.custodian.keys.key_set.version == 2


async def test_a_ledger_with_a_gap_uses_a_new_set_and_records_it_when_it_may(lent: Bench, watch: KeyWatch) -> None:
    """A stolen key must not stay in use until two operators have settled what was lost."""
    before = lent.custodian.keys

    def set_gap(transaction: Transaction, gap: Gap | None) -> None:
        transaction.head = msgspec.structs.replace(transaction.head, gap=gap)

    gap = Gap(checkpoint="", generation=0, size=10**6, found_at_ms=0, remembered=1)
    await lent.custodian.database.run(lambda running: set_gap(running, gap))
    revoked(lent, Role.COMMANDS)
    assert await watch.changed()
    assert lent.custodian.keys.commands.public != before.commands.public
    assert await published(lent) == [1]
    assert not await watch.changed()
    await lent.custodian.database.run(lambda running: set_gap(running, None))
    assert not await watch.changed()
    assert await published(lent) == [1, 2]


async def test_a_repeated_renewal_is_answered_under_the_key_in_use_now(
    admitted: Enclave, lent: Bench, watch: KeyWatch
) -> None:
    """The same bytes as before: an enclave that knows the new set would refuse the old signature for ever."""
    await lent.grant(9)
    asked = admitted.renewal(want(2), request_id=message_id())
    first = await renewal.renew(lent.custodian, asked)
    revoked(lent, Role.COMMANDS)
    assert await watch.changed()
    again = await renewal.renew(lent.custodian, asked)
    assert again.answer.payload == first.answer.payload
    assert admitted.opened(again) == decode(first.answer.payload, messages.Answer)
    with pytest.raises(SignatureInvalidError) as caught:
        admitted.opened(first)
    assert caught.value.reason == "wrong_key"


async def test_the_same_state_of_the_log_is_signed_by_the_log_key_in_use_now(lent: Bench, watch: KeyWatch) -> None:
    """And what the revoked key signs is neither a checkpoint of this log nor a gap: a thief stops nobody with it."""
    before = lent.custodian.keys
    announce(lent.directory, Role.LOG, default_root(lent.directory), NOW_MS)
    assert await watch.changed()
    old = await views.show_head(lent.custodian)
    open_checkpoint(old.checkpoint, [before.log.public])
    use(lent.directory, Role.LOG)
    assert await watch.changed()
    new = await views.show_head(lent.custodian)
    assert parse_checkpoint(new.checkpoint) == parse_checkpoint(old.checkpoint)
    open_checkpoint(new.checkpoint, [lent.custodian.keys.log.public])
    revoke(lent.directory, before.log.public.key_id, default_root(lent.directory), NOW_MS)
    assert await watch.changed()
    head = await views.show_head(lent.custodian)
    keys = open_key_set(head.key_set, before.root)
    now = open_checkpoint(head.checkpoint, keys.log_keys())
    with pytest.raises(LogError):
        open_checkpoint(head.checkpoint, [before.log.public])
    larger = msgspec.structs.replace(now, size=now.size + 100, root=bytes(32))
    with pytest.raises(LogError) as caught:
        await views.compare(lent.custodian, CheckpointSeen(checkpoint=sign_checkpoint(larger, before.log)))
    assert caught.value.reason == "checkpoint"
    assert (await views.show_gap(lent.custodian)).checkpoint is None
    kept = sign_checkpoint(parse_checkpoint(head.checkpoint), before.log)
    assert (await views.compare(lent.custodian, CheckpointSeen(checkpoint=kept))).checkpoint


async def test_model_keys_are_wrapped_anew_once_the_new_keystore_key_is_used(
    admitted: Enclave, lent: Bench, watch: KeyWatch
) -> None:
    """Released before, between and after; then the ledger needs the old key no more, and it is gone."""
    old = lent.custodian.keys.keystore
    path = custodian_keys.old_keystore_path(lent.directory / "keys")

    async def wrapped() -> bytes:
        return await lent.custodian.database.run(lambda running: models.require(running, MODEL).wrapped_key)

    first = await wrapped()
    announce(lent.directory, Role.KEYSTORE, default_root(lent.directory), NOW_MS)
    assert await watch.changed()
    assert await wrapped() == first
    await admitted.release()
    use(lent.directory, Role.KEYSTORE)
    assert path.exists()
    assert await watch.changed()
    assert await wrapped() != first
    assert not path.exists()
    await admitted.release()
    assert await watch.changed()  # the old key is forgotten here too
    assert [other.public for other in lent.custodian.keys.other_keystores] == []
    with pytest.raises(AIGovToolError):
        old.unwrap(await wrapped(), b"whatever")
    await admitted.release()


async def test_a_ledger_from_before_a_rotation_says_which_key_is_missing(
    admitted: Enclave, lent: Bench, watch: KeyWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A restored ledger, whose model keys are wrapped to a key that is gone: said at once, until it is put back."""
    old = lent.custodian.keys.keystore.to_secret()
    before = await lent.custodian.database.run(lambda running: models.require(running, MODEL))
    announce(lent.directory, Role.KEYSTORE, default_root(lent.directory), NOW_MS)
    assert await watch.changed()
    use(lent.directory, Role.KEYSTORE)
    assert await watch.changed()
    assert await watch.changed()
    await lent.custodian.database.run(lambda running: models.replace(running, before))
    with caplog.at_level(logging.ERROR):
        await watch_of(lent).begin()
    (said,) = [record for record in caplog.records if record.message == "model_keys_closed"]
    assert (said.__dict__["models"], said.__dict__["model"]) == (1, MODEL)
    assert "keystore.old.key" in said.__dict__["fix"]
    with pytest.raises(SignatureInvalidError) as refused:
        await admitted.release()
    assert "keystore.old.key" in (refused.value.fix or "")
    caplog.clear()
    write_secret_file(custodian_keys.old_keystore_path(lent.directory / "keys"), old)
    assert await watch.changed()
    assert "model_keys_closed" not in caplog.text
    await admitted.release()


async def test_a_custodian_whose_keys_were_left_behind_says_so_once_and_goes_on(
    lent: Bench, watch: KeyWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another one on the same ledger has published a newer set, which nobody has copied here yet."""
    newer = KeySetPublished(version=2, digest=digest_of(b"of another machine"))
    await lent.custodian.database.run(lambda running: lent.custodian.record(running, newer))
    with caplog.at_level(logging.ERROR, "aigovtool.custodian.key_watch"):
        for _ in range(3):
            assert not await watch.changed()
    assert [getattr(line, "reason", "") for line in caplog.records] == ["key_set_rollback"]
    assert await published(lent) == [1, 2]


async def test_a_custodian_whose_keys_were_left_behind_keeps_no_new_deposit(bench: Bench) -> None:
    """The one with the newer keys has wrapped all model keys anew by then, and removed the key that opens this one."""
    await bench.add_borrower(BORROWER)
    newer = KeySetPublished(version=2, digest=digest_of(b"of another machine"))
    await bench.custodian.database.run(lambda running: bench.custodian.record(running, newer))
    with pytest.raises(ConfigurationError) as refused:
        await bench.command(bench.upload())
    assert refused.value.reason == "key_set_rollback"


async def test_a_deposit_to_the_keystore_key_of_before_is_kept_under_the_new_one(bench: Bench) -> None:
    """A model that was sealed before the rotation and is added after its announcement."""
    await bench.add_borrower(BORROWER)
    watch = watch_of(bench)
    await watch.begin()
    old = bench.custodian.keys.keystore
    announce(bench.directory, Role.KEYSTORE, default_root(bench.directory), NOW_MS)
    assert await watch.changed()
    await bench.command(bench.upload())
    wrapped = await bench.custodian.database.run(lambda running: models.require(running, MODEL).wrapped_key)
    context = deposit_context(bench.custodian.keys.custodian, bench.manifest)
    with pytest.raises(SignatureInvalidError):
        old.unwrap(wrapped, context)
    assert bench.custodian.keys.keystore.unwrap(wrapped, context).reveal() == bench.model_key


async def test_a_copy_without_what_activates_attestation_keys_is_not_taken_up(
    lent: Bench, watch: KeyWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As from a machine of an earlier version: what is in use stays, and it is said."""
    before = lent.custodian.keys
    announce(lent.directory, Role.LOG, default_root(lent.directory), NOW_MS)
    path = activation_path(lent.directory / "keys", before.attestation_ca)
    content = path.read_bytes()
    path.unlink()
    with caplog.at_level(logging.ERROR):
        assert not await watch.changed()
    assert [vars(one)["reason"] for one in caplog.records if one.message == "keys_unusable"] == ["missing_key_file"]
    assert lent.custodian.keys is before
    path.touch(mode=0o600)
    path.write_bytes(content)
    assert await watch.changed()
    assert lent.custodian.keys.activation == before.activation
