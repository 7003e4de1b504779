"""`aigovtool custodian`: make a custodian, serve it, and show how to recognise it.

`gap`, `certificate`, `backup`, `keys` and `accept-time` are modules of their own.
"""

import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click
from msgspec import Struct

from aigovtool.cli.address import LISTEN, Address
from aigovtool.cli.credentials import read_party
from aigovtool.cli.custodian.accept_time import accept_time, status
from aigovtool.cli.custodian.backup import backup
from aigovtool.cli.custodian.certificate import certificate, standing, warning
from aigovtool.cli.custodian.gap import gap, settle
from aigovtool.cli.custodian.keys import keys
from aigovtool.cli.directory import require_custodian
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import ANYTHING, DIRECTORY, FILE, Verb, VerbGroup
from aigovtool.cli.words import short

#: Of a URL that names no port.
_HTTPS_PORT: Final = 443


class Shown(Struct, frozen=True, kw_only=True):
    """A custodian: its identifier, its address, its root key in hexadecimal, and the end of its TLS certificate.

    The last is null in a party's file: `custodian certificate` asks the custodian itself. `fingerprint` is of address,
    root key and TLS authority together.
    """

    custodian: str
    url: str
    root: str
    fingerprint: str
    certificate_until_ms: int | None = None


class OperatorAdded(Struct, frozen=True, kw_only=True):
    """Who was enrolled, and where the file is."""

    operator: str
    operator_file: str


class Serving(Struct, frozen=True, kw_only=True):
    """Where a custodian accepts connections."""

    url: str


@click.group(cls=VerbGroup, example="aigovtool custodian init ./custodian")
def custodian() -> None:
    """Make and run a custodian: it holds models, budgets and the audit log."""


custodian.add_command(gap)
custodian.add_command(settle)
custodian.add_command(certificate)
custodian.add_command(backup)
custodian.add_command(keys)
custodian.add_command(accept_time)
custodian.add_command(status)


@custodian.command(cls=Verb, example="aigovtool custodian init ./custodian --url https://custodian.example:8440")
@click.argument("directory", type=DIRECTORY)
@click.option("--url", default="https://localhost:8440", show_default=True, help="Where parties will find it.")
@click.option("--host", "hosts", multiple=True, help="Further names or addresses for its TLS certificate.")
@click.option("--name", "operator", default="operator", show_default=True, help="Name of the first operator.")
@click.option("--ledger", metavar="URL", help="A PostgreSQL database, for several custodians (default: a SQLite file).")
@click.option("--packages", type=DIRECTORY, help="Where sealed packages lie, if several custodians share them.")
@click.option("--allow-simulated", is_flag=True, help="DEVELOPMENT ONLY: also accept simulated TEEs.")
@click.pass_obj
def init(
    screen: Screen,
    *,
    directory: Path,
    url: str,
    hosts: tuple[str, ...],
    operator: str,
    ledger: str | None,
    packages: Path | None,
    allow_simulated: bool,
) -> None:
    """Make keys, ledger and the first operator's file in a new DIRECTORY."""
    from aigovtool.custodian.app import initialise  # noqa: PLC0415

    host = urlsplit(url).hostname
    names = list(dict.fromkeys([*([host] if host else []), "localhost", "127.0.0.1", "::1", *hosts]))
    made = initialise(
        directory,
        url=url,
        hosts=names,
        operator=operator,
        allow_simulated=allow_simulated,
        ledger=ledger,
        packages=packages,
    )
    if made.simulated_allowed:
        screen.banner()

    def render() -> None:
        screen.line(f"custodian {short(made.custodian)} is ready in {made.directory}")
        screen.facts([("operator file", made.operator_file), ("root key", made.root_key)])
        screen.line("Move the root key to offline storage now: serving never needs it.", style="bold")
        screen.line(f"next: aigovtool custodian serve {made.directory}")

    screen.show(made, render)


