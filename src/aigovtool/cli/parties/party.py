"""`aigovtool borrower | consumer`: enrol parties, list them, hand out their certificates, revoke them.

`operator` is a module of its own.

A party's key pair is made here; only the public half goes to the custodian, which answers with a certificate. The
file that is written is all that the party needs, and the only place where its private key is.
"""

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.confirm import confirm, yes_option
from aigovtool.cli.credentials import connected, replace_party, require_free, write_party
from aigovtool.cli.public_file import write_public
from aigovtool.cli.screen import Screen
from aigovtool.cli.stop import stopped
from aigovtool.cli.verb import FILE, Verb, VerbGroup, operator_option
from aigovtool.cli.words import short, when
from aigovtool.errors import (
    AIGovToolError,
    ClockLeaptError,
    ConflictError,
    FaultError,
    InvalidValueError,
    LedgerRollbackError,
    NotFoundError,
    OverloadedError,
)

if TYPE_CHECKING:
    from aigovtool.attestation.policy import AppraisalPolicy
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.commands import AddParty
    from aigovtool.protocol.party import PartyFile

_DAY_MS: Final = 86_400_000
MAX_DAYS: Final = 3_650
#: What stops a party without revoking it.
_INSTEAD: Final = MappingProxyType(
    {
        "borrower": ("all its enclaves are stopped; for a while only: aigovtool stop --borrower NAME",),
        "consumer": ("its requests are refused everywhere; for a while only: aigovtool stop --consumer NAME",),
    }
)

