"""`aigovtool appraisal draft`: a policy that accepts what one piece of genuine evidence says, to begin with.

Every rule is what that machine said, and nothing is left out: it is a list of questions for whoever decides, not an
answer. The chip alone is left open, unless it is asked for; and that revocation was checked is demanded even where it
could not be checked now.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec import Struct

from aigovtool.cli.appraisal.loud import warn
from aigovtool.cli.appraisal.policy_file import read_policy
from aigovtool.cli.appraisal.words import rules
from aigovtool.cli.document import write_document
from aigovtool.cli.evidence.genuine import genuine, genuine_options, unproven
from aigovtool.cli.evidence.verb import TEES
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import ANYTHING, FILE, Verb
from aigovtool.errors import InvalidValueError

if TYPE_CHECKING:
    from aigovtool.attestation.model import Fact, Unchecked, VerifiedEvidence
    from aigovtool.attestation.policy import AppraisalPolicy

_DAY_MS: Final = 86_400_000
_ANY_CHIP: Final = "any chip that its vendor certifies"
#: What is demanded whatever was seen: that a list could not be had when a policy was drafted is no rule; and that a key
#: is in a TPM is shown to custodians and by them, never by a file.
_DEMANDED: Final = {"revocation": ("checked",), "attestation_key": ("activated", "certified")}
#: What is another at each start, so that no policy can name it.
_NEW_EACH_TIME: Final = {"module_id": "it is new with each start of a Nitro enclave"}
_NO_VERSIONS: Final = "this platform tells no versions"
_NO_VERSIONS_YET: Final = "told by evidence with an activated key only: set the least firmware by hand"
_REVIEW: Final = "This is what one machine said. Go through every rule before it decides who gets a model."


class Drafted(Struct, frozen=True, kw_only=True):
    """A policy that was written: its file, its version, how many rules it has, and where it is not what was said."""

    file: str
    version: int
    rules: int
    differs: list[str]


@click.command(cls=Verb, example="aigovtool appraisal draft report.bin --tee sev-snp -o policy.json")
@click.argument("file", metavar="FILE", type=ANYTHING)
@click.option("--tee", type=click.Choice(TEES), help="Whose evidence it is, where the file does not say.")
@genuine_options
@click.option("--this-chip", is_flag=True, help="Accept this chip alone, not any that its vendor certifies.")
@click.option("--label", default="first build", show_default=True, help="What the build is called.")
@click.option("--entry", metavar="LABEL", help="What the entry is called (milan, turin); for policies with several.")
@click.option("--add-to", type=FILE, help="Write the next version of this policy, with this entry beside its own.")
@click.option("--version", default=1, show_default=True, type=click.IntRange(1), help="The version of a new policy.")
@click.option("-o", "--out", type=FILE, required=True, help="Where the policy is written.")
@click.pass_obj
def draft(
    screen: Screen,
    /,
    *,
    file: Path,
    tee: str | None,
    this_chip: bool,
    label: str,
    entry: str | None,
    add_to: Path | None,
    version: int,
    out: Path,
    **options: Any,  # noqa: ANN401 - those of `genuine_options`
) -> None:
    """Write a policy that accepts what genuine evidence says, to go on from; where it differs, that is listed.

    Each of its rules is to be looked at: which versions are the least, which facts may have other values, which are not
    worth checking. Debug mode is accepted by no policy.
    """
    verified = genuine(screen, file, tee, **options)
    if this_chip and verified.chip_id is None:
        raise InvalidValueError("the platform does not tell which chip it is", reason="no_chip")
    policy = drafted(verified, label=label, version=version, this_chip=this_chip, entry=entry)
    if add_to is not None:
        policy = joined(read_policy(add_to), policy)
    write_document(out, policy, replace=False)
    warn(screen, policy)
    apart = differences(verified)
    shown = Drafted(file=str(out), version=policy.version, rules=len(rules(policy)), differs=apart)

    def render() -> None:
        screen.table(("what", "accepted"), [(rule.what, rule.text) for rule in rules(policy)], "")
        for line in apart:
            screen.line(f"not as it was said: {line}", style="bold")
        screen.line(f"written to {out}", style="green")
        screen.line(_REVIEW)

    screen.show(shown, render)


def drafted(
    verified: "VerifiedEvidence", *, label: str, version: int, this_chip: bool, entry: str | None = None
) -> "AppraisalPolicy":
    """Return a policy that accepts what `verified` says and nothing else, but for the chip."""
    from aigovtool.attestation.model import Label, TeeType, Unchecked  # noqa: PLC0415
    from aigovtool.attestation.policy import (  # noqa: PLC0415
        AcceptedTee,
        AppraisalPolicy,
        FactRule,
        ReferenceSet,
        ReferenceValue,
    )
    from aigovtool.codec import convert  # noqa: PLC0415

    values = tuple(ReferenceValue(name=part.name, digest=part.digest) for part in verified.measurements)
    chips = Unchecked(reason=_ANY_CHIP) if verified.chip_id is None or not this_chip else (verified.chip_id,)
    accepted = AcceptedTee(
        tee=verified.tee,
        reference_values=(ReferenceSet(label=label, values=values),),
        min_tcb=verified.tcb.components or Unchecked(reason=_NO_VERSIONS_YET if unproven(verified) else _NO_VERSIONS),
        chips=chips,
        facts=tuple(FactRule(name=one.name, allowed=_allowed(one)) for one in verified.facts),
        max_attestation_age_ms=_DAY_MS,
        advisories=verified.advisories,
        label=None if entry is None else convert(entry, Label),
    )
    return AppraisalPolicy(
        version=version,
        accepted=(accepted,),
        memory_encryption_required=verified.memory_encryption or verified.tee is TeeType.SIMULATED,
        allow_simulated=verified.tee is TeeType.SIMULATED,
    )


def _allowed(fact: "Fact") -> "tuple[str, ...] | Unchecked":
    from aigovtool.attestation.model import Unchecked  # noqa: PLC0415

    if fact.name in _NEW_EACH_TIME:
        return Unchecked(reason=_NEW_EACH_TIME[fact.name])
    return _DEMANDED.get(fact.name, (fact.value,))


def differences(verified: "VerifiedEvidence") -> list[str]:
    """Return where a drafted policy is not what the evidence said."""
    found = [
        f"{fact.name} was {fact.value}; demanded is {' or '.join(_DEMANDED[fact.name])}"
        for fact in verified.facts
        if fact.value not in _DEMANDED.get(fact.name, (fact.value,))
    ]
    found += [
        f"{fact.name} is not checked: {_NEW_EACH_TIME[fact.name]}"
        for fact in verified.facts
        if fact.name in _NEW_EACH_TIME
    ]
    return [*found, f"the least TCB is not checked: {_NO_VERSIONS_YET}"] if unproven(verified) else found


def joined(policy: "AppraisalPolicy", other: "AppraisalPolicy") -> "AppraisalPolicy":
    """Return the next version of a policy, with the entries of another one after its own.

    Raises:
        InvalidValueError: an entry of that name is there (`duplicate_tee`).
    """
    from msgspec.structs import replace  # noqa: PLC0415

    return replace(
        policy,
        version=policy.version + 1,
        accepted=(*policy.accepted, *other.accepted),
        memory_encryption_required=policy.memory_encryption_required and other.memory_encryption_required,
        allow_simulated=policy.allow_simulated or other.allow_simulated,
    )
