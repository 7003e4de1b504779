"""What policies make of genuine evidence of a TPM: refused unless it is allowed by name, one thing after the other."""

from typing import Any

import msgspec
import pytest
from tests.attestation.authority import NOW_MS
from tests.attestation.tee.tpm.maker import MEASURED, Forgery, digest, root

from aigovtool.attestation.appraisal import appraise
from aigovtool.attestation.model import Label, MeasurementHex, Status, TcbComponent, TeeType, Unchecked
from aigovtool.attestation.policy import (
    AcceptedTee,
    AppraisalPolicy,
    EventRule,
    FactRule,
    ReferenceSet,
    ReferenceValue,
)
from aigovtool.attestation.tee.tpm.activation import STANDING_NONCE, ek_digest, secret_for
from aigovtool.attestation.tee.tpm.verify import TpmVerifier
from aigovtool.errors import AppraisalError

SECRET_FOR = secret_for(bytes(32), STANDING_NONCE)


def value(register: int, expected: bytes | None = None) -> ReferenceValue:
    found = Unchecked(reason="varies") if expected is None else MeasurementHex(expected.hex())
    return ReferenceValue(name=Label(f"pcr{register}"), digest=found)


def policy(**changes: Any) -> AppraisalPolicy:
    values = Forgery().values()
    facts = {
        "attestation_key": ("activated", "certified"),
        "bank": ("sha256", "sha384"),
        "clock_safe": ("yes", "no"),
        "tpm_manufacturer": ("id:54455354",),
        "tpm_model": ("Pretended",),
        "tpm_version": ("id:00010002",),
        **changes.pop("facts", {}),
    }
    reference = ReferenceSet(
        label="our image",
        values=(value(0, values[0]), value(7, values[7]), value(14, values[14])),
        # The boot loader may bring any of our kernels.
        events=(
            EventRule(
                register=Label("pcr4"),
                required=(MeasurementHex(digest("boot loader").hex()), MeasurementHex(digest("separator").hex())),
                allowed=tuple(MeasurementHex(digest(kernel).hex()) for kernel in ("kernel", "next kernel")),
            ),
        ),
    )
    entry: dict[str, Any] = {
        "tee": TeeType.TPM,
        "reference_values": (reference,),
        "min_tcb": tuple(
            TcbComponent(name=Label(name), version=least) for name, least in (("firmware_1", 7), ("firmware_2", 0))
        ),
        "chips": Unchecked(reason="any of that maker"),
        "facts": tuple(FactRule(name=Label(name), allowed=allowed) for name, allowed in facts.items()),
        "max_attestation_age_ms": 3_600_000,
        **changes.pop("entry", {}),
    }
    return AppraisalPolicy(
        **{"version": 1, "accepted": (AcceptedTee(**entry),), "memory_encryption_required": False, **changes}
    )


def outcome(forgery: Forgery, judged: AppraisalPolicy, **options: Any) -> Status | str | None:
    verified = TpmVerifier((root(),), SECRET_FOR, **options).examine(forgery.made(), NOW_MS).genuine()
    try:
        return appraise(verified, judged, NOW_MS).body.status
    except AppraisalError as error:
        return error.reason


def activated(**changes: Any) -> Forgery:
    plain = Forgery(**changes)
    return Forgery(**changes, secret=SECRET_FOR(ek_digest(plain.ek.public_key()), plain.ak_name()))


def test_a_policy_can_accept_a_measured_boot() -> None:
    """With every fact named, events for the register of the kernels, and the missing encryption allowed: a warning."""
    assert outcome(activated(), policy()) is Status.WARNING


def test_missing_memory_encryption_must_be_allowed_by_name() -> None:
    """A policy that does not speak of it refuses every TPM."""
    assert outcome(activated(), policy(memory_encryption_required=True)) == "memory_encryption"


def test_an_unproven_key_is_refused_unless_it_is_allowed_by_name() -> None:
    """It meets no minimum and is no listed chip either, whatever its quote says."""
    allowed = {"facts": {"attestation_key": ("unproven",)}}
    assert outcome(Forgery(), policy(entry={"min_tcb": Unchecked(reason="none")})) == "facts"
    assert outcome(Forgery(), policy(**allowed)) == "tcb"
    chip = ek_digest(Forgery().ek.public_key()).hex()
    listed = {"min_tcb": Unchecked(reason="none"), "chips": (chip,)}
    assert outcome(Forgery(), policy(entry=listed, **allowed)) == "chip"
    assert outcome(activated(), policy(entry={"chips": (chip,)})) is Status.WARNING


def test_another_kernel_is_refused_by_its_event() -> None:
    """A kernel that is not listed, an event too many, or no events at all: not our image."""
    for kernels, expected in (
        (["next kernel"], Status.WARNING),
        (["a stranger's kernel"], "measurements"),
        (["kernel", "a stranger's kernel"], "measurements"),
    ):
        booted = [digest("boot loader"), digest("separator"), *map(digest, kernels)]
        assert outcome(activated(measured={**MEASURED, 4: booted}), policy()) == expected
    assert outcome(activated(events=[]), policy()) == "measurements"


def test_a_foreign_nonce_has_no_rule() -> None:
    """Quotes that other tools asked for are refused by every policy that does not name their nonce."""
    foreign = activated(report_data=None, extra=b"\x07" * 32)
    assert outcome(foreign, policy(), foreign_nonce=b"\x07" * 32) == "facts"
    named = {"facts": {"foreign_nonce": ("07" * 32,)}}
    assert outcome(foreign, policy(**named), foreign_nonce=b"\x07" * 32) is Status.WARNING


@pytest.mark.parametrize("fact", ["bank", "clock_safe", "tpm_manufacturer", "tpm_model", "tpm_version"])
def test_every_fact_must_be_judged(fact: str) -> None:
    """A policy that leaves one of them out refuses."""
    whole = policy()
    kept = tuple(rule for rule in whole.accepted[0].facts if rule.name != fact)
    entry = msgspec.structs.replace(whole.accepted[0], facts=kept)
    assert outcome(activated(), msgspec.structs.replace(whole, accepted=(entry,))) == "facts"