#: Of what is called a fault: what the custodian answers instead of carrying an order out.
_NOT_CARRIED_OUT: Final = (ClockLeaptError, LedgerRollbackError, OverloadedError)
#: What needs two operators: settle, write off, lend under island, enrol an operator.
_TWO: Final = 2
_LONELY: Final = (
    "fewer than two operators are left: what needs two, a new operator too, then needs whoever holds the custodian's "
    "directory (aigovtool custodian add-operator)"
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


class CertificateFetched(Struct, frozen=True, kw_only=True):
    """The file with a party's certificate."""

    file: str


@click.group(cls=VerbGroup, example="aigovtool borrower add st-mary -o st-mary.json")
def borrower() -> None:
    """Who runs enclaves on its own hosts."""


@click.group(cls=VerbGroup, example="aigovtool consumer add radiology --borrower st-mary -o radiology.json")
def consumer() -> None:
    """Who asks models for answers."""


out_option = click.option("-o", "--out", type=FILE, required=True, help="File to write, mode 0600; must not exist.")
DAYS_HELP: Final = "Lifetime of the credential."


@borrower.command("add", cls=Verb, example="aigovtool borrower add st-mary -o st-mary.json")
@click.argument("name")
@out_option
@click.option("--valid-days", type=click.IntRange(1, MAX_DAYS), default=365, show_default=True, help=DAYS_HELP)
@operator_option
@click.pass_obj
def add_borrower(screen: Screen, name: str, out: Path, valid_days: int, operator_file: Path | None) -> None:
    """Enrol a borrower and write the file that its enclaves need."""
    from aigovtool.crypto.sign import SigningKey  # noqa: PLC0415
    from aigovtool.ids import BorrowerId  # noqa: PLC0415
    from aigovtool.protocol.party import BorrowerFile  # noqa: PLC0415

    require_free(out)
    with connected(operator_file) as client:
        client.parties()  # who does not answer now is not asked to enrol somebody
        key = SigningKey.generate()
        act = enrolment("borrower", name, valid_days, key.public.raw)
        party = BorrowerFile(
            borrower=BorrowerId(name),
            custodian=client.file.custodian,
            certificate="",
            enrolment_key=key.to_secret().reveal(),
        )
        entry = enrol(client, act, party, out)
    say_added(screen, Enrolled(role="borrower", name=name, file=str(out), entry=entry, simulated_allowed=False))


@consumer.command("add", cls=Verb, example="aigovtool consumer add radiology --borrower st-mary -o radiology.json")
@click.argument("name")
@click.option("--borrower", "borrower_name", required=True, help="Whose enclaves this consumer uses.")
@out_option
@click.option("--valid-days", type=click.IntRange(1, MAX_DAYS), default=30, show_default=True, help=DAYS_HELP)
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
    from aigovtool.crypto.sign import SigningKey  # noqa: PLC0415
    from aigovtool.ids import BorrowerId, ConsumerId, parse_name  # noqa: PLC0415
    from aigovtool.protocol.party import ConsumerFile  # noqa: PLC0415

    require_free(out)
    with connected(operator_file) as client:
        policy = _policy(client, allow_simulated=allow_simulated)
        owner = BorrowerId(parse_name(borrower_name, "borrower"))
        key = SigningKey.generate()
        act = enrolment("consumer", name, valid_days, key.public.raw, borrower=owner)
        party = ConsumerFile(
            consumer=ConsumerId(name),
            borrower=owner,
            custodian=client.file.custodian,
            certificate="",
            key=key.to_secret().reveal(),
            policy=policy,
        )
        entry = enrol(client, act, party, out)
    made = Enrolled(role="consumer", name=name, file=str(out), entry=entry, simulated_allowed=policy.allow_simulated)
    say_added(screen, made)


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


def enrolment(role: str, name: str, days: int, public: bytes, *, borrower: str | None = None) -> "AddParty":
    """Return the act that enrols a party with the public half of its key."""
    from aigovtool.ids import BorrowerId, parse_name  # noqa: PLC0415
    from aigovtool.ledger.entry import PartyRole  # noqa: PLC0415
    from aigovtool.protocol.commands import AddParty  # noqa: PLC0415

    return AddParty(
        role=PartyRole(role),
        name=parse_name(name, role),
        key=public,
        borrower=None if borrower is None else BorrowerId(borrower),
        valid_for_ms=days * _DAY_MS,
    )


def enrol(client: "OperatorClient", act: "AddParty", party: "PartyFile", out: Path) -> int:
    """Have a party enrolled whose key is in `party`, write its file, and return the log index.

    The file is there first, without a certificate: names are never given out twice, so a key that cannot be written
    down, or is lost because nobody knows what became of the order, must not be that of an enrolled party.

    Raises:
        ConfigurationError: the file cannot be written; nothing was ordered.
        AIGovToolError: the custodian refused, and the file is removed; or it does not answer, and the file stays.
    """
    from msgspec.structs import replace  # noqa: PLC0415

    write_party(out, party)
    try:
        result = client.command(act)
    except AIGovToolError as error:
        if isinstance(error, FaultError) and not isinstance(error, _NOT_CARRIED_OUT):
            error.fix = _perhaps_enrolled(act, out)
        else:
            out.unlink(missing_ok=True)
        raise
    if result.certificate is None:
        raise FaultError(
            "the custodian answered without a certificate", reason="bad_answer", fix=_perhaps_enrolled(act, out)
        )
    replace_party(out, replace(party, certificate=result.certificate))
    return result.entry


def _perhaps_enrolled(act: "AddParty", out: Path) -> str:
    role, name = act.role.value, act.name
    put = "operator finish" if role == "operator" else "renew"
    certificate = f"{name}-certificate.json"
    return (
        f"{out} holds the key. If `aigovtool {role} list` shows {name}, run: aigovtool {role} certificate {name} "
        f"-o {certificate}, then: aigovtool {put} {out} {'' if role == 'operator' else '--certificate '}{certificate}. "
        f"If it does not, remove {out}, and try again"
    )


def say_added(screen: Screen, made: Enrolled) -> None:
    """Say who was enrolled, and what to do with the file."""
    if made.simulated_allowed:
        screen.banner()

    def render() -> None:
        screen.line(f"{made.role} {made.name} is enrolled; its file is {made.file}")
        screen.line("The file holds the only copy of the private key: hand it over on a safe path.")

    screen.show(made, render)


def _fetch_certificate(screen: Screen, role: str, name: str, out: Path, operator_file: Path | None) -> None:
    from aigovtool.ids import parse_name  # noqa: PLC0415
    from aigovtool.ledger.entry import PartyRole  # noqa: PLC0415

    require_free(out)
    with connected(operator_file) as client:
        found = client.fetched_certificate(PartyRole(role), parse_name(name, role))
    write_public(out, found)
    next_ = f"next, where the file of {name} is: aigovtool renew {name}.json --certificate {out}"
    screen.show(CertificateFetched(file=str(out)), lambda: screen.line(next_))


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
        left = _require_active(client, role, name)
        if not yes:
            what = f"{role} {name} is never accepted again, and its name is never given out again"
            lonely = [_LONELY] if role == "operator" and left < _TWO else []
            confirm(screen, "revoke", [what, *_INSTEAD.get(role, ()), *lonely])
        result = client.command(RevokeParty(role=PartyRole(role), name=party))
        if not screen.json:
            screen.line(f"{role} {name} is revoked (epoch {result.epoch}, audit log entry {result.entry})")
        report = None if role == "operator" else stopped.watch(client, StopTarget(role), name, result, wait_s)
    stopped.warn(screen, report)
    done = Revoked(role=role, name=name, entry=result.entry, epoch=result.epoch, stop=report)
    screen.show(done, lambda: None if report is None else stopped.render(screen, report))


def _require_active(client: "OperatorClient", role: str, name: str) -> int:
    """Return how many others of the role can still act.

    Raises:
        NotFoundError, ConflictError: there is none of that name, or it was revoked (`no_party`, `already_revoked`).
    """
    active = {one.name: not one.revoked for one in client.parties().parties if one.role.value == role}
    fix = f"see `aigovtool {role} list`"
    if name not in active:
        raise NotFoundError(f"there is no {role} {name}", reason="no_party", fix=fix)
    if not active[name]:
        raise ConflictError(f"{role} {name} was revoked before", reason="already_revoked", fix=fix)
    return sum(active.values()) - 1


def add_list_and_revoke(group: click.Group, role: str, example: str) -> None:
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


def _add_certificate(group: click.Group, role: str, example: str) -> None:
    @group.command(
        "certificate",
        cls=Verb,
        example=f"aigovtool {role} certificate {example} -o {example}-certificate.json",
        help=f"Fetch the certificate of an enrolled {role} anew, for `aigovtool renew`. It is no secret.",
    )
    @click.argument("name")
    @click.option("-o", "--out", type=FILE, required=True, help="File to write; it must not exist.")
    @operator_option
    @click.pass_obj
    def certificate(screen: Screen, *, name: str, out: Path, operator_file: Path | None) -> None:
        _fetch_certificate(screen, role, name, out, operator_file)


add_list_and_revoke(borrower, "borrower", "st-mary")
add_list_and_revoke(consumer, "consumer", "radiology")
_add_certificate(borrower, "borrower", "st-mary")
_add_certificate(consumer, "consumer", "radiology")
