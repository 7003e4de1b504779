"""Genuine evidence of which something is made: a policy, or reference values. Verbs that do so share these options."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from aigovtool.cli.endorsements.answers import read_answers, with_answers
from aigovtool.cli.evidence.files import read_evidence
from aigovtool.cli.evidence.verb import AT_HELP, moment_ms, verifier_for, warn_roots
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import ANYTHING, FILE, wrong_usage
from aigovtool.errors import AppraisalError

if TYPE_CHECKING:
    from aigovtool.attestation.model import VerifiedEvidence

_OPTIONS: Final = (
    click.option("--endorsements", multiple=True, type=ANYTHING, help="For the evidence; repeat."),
    click.option("--fetched", type=FILE, help="For the evidence: what `aigovtool endorsements fetch` wrote."),
    click.option("--event-log", type=FILE, help="For the evidence: the firmware's event log of a TD (CCEL)."),
    click.option("--root", "roots", multiple=True, type=FILE, help="Believe these roots, not the vendor's; repeat."),
    click.option("--nonce", metavar="HEX", help="The nonce in a TPM quote that another program asked for."),
    click.option("--at", metavar="TIME", help=AT_HELP),
)
_SPELLED: Final = {"event_log": "event-log", "roots": "root"}
_UNPROVEN: Final = (
    "Nothing in this file shows that a TPM made it: anybody can make one like it. Believe it for how you came by it."
)


def genuine_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `genuine` takes, beside the file and the TEE."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def require_idle(options: Mapping[str, object]) -> None:
    """Refuse options of `genuine_options` where there is no evidence that they could be for; a time misleads nobody."""
    given = [f"--{_SPELLED.get(name, name)}" for name, value in options.items() if value and name != "at"]
    if given:
        raise wrong_usage(f"{' and '.join(given)} without evidence: there is nothing to judge")


def genuine(
    screen: Screen,
    file: Path,
    tee: str | None,
    *,
    endorsements: Sequence[Path],
    fetched: Path | None,
    event_log: Path | None,
    roots: Sequence[Path],
    nonce: str | None,
    at: str | None,
) -> "VerifiedEvidence":
    """Return what genuine evidence says, if something may be made from it; what it does not show is said in red.

    Raises:
        EvidenceError: it is not genuine.
        AppraisalError: it is in debug mode (`debug`), or was made for another program (`foreign_nonce`).
    """
    from aigovtool.attestation.model import TeeType  # noqa: PLC0415

    evidence = read_evidence(None if tee is None else TeeType(tee), file, endorsements, event_log)
    if fetched is not None:
        evidence = with_answers(evidence, read_answers(fetched))
    warn_roots(screen, evidence.tee, roots)
    verified = verifier_for(evidence.tee, roots, nonce).examine(evidence, moment_ms(at)).genuine()
    require_fit(verified)
    if unproven(verified):
        screen.banner(_UNPROVEN)
    return verified


def require_fit(verified: "VerifiedEvidence") -> None:
    """Refuse evidence of what no policy should accept; raises as `genuine`."""
    for reason, unfit, why in (
        ("debug", verified.debug, "the TEE is in debug mode: its host can read its memory"),
        (
            "foreign_nonce",
            any(fact.name == "foreign_nonce" for fact in verified.facts),
            "it was made for another program, and binds nothing of ours",
        ),
    ):
        if unfit:
            raise AppraisalError(f"nothing is made from this evidence: {why}", reason=reason)


def unproven(verified: "VerifiedEvidence") -> bool:
    """Return whether nothing shows that the key of a TPM's quote is in a TPM."""
    return any((fact.name, fact.value) == ("attestation_key", "unproven") for fact in verified.facts)