@custodian.command(
    "add-operator", cls=Verb, example="aigovtool custodian add-operator ./custodian --name bob -o bob.json"
)
@click.argument("directory", type=DIRECTORY)
@click.option("--name", "operator", required=True, help="Name of the operator; names are never given out twice.")
@click.option("-o", "--output", type=FILE, required=True, help="The operator's file, to be handed over safely.")
@click.pass_obj
def add_operator(screen: Screen, *, directory: Path, operator: str, output: Path) -> None:
    """Enrol an operator from the DIRECTORY of a stopped custodian: for when no operator can act any more."""
    from aigovtool.custodian.app import add_operator as add  # noqa: PLC0415

    add(directory, operator, output)
    screen.show(
        OperatorAdded(operator=operator, operator_file=str(output)),
        lambda: screen.line(f"operator {operator} is enrolled; the file is {output}"),
    )


@custodian.command(cls=Verb, example="aigovtool custodian serve ./custodian --listen 0.0.0.0:8440")
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--listen", type=LISTEN, help="HOST:PORT to accept on; if not given, 127.0.0.1 and the port of the custodian's URL."
)
@click.pass_obj
def serve(screen: Screen, directory: Path, listen: Address | None) -> None:
    """Serve the custodian in DIRECTORY until interrupted."""
    from aigovtool.custodian.app import read_settings  # noqa: PLC0415
    from aigovtool.custodian.app import serve as run  # noqa: PLC0415
    from aigovtool.custodian.certificate import show as show_certificate  # noqa: PLC0415

    require_custodian(directory)
    listen = listen or Address("127.0.0.1", urlsplit(read_settings(directory).url).port or _HTTPS_PORT)
    ending = warning(show_certificate(directory), _now_ms(), directory)
    screen.serve()
    if ending is not None:
        screen.banner(ending)

    def ready(url: str) -> None:
        screen.note(f"serving on {url}")
        screen.announce(Serving(url=url))

    run(directory, host=listen.host, port=listen.port, ready=ready)


@custodian.command(cls=Verb, example="aigovtool custodian show ./custodian")
@click.argument("source", metavar="DIRECTORY|PARTY-FILE", type=ANYTHING)
@click.pass_obj
def show(screen: Screen, source: Path) -> None:
    """Show a custodian's address and public root key, from its DIRECTORY or from any party's file.

    From its directory also until when its TLS certificate is good. Whoever verifies its audit log needs the root key:
    publish it, or hand it over on a safe path. The fingerprint is that of address, root key and TLS authority: with
    another one, a party's file leads to somebody else.
    """
    shown = _shown_of_directory(source) if source.is_dir() else _shown_of_party(source)

    def render() -> None:
        facts = [("custodian", shown.custodian), ("address", shown.url), ("root key", shown.root)]
        facts.append(("fingerprint", shown.fingerprint))
        if shown.certificate_until_ms is not None:
            facts.append(("TLS certificate until", standing(shown.certificate_until_ms, _now_ms())))
        screen.facts(facts)

    screen.show(shown, render)


def _shown_of_directory(directory: Path) -> Shown:
    from aigovtool.crypto.keyfile import read_secret_file  # noqa: PLC0415
    from aigovtool.crypto.sign import VerifyKey  # noqa: PLC0415
    from aigovtool.crypto.x509 import from_pem, to_pem  # noqa: PLC0415
    from aigovtool.custodian.app import read_settings  # noqa: PLC0415
    from aigovtool.custodian.certificate import show as show_certificate  # noqa: PLC0415
    from aigovtool.protocol.party import CustodianAddress  # noqa: PLC0415

    require_custodian(directory)
    root = VerifyKey(read_secret_file(directory / "keys" / "root.pub").reveal())
    tls_ca = to_pem(*from_pem(read_secret_file(directory / "keys" / "tls-ca.pem").reveal())).decode()
    address = CustodianAddress(url=read_settings(directory).url, root=root.raw, tls_ca=tls_ca)
    return Shown(
        custodian=root.key_id,
        url=address.url,
        root=root.raw.hex(),
        fingerprint=address.fingerprint(),
        certificate_until_ms=show_certificate(directory).not_after_ms,
    )


def _shown_of_party(file: Path) -> Shown:
    from aigovtool.crypto.sign import VerifyKey  # noqa: PLC0415

    address = read_party(file, waiting=True).custodian
    root = VerifyKey(address.root)
    return Shown(custodian=root.key_id, url=address.url, root=root.raw.hex(), fingerprint=address.fingerprint())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
