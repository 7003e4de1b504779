"""All known attacks, and all faults that the predecessor was found to have, by number."""

from assurance.attacks import (
    evidence,
    faults_in_budget,
    faults_in_channel,
    faults_in_operation,
    inputs,
    lifecycle,
    services,
)
from assurance.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (*evidence.ATTACKS, *lifecycle.ATTACKS, *inputs.ATTACKS, *services.ATTACKS)
FAULTS: tuple[Attack, ...] = (*faults_in_budget.FAULTS, *faults_in_channel.FAULTS, *faults_in_operation.FAULTS)
