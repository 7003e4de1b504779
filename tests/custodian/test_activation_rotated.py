"""What activates attestation keys: it belongs to an authority, and is good until that is revoked."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from tests.attestation.authority import NOW_MS
from tests.attestation.tee.tpm.test_credential import opened
from tests.custodian.conftest import Bench
from tests.custodian.test_activation import AK_NAME, EK, TPM, Machine, lender

from aigovtool.attestation.model import TeeType
from aigovtool.attestation.tee.tpm.activation import ek_digest, secret_for
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.activation_keys import activation_path
from aigovtool.custodian.app import verifiers
from aigovtool.custodian.key_rotation import Role, State, announce, default_root, revoke, show, use
from aigovtool.custodian.keys import CustodianKeys
from aigovtool.custodian.service.reexamination import reexamine
from aigovtool.errors import EvidenceError

__all__ = ["lender"]


def taken_up(bench: Bench) -> None:
    keys = custodian_keys.load(bench.directory)
    bench.custodian.take_up(keys, verifiers(bench.directory, keys, allow_simulated=True))


async def state_of(machine: Machine) -> str:
    return (await machine.record()).state


async def test_a_machine_goes_on_over_a_rotation_and_ends_with_the_revocation(lender: Bench) -> None:
    """What it has shown is judged again under the new key; once the old one is revoked it proves nothing any more."""
    machine = Machine(lender)
    await machine.booted()
    old = show(lender.directory).of(Role.ATTESTATION, State.IN_USE)
    announce(lender.directory, Role.ATTESTATION, default_root(lender.directory), NOW_MS)
    taken_up(lender)
    await reexamine(lender.custodian)
    assert await state_of(machine) == "live"
    use(lender.directory, Role.ATTESTATION)
    taken_up(lender)
    await reexamine(lender.custodian)
    assert await state_of(machine) == "live"
    revoke(lender.directory, old, default_root(lender.directory), NOW_MS)
    taken_up(lender)
    await reexamine(lender.custodian)
    assert await state_of(machine) != "live"
    again = Machine(lender)
    await again.booted()
    await reexamine(lender.custodian)
    assert await state_of(again) == "live"


async def test_a_boot_under_way_is_not_disturbed(lender: Bench) -> None:
    """Asked under the one key, and admitted under the other: by the same custodian, or by one that is ahead."""
    orders: tuple[Callable[[], object], ...] = (
        lambda: announce(lender.directory, Role.ATTESTATION, default_root(lender.directory), NOW_MS),
        lambda: use(lender.directory, Role.ATTESTATION),
    )
    for order in orders:
        machine = Machine(lender)
        challenge = await machine.asked()
        assert challenge.credential is not None
        order()
        taken_up(lender)
        claims = machine.claims(challenge)
        secret = opened(EK, challenge.credential, AK_NAME)
        evidence = replace(TPM, secret=secret, report_data=claims.report_data()).made()
        assert (await machine.admit(machine.sealed_with(claims, evidence))).tee is TeeType.TPM


async def test_a_machine_is_not_disturbed_when_the_commands_key_is_revoked(lender: Bench) -> None:
    """Nothing of what activates attestation keys follows from it, so whoever lost it need not have all attest again."""
    machine = Machine(lender)
    await machine.booted()
    old = show(lender.directory).of(Role.COMMANDS, State.IN_USE)
    revoke(lender.directory, old, default_root(lender.directory), NOW_MS)
    taken_up(lender)
    await reexamine(lender.custodian)
    assert await state_of(machine) == "live"


def seed_of(keys: CustodianKeys, role: Role) -> bytes:
    """Return the 32 bytes that a key of a role is, as whoever stole it has them."""
    stolen = getattr(keys, role.value)
    if isinstance(stolen, TlsKey):
        return stolen.private().private_numbers().private_value.to_bytes(32, "big")
    return bytes(stolen.to_secret().reveal())


@pytest.mark.parametrize("role", list(Role))
async def test_a_thief_of_any_other_key_cannot_answer_for_a_tpm(role: Role, lender: Bench) -> None:
    """With a borrower's key, a TPM's public certificate, and what can be made of the stolen key: no admission."""
    keys = lender.custodian.keys
    stolen = seed_of(keys, role)
    # As the first version made it, of the commands key.
    label = b"aigovtool tpm activation key v1\0" + keys.custodian.encode()
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=label).derive(stolen)
    machine = Machine(lender)
    for key in (stolen, derived):
        challenge = await machine.asked()
        claims = machine.claims(challenge)
        secret = secret_for(key, bytes.fromhex(challenge.nonce))(ek_digest(EK.public_key()), AK_NAME)
        evidence = replace(TPM, secret=secret, report_data=claims.report_data()).made()
        with pytest.raises(EvidenceError) as caught:
            await machine.admit(machine.sealed_with(claims, evidence))
        assert caught.value.reason == "activation"


async def test_who_has_no_activation_key_activates_nothing(lender: Bench) -> None:
    """A directory of an earlier version: one is made for serving, once; without it nothing is asked, or believed."""
    machine = Machine(lender)
    await machine.booted()
    path = activation_path(lender.directory / "keys", lender.custodian.keys.attestation_ca)
    path.unlink()
    assert custodian_keys.load(lender.directory).activation is None
    taken_up(lender)
    with pytest.raises(EvidenceError) as caught:
        await Machine(lender).asked()
    assert caught.value.reason == "activation_key"
    await reexamine(lender.custodian)
    assert await state_of(machine) != "live"
    made = [custodian_keys.load_to_serve(lender.directory).activation for _ in range(2)]
    assert made[0] == made[1] == path.read_bytes()
    taken_up(lender)
    await Machine(lender).booted()
