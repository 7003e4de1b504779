"""`aigovtool operator`: who commands the custodian.

The first operator enrols the second alone, and may make the key. From then on an enrolment takes two, and who is to be
enrolled makes the key: whoever else had it could sign twice. So there are three steps, and only public
halves travel:

1. The newcomer, with an operator's `invitation`, makes the key: `operator request`.
2. An operator orders the enrolment of that key (`operator add --key`), and another one cosigns it.
3. An operator fetches the `certificate`, and the newcomer puts it into the file: `operator finish`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli import orders
from aigovtool.cli.credentials import (
    certified,
    connected,
    content_of,
    read_fetched,
    read_party,
    replace_party,
    require_free,
    write_party,
)
from aigovtool.cli.parties.party import (
    DAYS_HELP,
    MAX_DAYS,
    Enrolled,
    add_list_and_revoke,
    enrol,
    enrolment,
    say_added,
)
from aigovtool.cli.parties.protect import protect
from aigovtool.cli.public_file import read_public, write_public
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb, VerbGroup, operator_option
from aigovtool.errors import ConfigurationError, ConflictError, InvalidValueError

if TYPE_CHECKING:
    from aigovtool.crypto.sign import SigningKey
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.commands import AddParty
    from aigovtool.protocol.party import CustodianAddress, OperatorFile
    from aigovtool.protocol.trust import KeySet

_KEY_DIGITS: Final = 64


class Requested(Struct, frozen=True, kw_only=True):
    """A key that a newcomer made: its public half in hexadecimal, and the file that waits for its certificate.

    `custodian` is the address in the invitation, `fingerprint` that of all that the file knows of the custodian.
    """

    name: str
    file: str
    key: str
    custodian: str
    fingerprint: str


class Ordered(Struct, frozen=True, kw_only=True):
    """An operator whose enrolment was carried out, or is saved for a second operator: one of `entry` and `order`."""

    name: str
    key: str
    entry: int | None
    order: orders.SavedOrder | None


class Invited(Struct, frozen=True, kw_only=True):
    """An invitation that was written, and what its receiver compares."""

    file: str
    fingerprint: str


class Written(Struct, frozen=True, kw_only=True):
    """A public file that was written, and its file name."""

    file: str


class Finished(Struct, frozen=True, kw_only=True):
    """An operator's file that has its certificate now."""

    name: str
    file: str


@click.group(cls=VerbGroup, example="aigovtool operator list")
def operator() -> None:
    """Who may command the custodian."""


@operator.command("invitation", cls=Verb, example="aigovtool operator invitation -o invitation.json")
@click.option("-o", "--out", type=FILE, required=True, help="File to write; it must not exist.")
@operator_option
@click.pass_obj
def invitation(screen: Screen, *, out: Path, operator_file: Path | None) -> None:
    """Write what a newcomer must know of the custodian: its address, its root key and its TLS authority.

    Nothing in it is secret, but whoever changes it on its way becomes the newcomer's custodian, or stands between them:
    the newcomer compares the fingerprint on a path of their own, with somebody else than who handed it over.
    """
    from aigovtool.protocol.party import Invitation  # noqa: PLC0415

    require_free(out)
    with connected(operator_file) as client:
        write_public(out, Invitation(custodian=client.file.custodian, key_set=client.key_set_envelope()))
        done = Invited(file=str(out), fingerprint=client.file.custodian.fingerprint())

    def render() -> None:
        screen.line(f"{out} is for who is to become an operator")
        screen.facts([("fingerprint", done.fingerprint)])

    screen.show(done, render)


