"""What a policy accepts that protects less than one might think, said in red wherever a policy is shown or made."""

from typing import TYPE_CHECKING

from aigovtool.cli.screen import Screen

if TYPE_CHECKING:
    from aigovtool.attestation.policy import AcceptedTee, AppraisalPolicy


def warn(screen: Screen, policy: "AppraisalPolicy") -> None:
    """Say in red what a policy accepts that protects less than a TEE should, also to whoever reads JSON."""
    if policy.allow_simulated:
        screen.banner()
    if not policy.memory_encryption_required:
        screen.banner(
            "This policy accepts enclaves with boot integrity, no memory encryption: whoever runs such a host can read "
            "the model."
        )
    for entry in policy.accepted:
        if one_minimum_for_several(entry):
            screen.banner(
                f"{entry.name}: one least TCB for several kinds of processor, which count their versions differently. "
                "Give each an entry with a label of its own."
            )


def one_minimum_for_several(entry: "AcceptedTee") -> bool:
    """Return whether versions are compared although the kind of processor, by which they count, may be any of some."""
    from aigovtool.attestation.model import Unchecked  # noqa: PLC0415

    kinds = [fact.allowed for fact in entry.facts if fact.name in {"product", "fmspc"}]
    several = any(isinstance(allowed, Unchecked) or len(allowed) > 1 for allowed in kinds)
    return several and not isinstance(entry.min_tcb, Unchecked)
