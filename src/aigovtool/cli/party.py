"""`aigovtool operator | borrower | consumer`: enrol parties, list them, revoke them.

A party's key pair is made here; only the public half goes to the custodian, which answers with a certificate. The
file that is written is all that the party needs, and the only place where its private key is.
"""

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli import stopped
from aigovtool.cli.confirm import confirm, yes_option
from aigovtool.cli.credentials import connected, require_free, write_party
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb, VerbGroup, operator_option
from aigovtool.cli.words import short, when
from aigovtool.errors import ConflictError, InvalidValueError, NotFoundError

if TYPE_CHECKING:
    from aigovtool.attestation.appraisal import AppraisalPolicy
    from aigovtool.crypto.sign import SigningKey
    from aigovtool.operator.client import OperatorClient

_DAY_MS: Final = 86_400_000
_MAX_DAYS: Final = 3_650
#: What stops a party without revoking it.
_INSTEAD: Final = MappingProxyType(
    {
        "borrower": ("all its enclaves are stopped; for a while only: aigovtool stop --borrower NAME",),
        "consumer": ("its requests are refused everywhere; for a while only: aigovtool stop --consumer NAME",),
    }
)


class Enrolled(Struct, frozen=True, kw_only=True):
    """A party that was added."""

    role: str
    name: str
    file: str
    entry: int
    simulated_allowed: bool


class Revoked(Struct, frozen=True, kw_only=True):
    """A party that was revoked; `stop` says what became of enclaves, and is null for an operator."""

    role: str
    name: str
    entry: int
    epoch: int | None
    stop: stopped.StopReport | None


@click.group(cls=VerbGroup, example="aigovtool operator list")
def operator() -> None:
    """Who may command the custodian."""


@click.group(cls=VerbGroup, example="aigovtool borrower add st-mary -o st-mary.json")
def borrower() -> None:
    """Who runs enclaves on its own hosts."""


@click.group(cls=VerbGroup, example="aigovtool consumer add radiology --borrower st-mary -o radiology.json")
def consumer() -> None:
    """Who asks models for answers."""


_out_option = click.option("-o", "--out", type=FILE, required=True, help="File to write, mode 0600; must not exist.")
_days_help: Final = "Lifetime of the credential."


@operator.command("add", cls=Verb, example="aigovtool operator add alice -o alice.json")
@click.argument("name")
@_out_option
@click.option("--valid-days", type=click.IntRange(1, _MAX_DAYS), default=365, show_default=True, help=_days_help)
@operator_option
@click.pass_obj
def add_operator(screen: Screen, name: str, out: Path, valid_days: int, operator_file: Path | None) -> None:
    """Enrol another operator and write its file."""
    from aigovtool.ids import OperatorId  # noqa: PLC0415
    from aigovtool.protocol.party import OperatorFile  # noqa: PLC0415

    require_free(out)
    with connected(operator_file) as client:
        key, certificate, entry = _enrol(client, "operator", name, valid_days)
        party = OperatorFile(
            operator=OperatorId(name),
            custodian=client.file.custodian,
            certificate=certificate,
            key=key.to_secret().reveal(),
            keystore=client.file.keystore,
        )
    write_party(out, party)
    _say_added(screen, Enrolled(role="operator", name=name, file=str(out), entry=entry, simulated_allowed=False))


@borrower.command("add", cls=Verb, example="aigovtool borrower add st-mary -o st-mary.json")
@click.argument("name")
@_out_option
@click.option("--valid-days", type=click.IntRange(1, _MAX_DAYS), default=365, show_default=True, help=_days_help)
@operator_option
@click.pass_obj
def add_borrower(screen: Screen, name: str, out: Path, valid_days: int, operator_file: Path | None) -> None:
    """Enrol a borrower and write the file that its enclaves need."""
    from aigovtool.ids import BorrowerId  # noqa: PLC0415
    from aigovtool.protocol.party import BorrowerFile  # noqa: PLC0415

    require_free(out)
    with connected(operator_file) as client:
        key, certificate, entry = _enrol(client, "borrower", name, valid_days)
        party = BorrowerFile(
            borrower=BorrowerId(name),
            custodian=client.file.custodian,
            certificate=certificate,
            enrolment_key=key.to_secret().reveal(),
        )
    write_party(out, party)
    _say_added(screen, Enrolled(role="borrower", name=name, file=str(out), entry=entry, simulated_allowed=False))


@consumer.command("add", cls=Verb, example="aigovtool consumer add radiology --borrower st-mary -o radiology.json")
@click.argument("name")
@click.option("--borrower", "borrower_name", required=True, help="Whose enclaves this consumer uses.")
@_out_option
@click.option("--valid-days", type=click.IntRange(1, _MAX_DAYS), default=30, show_default=True, help=_days_help)
@click.option("--allow-simulated", is_flag=True, help="DEVELOPMENT ONLY: let this consumer accept simulated TEEs.")
@operator_option
@click.pass_obj
def add_consumer(
    screen: Screen,
    *,
    name: str,
    borrower_name: str,
    out: Path,
    valid_days: int,
    operator_file: Path | None,
    allow_simulated: bool,
) -> None:
    """Enrol a consumer and write its file, with the appraisal policy now in force."""
    from aigovtool.ids import BorrowerId, ConsumerId, parse_name  # noqa: PLC0415
    from aigovtool.protocol.party import ConsumerFile  # noqa: PLC0415

    require_free(out)
    with connected(operator_file) as client:
        policy = _policy(client, allow_simulated=allow_simulated)
        owner = BorrowerId(parse_name(borrower_name, "borrower"))
        key, certificate, entry = _enrol(client, "consumer", name, valid_days, borrower=owner)
        party = ConsumerFile(
            consumer=ConsumerId(name),
            borrower=owner,
            custodian=client.file.custodian,
            certificate=certificate,
            key=key.to_secret().reveal(),
            policy=policy,
        )
    write_party(out, party)
    made = Enrolled(role="consumer", name=name, file=str(out), entry=entry, simulated_allowed=policy.allow_simulated)
    _say_added(screen, made)