@operator.command(
    "request", cls=Verb, example="aigovtool operator request carol --invitation invitation.json -o carol.json"
)
@click.argument("name")
@click.option("--invitation", "source", type=FILE, required=True, help="The file that an operator handed over.")
@click.option("-o", "--out", type=FILE, required=True, help="Your file, mode 0600; it must not exist.")
@click.pass_obj
def request(screen: Screen, *, name: str, source: Path, out: Path) -> None:
    """Make your own key, to be enrolled as operator NAME. Nothing is sent.

    The private half stays in the file. The public half, which is printed, is what the operators enrol: tell it to both
    of them, and not the one through the other. Compare the fingerprint with whoever holds the custodian's directory, or
    another operator (`aigovtool custodian show`): an invitation with another one leads to somebody else.
    """
    from aigovtool.crypto.sign import SigningKey, VerifyKey  # noqa: PLC0415
    from aigovtool.ids import parse_name  # noqa: PLC0415
    from aigovtool.protocol.party import Invitation  # noqa: PLC0415
    from aigovtool.protocol.trust import open_key_set  # noqa: PLC0415

    require_free(out)
    invited = read_public(source, Invitation, "an invitation of an operator")
    key = SigningKey.generate()
    key_set = open_key_set(invited.key_set, VerifyKey(invited.custodian.root))
    write_party(out, _file_of(invited.custodian, key_set, parse_name(name, "operator"), key, certificate=""))
    done = Requested(
        name=name,
        file=str(out),
        key=key.public.raw.hex(),
        custodian=invited.custodian.url,
        fingerprint=invited.custodian.fingerprint(),
    )

    def render() -> None:
        screen.line(f"{out} holds the only copy of your private key, and waits for its certificate.")
        screen.facts([("public key", done.key), ("key id", key.public.key_id)])
        screen.line("It believes this custodian; compare the fingerprint, not only with who invited you:")
        screen.facts([("custodian", done.custodian), ("fingerprint", done.fingerprint)])
        screen.line(f"next: an operator runs: aigovtool operator add {name} --key {done.key}")

    screen.show(done, render)


@operator.command("add", cls=Verb, example="aigovtool operator add bob -o bob.json")
@click.argument("name")
@click.option("--key", "public", metavar="HEX", help="The public key that `operator request` printed.")
@click.option("-o", "--out", type=FILE, help="For the second operator only: make the key here, and write the file.")
@click.option("--valid-days", type=click.IntRange(1, MAX_DAYS), default=365, show_default=True, help=DAYS_HELP)
@orders.save_if_two_option
@operator_option
@click.pass_obj
def add(
    screen: Screen,
    *,
    name: str,
    public: str | None,
    out: Path | None,
    valid_days: int,
    save: Path | None,
    operator_file: Path | None,
) -> None:
    """Enrol another operator.

    The first operator enrols the second alone, with -o or with --key. Every further one takes two operators, and its
    key must be its own: --key, and --save the order, which another operator has to `aigovtool cosign`.
    """
    if (public is None) == (out is None):
        raise click.UsageError("give --key HEX, or -o FILE to make the key here")
    with connected(operator_file) as client:
        if out is not None:
            _add_with_new_key(screen, client, name, out=out, valid_days=valid_days, save=save)
        else:
            act = enrolment("operator", name, valid_days, _public(public or ""))
            _require_way(client, act, save, own_key=True)
            order = None if save is None else orders.saved(client, act, save)
            entry = client.command(act).entry if order is None else None
            done = Ordered(name=name, key=act.key.hex(), entry=entry, order=order)
            screen.show(done, lambda: _say_ordered(screen, done))


def _add_with_new_key(
    screen: Screen, client: "OperatorClient", name: str, *, out: Path, valid_days: int, save: Path | None
) -> None:
    from aigovtool.crypto.sign import SigningKey  # noqa: PLC0415

    require_free(out)
    key = SigningKey.generate()
    act = enrolment("operator", name, valid_days, key.public.raw)
    _require_way(client, act, save, own_key=False)
    party = _file_of(client.file.custodian, client.key_set(), act.name, key, certificate="")
    entry = enrol(client, act, party, out)
    say_added(screen, Enrolled(role="operator", name=name, file=str(out), entry=entry, simulated_allowed=False))


@operator.command("certificate", cls=Verb, example="aigovtool operator certificate carol -o carol-certificate.json")
@click.argument("name")
@click.option("-o", "--out", type=FILE, required=True, help="File to write; it must not exist.")
@operator_option
@click.pass_obj
def certificate(screen: Screen, *, name: str, out: Path, operator_file: Path | None) -> None:
    """Fetch the certificate of an enrolled operator, for `operator finish`. It is no secret."""
    from aigovtool.ids import parse_name  # noqa: PLC0415
    from aigovtool.ledger.entry import PartyRole  # noqa: PLC0415

    require_free(out)
    with connected(operator_file) as client:
        found = client.fetched_certificate(PartyRole.OPERATOR, parse_name(name, "operator"))
    write_public(out, found)
    done = Written(file=str(out))
    screen.show(done, lambda: screen.line(f"next: {name} runs: aigovtool operator finish {name}.json {out}"))


