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
from msgspec.structs import replace

from aigovtool.cli import orders
from aigovtool.cli.appraisal.draft import draft
from aigovtool.cli.appraisal.loud import warn
from aigovtool.cli.appraisal.policy_file import read_policy
from aigovtool.cli.appraisal.words import MORE, Change, changes, rules
from aigovtool.cli.confirm import confirm, yes_option
from aigovtool.cli.credentials import connected
from aigovtool.cli.screen import Screen
from aigovtool.cli.signing import sign_document
from aigovtool.cli.verb import FILE, Verb, VerbGroup, operator_option
from aigovtool.cli.words import short
from aigovtool.errors import AppraisalError, ConfigurationError, ConflictError

if TYPE_CHECKING:
    from aigovtool.attestation.policy import AppraisalPolicy
    from aigovtool.operator.client import OperatorClient

_NOW_ON = (
    "It holds at once. Enclaves that were admitted and that it does not accept get no lease and no key any more, and "
    "serve until the lease that they hold runs out (`aigovtool enclaves` says which and why); what must end sooner is "
    "stopped with `aigovtool stop`."
)
_CONSUMERS = (
    "Consumers judge enclaves by the policy in their own files, as it was when these were made: whoever must accept "
    "another build is enrolled anew, under another name."
)


class PolicySet(Struct, frozen=True, kw_only=True):
    """An appraisal policy and what it changes; `before` is the version in force, and null where there is none.

    One of `entry` (it was put in force) and `order` (it is saved for a second operator) is null.
    """

    version: int
    digest: str
    before: int | None
    before_digest: str | None
    changes: list[Change]
    entry: int | None = None
    order: orders.SavedOrder | None = None


@click.group(cls=VerbGroup, example="aigovtool appraisal show")
def appraisal() -> None:
    """Which enclaves are accepted: the custodian's appraisal policy."""


@appraisal.command(cls=Verb, example="aigovtool appraisal show --json > policy.json")
@operator_option
@click.pass_obj
def show(screen: Screen, operator_file: Path | None) -> None:
    """Show the appraisal policy in force; with --json as the file that `appraisal set` takes."""
    from aigovtool.attestation.policy import policy_digest  # noqa: PLC0415

    with connected(operator_file) as client:
        policy = client.appraisal_policy()

    def render() -> None:
        screen.facts([("version", policy.version), ("digest", policy_digest(policy))])
        screen.table(("what", "accepted"), [(rule.what, rule.text) for rule in rules(policy)], "")

    warn(screen, policy)
    screen.show(policy, render)


@appraisal.command("set", cls=Verb, example="aigovtool appraisal set policy.json")
@click.argument("file", metavar="POLICY.json", type=FILE)
@orders.save_if_two_option
@yes_option
@operator_option
@click.pass_obj
def set_policy(screen: Screen, *, file: Path, save: Path | None, operator_file: Path | None, yes: bool) -> None:
    """Replace the appraisal policy by that in a file, after showing what changes and asking.

    Begin with `aigovtool appraisal show --json > policy.json`, change it, and give it the next version. Of each rule
    that changes it is said whether it accepts more enclaves than before, or less. Once there is a second operator it
    takes two: --save the order, and have another one `aigovtool cosign` it.
    """
    from aigovtool.protocol.commands import SetAppraisalPolicy  # noqa: PLC0415

    policy = read_policy(file)
    with connected(operator_file) as client:
        found = policy_changes(client, policy, file=str(file), two=save is not None)
        act = SetAppraisalPolicy(policy=policy)
        orders.require_signers(client, act, save)
        if not screen.json:
            show_changes(screen, found)
        warn(screen, policy)
        if save is not None:
            done = replace(found, order=orders.saved(client, act, save))
        else:
            if not yes:
                confirm(screen, "appraisal set", [_NOW_ON, _CONSUMERS])
            done = replace(found, entry=client.command(act).entry)
    screen.show(done, lambda: _say_set(screen, done, asked=not yes))


@appraisal.command(cls=Verb, example="aigovtool appraisal sign policy.json -o policy.signed.json")
@click.argument("file", metavar="POLICY.json", type=FILE)
@click.option("-o", "--out", type=FILE, required=True, help="Where the signed policy is written.")
@operator_option
@click.pass_obj
def sign(screen: Screen, *, file: Path, out: Path, operator_file: Path | None) -> None:
    """Sign a policy with an operator's key, for others who appraise by it: `evidence verify --policy-signer`.

    The custodian needs no such file: `appraisal set` signs the order that brings the policy.
    """
    from aigovtool.attestation.policy import POLICY  # noqa: PLC0415

    policy = read_policy(file)
    warn(screen, policy)
    sign_document(screen, out, POLICY, policy, version=policy.version, operator_file=operator_file)


def _say_set(screen: Screen, done: PolicySet, *, asked: bool) -> None:
    if done.order is not None:
        orders.say_saved(screen, done.order)
        return
    screen.line(f"version {done.version} is in force (audit log entry {done.entry})", style="green")
    if not asked:  # else it was said before the question
        screen.line(_NOW_ON)
        screen.line(_CONSUMERS)


def policy_changes(
    client: "OperatorClient", policy: "AppraisalPolicy", *, file: str = "the order", two: bool = True
) -> PolicySet:
    """Return what a policy would change of the one in force, if `two` operators order it or one.

    Raises:
        AppraisalError: `policy_rollback`, `policy_fork`.
        ConflictError: `same_policy`; `not_next_version` of two.
    """
    from aigovtool.attestation.policy import policy_digest  # noqa: PLC0415

    old = in_force(client)
    require_next(policy, old, file)
    if two and old is not None:
        orders.require_next(policy.version, old.version)
    return PolicySet(
        version=policy.version,
        digest=policy_digest(policy),
        before=None if old is None else old.version,
        before_digest=None if old is None else policy_digest(old),
        changes=changes(old, policy),
    )


def in_force(client: "OperatorClient") -> "AppraisalPolicy | None":
    """Return the policy in force; None where none was ever set, and no enclave is admitted."""
    try:
        return client.appraisal_policy()
    except ConfigurationError as error:
        if error.reason != "no_policy":
            raise
        return None


def require_next(policy: "AppraisalPolicy", old: "AppraisalPolicy | None", file: str) -> None:
    """Refuse what the custodian would refuse, and what changes nothing.

    Raises:
        AppraisalError: `policy_rollback`, `policy_fork`.
        ConflictError: `same_policy`.
    """
    from aigovtool.attestation.policy import mark_of, require_successor  # noqa: PLC0415

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


def show_changes(screen: Screen, found: PolicySet) -> None:
    """Print what a policy changes; what it accepts more than now stands out."""
    before = (
        "none: no enclave is admitted" if found.before_digest is None else _named(found.before, found.before_digest)
    )
    screen.facts([("version now", before), ("version then", _named(found.version, found.digest))])
    columns = ("what", "now", "then", "accepts")
    rows = [(change.what, change.now, change.then, change.accepts) for change in found.changes]
    screen.table(columns, rows, "nothing but the version changes")
    more = [change.what for change in found.changes if change.accepts == MORE]
    if found.before is None:
        screen.line("There was no policy: enclaves that this one describes are accepted from now on.", style="bold")
    elif more:
        screen.line(f"This accepts more than now: {'; '.join(more)}.", style="bold")


def _named(version: int | None, digest: str) -> str:
    return f"{version} ({short(digest[7:])})"


appraisal.add_command(draft)
