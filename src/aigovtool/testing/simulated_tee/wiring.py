"""The one entry through which a role may come to the simulated TEE, after its own explicit opt-in."""

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform, measure
from aigovtool.testing.simulated_tee.verify import SimulatedVerifier, simulated_policy


def verifier() -> SimulatedVerifier:
    """Return the verifier of the simulated TEE."""
    return SimulatedVerifier()


def platform() -> SimulatedPlatform:
    """Return a simulated platform that measures the installed program."""
    return SimulatedPlatform(measure())


def development_policy() -> AppraisalPolicy:
    """Return an appraisal policy that accepts simulated enclaves of exactly this installed program."""
    return simulated_policy(measure())