@operator.command("finish", cls=Verb, example="aigovtool operator finish carol.json carol-certificate.json")
@click.argument("file", type=FILE)
@click.argument("source", metavar="CERTIFICATE", type=FILE)
@click.pass_obj
def finish(screen: Screen, *, file: Path, source: Path) -> None:
    """Put the CERTIFICATE that an operator fetched for you into your FILE. Nothing is sent."""
    from msgspec.structs import replace  # noqa: PLC0415

    read, party = content_of(file), _waiting(file)
    found, key_set = read_fetched(source, party, "a certificate that `operator certificate` wrote")
    finished = replace(party, certificate=certified(found, key_set, party.key, party.operator, file))
    replace_party(file, finished, instead_of=read)
    done = Finished(name=party.operator, file=str(file))
    screen.show(done, lambda: screen.line(f"{done.file} can be used now, by operator {done.name}"))


operator.add_command(protect)


def _public(text: str) -> bytes:
    """Return a public key.

    Raises:
        InvalidValueError: `bad_key`.
    """
    try:
        key = bytes.fromhex(text) if len(text) == _KEY_DIGITS else b""
    except ValueError:
        key = b""
    if not key:
        raise InvalidValueError(
            "that is not the public key of an operator",
            reason="bad_key",
            fix=f"give the {_KEY_DIGITS} hexadecimal digits that `aigovtool operator request` printed",
        )
    return key


def _require_way(client: "OperatorClient", act: "AddParty", save: Path | None, *, own_key: bool) -> None:
    """Refuse a name that was given out, to make a third operator's key, and what `orders.require_signers` refuses.

    Raises:
        ConflictError: `party_exists`, `needs_own_key`, `needs_second`, `needs_one`.
    """
    from aigovtool.protocol.cosigning import needs_two  # noqa: PLC0415

    known = client.parties()
    if any((party.role, party.name) == (act.role, act.name) for party in known.parties):
        raise ConflictError(f"the operator name {act.name} was given out before", reason="party_exists")
    if not own_key and needs_two(act, operators=known.operators()):
        raise ConflictError(
            f"{act.name} has to make the key: whoever else had it could sign twice",
            reason="needs_own_key",
            fix=f"write an `aigovtool operator invitation`; with it {act.name} runs `aigovtool operator request`",
        )
    orders.require_signers(client, act, save)


def _file_of(
    custodian: "CustodianAddress", key_set: "KeySet", name: str, key: "SigningKey", certificate: str
) -> "OperatorFile":
    from aigovtool.ids import OperatorId  # noqa: PLC0415
    from aigovtool.protocol.party import OperatorFile  # noqa: PLC0415

    return OperatorFile(
        operator=OperatorId(name),
        custodian=custodian,
        certificate=certificate,
        key=key.to_secret().reveal(),
        keystore=key_set.keystore,
        key_set=key_set.version,
    )


def _waiting(file: Path) -> "OperatorFile":
    """Return an operator's file that has no certificate yet.

    Raises:
        ConfigurationError: it is none, or it has one (`finished_before`).
    """
    from aigovtool.protocol.party import OperatorFile  # noqa: PLC0415

    party = read_party(file, waiting=True)
    if not isinstance(party, OperatorFile) or party.certificate:
        raise ConfigurationError(f"{file} has its certificate", reason="finished_before", fix="use it as it is")
    return party


def _say_ordered(screen: Screen, done: Ordered) -> None:
    fetch = f"aigovtool operator certificate {done.name} -o {done.name}-certificate.json"
    if done.order is None:
        screen.line(f"operator {done.name} is enrolled; next: {fetch}")
    else:
        orders.say_saved(screen, done.order)
        screen.line(f"Then: {fetch}, for {done.name} to finish the file with.")


add_list_and_revoke(operator, "operator", "alice")
