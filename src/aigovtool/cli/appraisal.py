"""`aigovtool appraisal`: by which policy the custodian accepts enclaves; shown, and replaced from a file.

The noun is `appraisal`, because a model has a policy too (its terms, `model terms`), and because that is what RATS
calls it: verifying says whether evidence is genuine, appraising whether it is acceptable. `show` and `set` are verbs
that `budget` has too. The file is the JSON that `show --json` prints: it is long, belongs under version control, and is
changed by hand or by what builds an enclave image. Its `version` must be higher than that in force, so that an older
policy cannot come back.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from aigovtool.cli.appraisal_words import MORE, Change, changes, rules
from aigovtool.cli.confirm import confirm, yes_option
from aigovtool.cli.credentials import connected
from aigovtool.cli.screen import SIMULATED, Screen
from aigovtool.cli.verb import FILE, Verb, VerbGroup, operator_option
from aigovtool.cli.words import short
from aigovtool.errors import AppraisalError, ConfigurationError, ConflictError, InputError

if TYPE_CHECKING:
    from aigovtool.attestation.appraisal import AppraisalPolicy
    from aigovtool.operator.client import OperatorClient

_NOW_ON = (
    "It holds for enclaves that attest from now on. Those that were admitted serve until their attestation runs out "
    "(`aigovtool enclaves`); what must end at once is stopped with `aigovtool stop`."
)
_BEGIN = "begin with the file that `aigovtool appraisal show --json > policy.json` writes"
_CONSUMERS = (
    "Consumers judge enclaves by the policy in their own files, as it was when these were made: whoever must accept "
    "another build is enrolled anew, under another name."
)


class PolicySet(Struct, frozen=True, kw_only=True):
    """An appraisal policy that was put in force, and what it changed; `before` is null where there was none."""

    version: int
    digest: str
    before: int | None
    changes: list[Change]
    entry: int


@click.group(cls=VerbGroup, example="aigovtool appraisal show")
def appraisal() -> None:
    """Which enclaves are accepted: the custodian's appraisal policy."""


@appraisal.command(cls=Verb, example="aigovtool appraisal show --json > policy.json")
@operator_option
@click.pass_obj
def show(screen: Screen, operator_file: Path | None) -> None:
    """Show the appraisal policy in force; with --json as the file that `appraisal set` takes."""
    from aigovtool.attestation.appraisal import policy_digest  # noqa: PLC0415

    with connected(operator_file) as client:
        policy = client.appraisal_policy()

    def render() -> None:
        screen.facts([("version", policy.version), ("digest", policy_digest(policy))])
        screen.table(("what", "accepted"), [(rule.what, rule.text) for rule in rules(policy)], "")

    if policy.allow_simulated:
        screen.banner()
    screen.show(policy, render)


@appraisal.command("set", cls=Verb, example="aigovtool appraisal set policy.json")
@click.argument("file", metavar="POLICY.json", type=FILE)
@yes_option
@operator_option
@click.pass_obj
def set_policy(screen: Screen, *, file: Path, operator_file: Path | None, yes: bool) -> None:
    """Replace the appraisal policy by that in a file, after showing what changes and asking.

    Begin with `aigovtool appraisal show --json > policy.json`, change it, and give it the next version. Of each rule
    that changes it is said whether it accepts more enclaves than before, or less.
    """
    from aigovtool.attestation.appraisal import policy_digest  # noqa: PLC0415
    from aigovtool.protocol.commands import SetAppraisalPolicy  # noqa: PLC0415

    policy = read_policy(file)
    with connected(operator_file) as client:
        old = in_force(client)
        require_next(policy, old, file)
        found = changes(old, policy)
        if not screen.json:
            _show_changes(screen, old, policy, found)
        if policy.allow_simulated:
            screen.banner(SIMULATED)
        if not yes:
            confirm(screen, "appraisal set", [_NOW_ON, _CONSUMERS])
        entry = client.command(SetAppraisalPolicy(policy=policy)).entry
    done = PolicySet(
        version=policy.version,
        digest=policy_digest(policy),
        before=None if old is None else old.version,
        changes=found,
        entry=entry,
    )

    def render() -> None:
        screen.line(f"version {done.version} is in force (audit log entry {done.entry})", style="green")
        if yes:  # else it was said before the question
            screen.line(_NOW_ON)
            screen.line(_CONSUMERS)

    screen.show(done, render)


def read_policy(file: Path) -> "AppraisalPolicy":
    """Return the policy in a file.

    Raises:
        ConfigurationError: `unreadable_policy`, `bad_policy`.
    """
    from aigovtool.attestation.appraisal import AppraisalPolicy  # noqa: PLC0415
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.limits import MAX_CONTROL_BODY_BYTES  # noqa: PLC0415

    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_CONTROL_BODY_BYTES + 1)
        return decode(content, AppraisalPolicy)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {file}: {error.strerror}", reason="unreadable_policy", fix=_BEGIN
        ) from None
    except InputError as error:
        raise ConfigurationError(
            f"{file} is not an appraisal policy: {error.message}",
            reason="bad_policy",
            fix=_BEGIN,
        ) from None


def in_force(client: "OperatorClient") -> "AppraisalPolicy | None":
    """Return the policy in force; None where none was ever set, and no enclave is admitted."""
    try:
        return client.appraisal_policy()
    except ConfigurationError as error:
        if error.reason != "no_policy":
            raise
        return None


def require_next(policy: "AppraisalPolicy", old: "AppraisalPolicy | None", file: Path) -> None:
    """Refuse what the custodian would refuse, and what changes nothing.

    Raises:
        AppraisalError: `policy_rollback`, `policy_fork`.
        ConflictError: `same_policy`.
    """
    from aigovtool.attestation.appraisal import mark_of, require_successor  # noqa: PLC0415

    if old is None:
        return
    try:
        require_successor(policy, mark_of(old))
    except AppraisalError as error:
        fix = f'set "version": {old.version + 1} in {file}, if this policy is the one to come'
        raise AppraisalError(error.message, reason=error.reason, fix=fix) from None
    if policy == old:
        raise ConflictError(
            f"{file} is the policy in force, version {old.version}",
            reason="same_policy",
            fix=f'change it, and set "version": {old.version + 1}',
        )


def _show_changes(
    screen: Screen, old: "AppraisalPolicy | None", policy: "AppraisalPolicy", found: list[Change]
) -> None:
    from aigovtool.attestation.appraisal import policy_digest  # noqa: PLC0415

    before = "none: no enclave is admitted" if old is None else f"{old.version} ({short(policy_digest(old)[7:])})"
    after = f"{policy.version} ({short(policy_digest(policy)[7:])})"
    screen.facts([("version now", before), ("version then", after)])
    columns = ("what", "now", "then", "accepts")
    rows = [(change.what, change.now, change.then, change.accepts) for change in found]
    screen.table(columns, rows, "nothing but the version changes")
    more = [change.what for change in found if change.accepts == MORE]
    if old is None:
        screen.line("There was no policy: enclaves that this one describes are accepted from now on.", style="bold")
    elif more:
        screen.line(f"This accepts more than now: {'; '.join(more)}.", style="bold")
