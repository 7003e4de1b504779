"""`aigovtool appraisal draft`: a policy that accepts what one piece of genuine evidence says, to begin with.

Every rule is what that machine said, and nothing is left out: it is a list of questions for whoever decides, not an
answer. The chip alone is left open, unless it is asked for; and that revocation was checked is demanded even where it
could not be checked now.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.appraisal.policy_file import read_policy
from aigovtool.cli.appraisal.words import rules
from aigovtool.cli.document import write_document
from aigovtool.cli.endorsements.answers import read_answers, with_answers
from aigovtool.cli.evidence.files import read_evidence
from aigovtool.cli.evidence.verb import TEES, moment_ms, verifier_for, warn
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb
from aigovtool.errors import AppraisalError, InvalidValueError

if TYPE_CHECKING:
    from aigovtool.attestation.model import VerifiedEvidence
    from aigovtool.attestation.policy import AppraisalPolicy

_DAY_MS: Final = 86_400_000
_ANY_CHIP: Final = "any chip that its vendor certifies"
#: What is demanded whatever was seen: that a list could not be had when a policy was drafted is no rule; and that a key
#: is in a TPM is shown to custodians and by them, never by a file.
_DEMANDED: Final = {"revocation": ("checked",), "attestation_key": ("activated", "certified")}
_REVIEW: Final = "This is what one machine said. Go through every rule before it decides who gets a model."


class Drafted(Struct, frozen=True, kw_only=True):
    """A policy that was written: its file, its version, and how many rules it has."""

    file: str
    version: int
    rules: int


@click.command(cls=Verb, example="aigovtool appraisal draft report.bin --tee sev-snp -o policy.json")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--tee", type=click.Choice(TEES), help="Whose evidence it is, where the file does not say.")
@click.option("--endorsements", multiple=True, type=click.Path(path_type=Path), help="What it needs; repeat.")
@click.option("--fetched", type=FILE, help="What `aigovtool endorsements fetch` wrote.")
@click.option("--event-log", type=FILE, help="The firmware's event log of a TD (CCEL).")
@click.option("--root", "roots", multiple=True, type=FILE, help="Believe these roots, not the vendor's; repeat.")
@click.option("--nonce", metavar="HEX", help="The nonce in a TPM quote that another program asked for.")
@click.option("--at", metavar="TIME", help="As of when it is judged.  [default: now]")
@click.option("--this-chip", is_flag=True, help="Accept this chip alone, not any that its vendor certifies.")
@click.option("--label", default="first build", show_default=True, help="What the build is called.")
@click.option("--entry", metavar="LABEL", help="What the entry is called (milan, turin); for policies with several.")
@click.option("--add-to", type=FILE, help="Write the next version of this policy, with this entry beside its own.")
@click.option("--version", default=1, show_default=True, type=click.IntRange(1), help="The version of a new policy.")
@click.option("-o", "--out", type=FILE, required=True, help="Where the policy is written.")
@click.pass_obj
def draft(
    screen: Screen,
    *,
    file: Path,
    tee: str | None,
    endorsements: tuple[Path, ...],
    fetched: Path | None,
    event_log: Path | None,
    roots: tuple[Path, ...],
    nonce: str | None,
    at: str | None,
    this_chip: bool,
    label: str,
    entry: str | None,
    add_to: Path | None,
    version: int,
    out: Path,
) -> None:
    """Write a policy that accepts exactly what genuine evidence says, to go on from.

    Each of its rules is to be looked at: which versions are the least, which facts may have other values, which are not
    worth checking. Debug mode is accepted by no policy.
    """
    from aigovtool.attestation.model import TeeType  # noqa: PLC0415

    evidence = read_evidence(None if tee is None else TeeType(tee), file, endorsements, event_log)
    if fetched is not None:
        evidence = with_answers(evidence, read_answers(fetched))
    warn(screen, evidence.tee, roots)
    verified = verifier_for(evidence.tee, roots, nonce).examine(evidence, moment_ms(at)).genuine()
    require_draftable(verified, this_chip=this_chip)
    policy = drafted(verified, label=label, version=version, this_chip=this_chip, entry=entry)
    if add_to is not None:
        policy = joined(read_policy(add_to), policy)
    write_document(out, policy, replace=False)
    shown = Drafted(file=str(out), version=policy.version, rules=len(rules(policy)))

    def render() -> None:
        screen.table(("what", "accepted"), [(rule.what, rule.text) for rule in rules(policy)], "")
        screen.line(f"written to {out}", style="green")
        screen.line(_REVIEW)

    screen.show(shown, render)


def require_draftable(verified: "VerifiedEvidence", *, this_chip: bool) -> None:
    """Refuse to draft from what no policy should accept.

    Raises:
        AppraisalError: it is in debug mode (`debug`), or was made for another program (`foreign_nonce`).
        InvalidValueError: this chip is to be accepted alone, and the platform does not tell which it is (`no_chip`).
    """
    facts = {str(fact.name): fact.value for fact in verified.facts}
    for reason, unfit, why in (
        ("debug", verified.debug, "the TEE is in debug mode: its host can read its memory"),
        ("foreign_nonce", "foreign_nonce" in facts, "it was made for another program, and binds nothing of ours"),
    ):
        if unfit:
            raise AppraisalError(f"no policy is drafted from this evidence: {why}", reason=reason)
    if this_chip and verified.chip_id is None:
        raise InvalidValueError("the platform does not tell which chip it is", reason="no_chip")


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
        min_tcb=verified.tcb.components or Unchecked(reason="this platform tells no versions"),
        chips=chips,
        facts=tuple(FactRule(name=one.name, allowed=_DEMANDED.get(one.name, (one.value,))) for one in verified.facts),
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
