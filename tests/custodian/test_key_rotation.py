"""Keys are announced, used and revoked in the directory of a custodian: each step whole, and it serves after any."""

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from aigovtool.crypto.keyfile import read_signing_key, write_key
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.wrap import wrap
from aigovtool.crypto.x509 import describe, from_pem, is_issued_by
from aigovtool.custodian import key_rotation
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.key_rotation import Role, State, announce, default_root, revoke, show, use
from aigovtool.custodian.service.credentials import certificate_for
from aigovtool.custodian.store.records import Party
from aigovtool.errors import AIGovToolError, ConfigurationError, ConflictError, NotFoundError, SignatureInvalidError
from aigovtool.ids import BorrowerId, Digest, key_id_of
from aigovtool.ledger.entry import PartyRole
from aigovtool.protocol.release import deposit_context
from aigovtool.protocol.trust import MAX_REVOKED_LOG, open_key_set, require_no_rollback

NOW_MS = 1_800_000_000_000
MANIFEST = Digest("sha256:" + "5" * 64)
SIGNING = (Role.COMMANDS, Role.LOG, Role.CREDENTIALS, Role.ATTESTATION)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "custodian"
    custodian_keys.create(made, ["localhost"], NOW_MS)
    return made


def announced(directory: Path, role: Role) -> None:
    announce(directory, role, default_root(directory), NOW_MS + 1)


