"""Attestation keys that were activated under a commands key that is rotated: good until that is revoked."""

from collections.abc import Callable
from dataclasses import replace

from tests.attestation.tee.tpm.test_credential import opened
from tests.custodian.conftest import Bench
from tests.custodian.test_activation import AK_NAME, EK, TPM, Machine, lender

from aigovtool.attestation.model import TeeType
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.app import verifiers
from aigovtool.custodian.key_rotation import Role, State, announce, default_root, revoke, show, use
from aigovtool.custodian.service.reexamination import reexamine

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
    old = show(lender.directory).of(Role.COMMANDS, State.IN_USE)
    announce(lender.directory, Role.COMMANDS, default_root(lender.directory), 1)
    taken_up(lender)
    await reexamine(lender.custodian)
    assert await state_of(machine) == "live"
    use(lender.directory, Role.COMMANDS)
    taken_up(lender)
    await reexamine(lender.custodian)
    assert await state_of(machine) == "live"
    revoke(lender.directory, old, default_root(lender.directory), 2)
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
        lambda: announce(lender.directory, Role.COMMANDS, default_root(lender.directory), 1),
        lambda: use(lender.directory, Role.COMMANDS),
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