def _policy(client: "OperatorClient", *, allow_simulated: bool) -> "AppraisalPolicy":
    """Return the policy in force, without simulated TEEs unless both sides allow them."""
    from msgspec.structs import replace  # noqa: PLC0415

    policy = client.appraisal_policy()
    if allow_simulated and not policy.allow_simulated:
        raise InvalidValueError(
            "the custodian's appraisal policy does not accept simulated TEEs",
            reason="simulated_refused",
            fix="leave --allow-simulated out",
        )
    return replace(policy, allow_simulated=allow_simulated)


def _enrol(
    client: "OperatorClient", role: str, name: str, days: int, *, borrower: str | None = None
) -> "tuple[SigningKey, str, int]":
    """Make a key pair, have its public half enrolled, and return key, certificate and log index."""
    from aigovtool.crypto.sign import SigningKey  # noqa: PLC0415
    from aigovtool.errors import FaultError  # noqa: PLC0415
    from aigovtool.ids import BorrowerId, parse_name  # noqa: PLC0415
    from aigovtool.ledger.entry import PartyRole  # noqa: PLC0415
    from aigovtool.protocol.commands import AddParty  # noqa: PLC0415

    key = SigningKey.generate()
    act = AddParty(
        role=PartyRole(role),
        name=parse_name(name, role),
        key=key.public.raw,
        borrower=None if borrower is None else BorrowerId(borrower),
        valid_for_ms=days * _DAY_MS,
    )
    result = client.command(act)
    if result.certificate is None:
        raise FaultError("the custodian answered without a certificate", reason="bad_answer")
    return key, result.certificate, result.entry


def _say_added(screen: Screen, made: Enrolled) -> None:
    if made.simulated_allowed:
        screen.banner()

    def render() -> None:
        screen.line(f"{made.role} {made.name} is enrolled; its file is {made.file}")
        screen.line("The file holds the only copy of the private key: hand it over on a safe path.")

    screen.show(made, render)


def _list(screen: Screen, role: str, operator_file: Path | None) -> None:
    with connected(operator_file) as client:
        view = client.parties()
    found = [party for party in view.parties if party.role.value == role]
    rows = [
        (
            party.name,
            party.borrower or "-",
            short(party.key),
            when(party.not_after_ms),
            "yes" if party.revoked else "no",
        )
        for party in found
    ]
    columns = ("name", "borrower", "key", "valid until", "revoked")
    screen.show(type(view)(parties=found), lambda: screen.table(columns, rows, f"there is no {role}"))


def _revoke(screen: Screen, role: str, name: str, operator_file: Path | None, *, wait_s: int, yes: bool) -> None:
    from aigovtool.ids import parse_name  # noqa: PLC0415
    from aigovtool.ledger.entry import PartyRole, StopTarget  # noqa: PLC0415
    from aigovtool.protocol.commands import RevokeParty  # noqa: PLC0415

    party = parse_name(name, role)
    with connected(operator_file) as client:
        _require_active(client, role, name)
        if not yes:
            what = f"{role} {name} is never accepted again, and its name is never given out again"
            confirm(screen, "revoke", [what, *_INSTEAD.get(role, ())])
        result = client.command(RevokeParty(role=PartyRole(role), name=party))
        if not screen.json:
            screen.line(f"{role} {name} is revoked (epoch {result.epoch}, audit log entry {result.entry})")
        report = None if role == "operator" else stopped.watch(client, StopTarget(role), name, result, wait_s)
    stopped.warn(screen, report)
    done = Revoked(role=role, name=name, entry=result.entry, epoch=result.epoch, stop=report)
    screen.show(done, lambda: None if report is None else stopped.render(screen, report))


def _require_active(client: "OperatorClient", role: str, name: str) -> None:
    found = [one for one in client.parties().parties if (one.role.value, one.name) == (role, name)]
    fix = f"see `aigovtool {role} list`"
    if not found:
        raise NotFoundError(f"there is no {role} {name}", reason="no_party", fix=fix)
    if found[0].revoked:
        raise ConflictError(f"{role} {name} was revoked before", reason="already_revoked", fix=fix)


def _add_list_and_revoke(group: click.Group, role: str, example: str) -> None:
    """Add the two verbs that are alike for every role; `example` is a name."""

    @group.command("list", cls=Verb, example=f"aigovtool {role} list", help=f"Show every {role}.")
    @operator_option
    @click.pass_obj
    def show(screen: Screen, operator_file: Path | None) -> None:
        _list(screen, role, operator_file)

    @group.command(
        "revoke",
        cls=Verb,
        example=f"aigovtool {role} revoke {example}",
        help=f"Never accept this {role}'s credential again, and stop what runs under it, after asking. "
        "This cannot be undone.",
    )
    @click.argument("name")
    @yes_option
    @stopped.wait_option
    @operator_option
    @click.pass_obj
    def revoke(screen: Screen, *, name: str, wait_s: int, operator_file: Path | None, yes: bool) -> None:
        _revoke(screen, role, name, operator_file, wait_s=wait_s, yes=yes)


for _group, _role, _name in (
    (operator, "operator", "alice"),
    (borrower, "borrower", "st-mary"),
    (consumer, "consumer", "radiology"),
):
    _add_list_and_revoke(_group, _role, _name)