def refused(call: Callable[[], object], kind: type[AIGovToolError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return caught.value.reason or ""


def test_no_set_is_made_that_nobody_could_read(directory: Path) -> None:
    """However often keys are rotated and none is revoked: it is refused, what is in use stays, and it serves."""
    while len(custodian_keys.load(directory).key_set.attestation) < 8:
        announced(directory, Role.ATTESTATION)
        use(directory, Role.ATTESTATION)
    before = show(directory)
    for _ in range(2):
        assert refused(lambda: announced(directory, Role.ATTESTATION), ConflictError) == "too_many_keys"
    assert show(directory) == before
    revoke(directory, before.of(Role.ATTESTATION, State.ACCEPTED), default_root(directory), NOW_MS + 2)
    announced(directory, Role.ATTESTATION)
    assert show(directory).version == before.version + 2


def test_no_revoked_log_key_is_forgotten_unless_somebody_says_so(directory: Path) -> None:
    """The log may hold what it signed. A theft cannot wait: who says that the oldest is to go can always revoke."""
    root, revoked = default_root(directory), []
    for _ in range(MAX_REVOKED_LOG):
        revoked.append(show(directory).of(Role.LOG, State.IN_USE))
        revoke(directory, revoked[-1], root, NOW_MS + 1)
    announced(directory, Role.LOG)
    use(directory, Role.LOG)
    rotated = show(directory)
    before = files(directory)
    for state in (State.ACCEPTED, State.IN_USE):
        with pytest.raises(ConflictError) as caught:
            revoke(directory, rotated.of(Role.LOG, state)[:12], root, NOW_MS + 2)
        assert caught.value.reason == "too_many_keys"
        told = caught.value.fix or ""
        assert ("--drop-oldest" in told, revoked[0][:16] in told) == (True, True)
    assert files(directory) == before
    revoke(directory, rotated.of(Role.COMMANDS, State.IN_USE), root, NOW_MS + 2)
    for state in (State.ACCEPTED, State.IN_USE):
        revoked.append(rotated.of(Role.LOG, state))
        revoke(directory, revoked[-1], root, NOW_MS + 3, drop_oldest=True)
        listed = [key_id_of(raw) for raw in custodian_keys.load(directory).key_set.revoked_log]
        assert listed == revoked[-MAX_REVOKED_LOG:]
    assert refused(partial(revoke, directory, "0" * 64, root, NOW_MS), NotFoundError) == "no_such_key"


def test_dropping_the_oldest_drops_nothing_while_there_is_room(directory: Path) -> None:
    """It may be said beforehand, as in a plan for a theft."""
    first = show(directory).of(Role.LOG, State.IN_USE)
    revoke(directory, first, default_root(directory), NOW_MS, drop_oldest=True)
    second = show(directory).of(Role.LOG, State.IN_USE)
    left = revoke(directory, second, default_root(directory), NOW_MS, drop_oldest=True)
    assert {one.key for one in left.keys if one.state is State.REVOKED} == {first, second}


@pytest.mark.parametrize("role", SIGNING)
def test_a_new_key_is_in_the_set_before_it_is_used_and_the_old_one_after(role: Role, directory: Path) -> None:
    """Three orders: announced beside the old one, used, and the old one gone from the set."""
    old = show(directory).of(role, State.IN_USE)
    announced(directory, role)
    first = show(directory)
    assert (first.version, first.of(role, State.IN_USE)) == (2, old)
    new = first.of(role, State.NEXT)
    second = use(directory, role)
    assert (second.version, second.of(role, State.IN_USE), second.of(role, State.ACCEPTED)) == (2, new, old)
    third = revoke(directory, old[:16], default_root(directory), NOW_MS + 2)
    left = [(one.key, one.state) for one in third.keys if one.role is role]
    assert left == [(new, State.IN_USE), *([(old, State.REVOKED)] if role is Role.LOG else [])]
    assert third.version == 3


@pytest.mark.parametrize("role", SIGNING)
def test_the_private_key_of_before_is_nowhere_once_the_new_one_is_used(role: Role, directory: Path) -> None:
    """Whoever takes the directory later cannot sign with it, although what it signed is still believed."""
    old = (directory / "keys" / f"{role.value}.key").read_bytes()
    announced(directory, role)
    use(directory, role)
    assert [path.name for path in directory.rglob("*") if path.is_file() and path.read_bytes() == old] == []
    assert not custodian_keys.next_path(directory / "keys", role.value).exists()


@pytest.mark.parametrize("role", list(Role))
def test_a_key_in_use_is_revoked_in_one_order(role: Role, directory: Path) -> None:
    """As for a stolen key: another one is in use at once, and no reader of the new set believes the old one."""
    before = custodian_keys.load(directory)
    old = show(directory).of(role, State.IN_USE)
    after = revoke(directory, old, default_root(directory), NOW_MS + 1)
    assert after.of(role, State.IN_USE) != old
    assert old not in [one.key for one in after.keys if one.state in (State.IN_USE, State.NEXT, State.ACCEPTED)]
    now = custodian_keys.load(directory)
    require_no_rollback(open_key_set(now.key_set_envelope, before.root), before.key_set)
    with pytest.raises(SignatureInvalidError) as caught:
        require_no_rollback(before.key_set, now.key_set)
    assert caught.value.reason == "key_set_rollback"


def test_every_file_is_private_and_what_is_new_replaces_the_old_in_one_step(directory: Path) -> None:
    """Nobody else can open what a rotation wrote, and nothing is left beside it."""
    for role in Role:
        announced(directory, role)
        use(directory, role)
    names = {path.name for path in (directory / "keys").iterdir()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (directory / "keys").iterdir()} == {0o600}
    assert [name for name in names if name.startswith(".") or ".next." in name] == []
    assert {name for name in names if ".old." in name} == {"keystore.old.key"}


def test_what_is_asked_for_at_the_wrong_time_is_refused(directory: Path) -> None:
    """Two announcements at once, a use of nothing, a key that is none, another custodian's root, two at once."""
    root = default_root(directory)
    assert refused(lambda: use(directory, Role.LOG), ConflictError) == "nothing_announced"
    announced(directory, Role.LOG)
    assert refused(lambda: announced(directory, Role.LOG), ConflictError) == "rotation_under_way"
    for wanted in ("", "0" * 64, show(directory).of(Role.LOG, State.IN_USE)[:7]):
        assert refused(partial(revoke, directory, wanted, root, NOW_MS), NotFoundError) == "no_such_key"
    foreign = directory / "foreign.key"
    write_key(foreign, SigningKey.generate())
    before = files(directory)
    for file, reason in {foreign: "wrong_root_key", directory / "none": "missing_key_file"}.items():
        asked = partial(announce, directory, Role.COMMANDS, file, NOW_MS)
        assert refused(asked, ConfigurationError) == reason
    with key_rotation._held(directory):
        assert refused(lambda: announced(directory, Role.COMMANDS), ConflictError) == "keys_busy"
    assert files(directory) == before


def test_an_announced_key_that_was_stolen_is_revoked_before_it_is_used(directory: Path) -> None:
    """It is in no set any more, and its file is gone; the one in use stays."""
    old = show(directory).of(Role.COMMANDS, State.IN_USE)
    announced(directory, Role.COMMANDS)
    after = revoke(directory, show(directory).of(Role.COMMANDS, State.NEXT), default_root(directory), NOW_MS)
    assert [(one.key, one.state) for one in after.keys if one.role is Role.COMMANDS] == [(old, State.IN_USE)]
    assert not custodian_keys.next_path(directory / "keys", "commands").exists()


def test_a_custodian_without_an_authority_for_attestation_keys_gets_one(directory: Path) -> None:
    """Made by an earlier version: the set is signed again with an authority, which is used at once."""
    root = read_signing_key(default_root(directory))
    keys = custodian_keys.load(directory)
    earlier = key_rotation._with(keys.key_set, Role.ATTESTATION, ())
    key_rotation._write_set(directory / "keys", earlier, root, NOW_MS)
    (directory / "keys" / "attestation.key").unlink()
    assert custodian_keys.load(directory).attestation is None
    announced(directory, Role.ATTESTATION)
    now = custodian_keys.load(directory)
    assert now.attestation is not None
    assert now.attestation_ca == now.key_set.attestation[0]


def test_a_certificate_is_by_the_authority_in_use_and_authorities_have_names_of_their_own(directory: Path) -> None:
    """While two overlap, chains are built by names first; and the old one issues nothing any more."""
    announced(directory, Role.CREDENTIALS)
    use(directory, Role.CREDENTIALS)
    keys = custodian_keys.load(directory)
    old, new = keys.key_set.credentials
    assert describe(old).subject != describe(new).subject
    ward = Party(
        role=PartyRole.CONSUMER,
        name="ward7",
        borrower=BorrowerId("hospital"),
        key=SigningKey.generate().public.raw,
        not_after_ms=NOW_MS + 10**9,
    )
    pem = certificate_for(keys, ward, now_ms=NOW_MS)
    (issued,) = from_pem(pem.encode())
    assert [is_issued_by(issued, authority) for authority in (old, new)] == [False, True]


def test_deposits_to_the_keystore_key_of_before_open_until_they_are_wrapped_anew(directory: Path) -> None:
    """From the announcement on both open; a second rotation waits until nothing needs the first key."""
    then = custodian_keys.load(directory)
    context = deposit_context(then.custodian, MANIFEST)
    to_old = wrap(Secret(b"k" * 32), then.keystore.public, context)
    for step in (announced, use):
        step(directory, Role.KEYSTORE)
        now = custodian_keys.load(directory)
        to_new = wrap(Secret(b"k" * 32), now.key_set.keystore, context)
        assert now.key_set.keystore != then.keystore.public
        for wrapped in (to_old, to_new):
            assert now.open_deposit(wrapped, MANIFEST).reveal() == b"k" * 32
        assert now.rewrap is (step is use)
    assert refused(lambda: announced(directory, Role.KEYSTORE), ConflictError) == "rewrap_under_way"
    in_use = show(directory).of(Role.KEYSTORE, State.IN_USE)
    assert refused(lambda: revoke(directory, in_use, default_root(directory), 0), ConflictError) == "rewrap_under_way"
    custodian_keys.old_keystore_path(directory / "keys").unlink()
    assert refused(lambda: custodian_keys.load(directory).open_deposit(to_old, MANIFEST), SignatureInvalidError)


def test_what_activates_attestation_keys_is_used_while_its_authority_is_and_good_until_that_is_revoked(
    directory: Path,
) -> None:
    """Evidence that was admitted by it is judged again; after the revocation nothing is left of it."""
    then = custodian_keys.load(directory)
    announced(directory, Role.ATTESTATION)
    coming = custodian_keys.load(directory)
    assert coming.activation == then.activation
    use(directory, Role.ATTESTATION)
    now = custodian_keys.load(directory)
    assert coming.other_activations == (now.activation,)
    assert now.other_activations == (then.activation,)
    old = next(one.key for one in show(directory).keys if one.state is State.ACCEPTED)
    revoke(directory, old, default_root(directory), NOW_MS)
    assert custodian_keys.load(directory).other_activations == ()
    assert [content for content in files(directory).values() if content == then.activation] == []
    assert repr(now.activation) not in repr(now)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ATTESTATION])
def test_what_activates_attestation_keys_stays_when_another_key_changes(role: Role, directory: Path) -> None:
    """Revoking a commands key does not have every enclave on a TPM attest again."""
    then = custodian_keys.load(directory).activation
    revoke(directory, show(directory).of(role, State.IN_USE), default_root(directory), NOW_MS)
    now = custodian_keys.load(directory)
    assert (now.activation, now.other_activations) == (then, ())


# -- Broken off ----------------------------------------------------------------------------------------------------


class PowerCutError(Exception):
    """The machine stops."""


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("order", ["announce", "use", "revoke"])
def test_an_order_that_is_broken_off_anywhere_leaves_keys_that_serve_and_is_finished_by_asking_again(
    order: str, role: Role, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each change of a file in turn: the keys load, and the same order again has the outcome of a whole one."""
    old = show(directory).of(role, State.IN_USE)
    if order == "use":
        announced(directory, role)
    orders: dict[str, Callable[[Path], object]] = {
        "announce": lambda place: announced(place, role),
        "use": lambda place: use(place, role),
        "revoke": lambda place: revoke(place, old, default_root(place), NOW_MS + 1),
    }
    whole = copied(directory, tmp_path / "whole")
    orders[order](whole)
    for cut in count():
        place = copied(directory, tmp_path / f"cut{cut}")
        if not is_cut(partial(orders[order], place), cut, monkeypatch):
            assert cut >= {"announce": 2, "use": 1, "revoke": 3}[order]
            return
        custodian_keys.load(place)
        with suppress(ConflictError, NotFoundError):  # the set was written before: that much is done
            orders[order](place)
        custodian_keys.load(place)
        if order == "revoke" and role is Role.KEYSTORE:
            with suppress(ConflictError):  # the new one is announced: what is left is to use it
                use(place, role)
        assert states(place, role) == states(whole, role)


def states(directory: Path, role: Role) -> list[State]:
    return [one.state for one in show(directory).keys if one.role is role]


def is_cut(order: Callable[[], object], after: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Carry out an order whose machine stops before its change number `after`; return whether it came so far."""
    left = [after]

    def counted(name: str) -> None:
        original = getattr(os, name)

        def call(*arguments: object, **named: object) -> object:
            if left[0] == 0:
                raise PowerCutError(name)
            left[0] -= 1
            return original(*arguments, **named)

        patch.setattr(os, name, call)

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink"):
            counted(name)
        try:
            order()
        except PowerCutError:
            return True
    return False


def copied(directory: Path, to: Path) -> Path:
    shutil.copytree(directory, to)
    return to


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "keys").iterdir()}
