"""`aigovtool custodian certificate`: what the custodian's TLS certificate says, and renewing it.

It takes what `custodian show` takes: the custodian's directory, or any party's file. The directory shows what is on
file; a party's file shows what the running custodian proves to whoever connects, which is how an operator elsewhere
sees that it ends soon. Only who holds the directory can renew it.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.credentials import read_party
from aigovtool.cli.directory import require_custodian
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import ANYTHING, Verb
from aigovtool.cli.words import span, when
from aigovtool.errors import ConfigurationError

if TYPE_CHECKING:
    from aigovtool.custodian.certificate import ServerCertificate

RENEW: Final = "aigovtool custodian certificate {} --renew"


class CertificateShown(Struct, frozen=True, kw_only=True):
    """A server certificate; `own` is null where only the directory could tell, `kept` is where the old one is."""

    subject: str
    issuer: str
    hosts: list[str]
    sha256: str
    not_before_ms: int
    not_after_ms: int
    ends_soon: bool
    own: bool | None
    file: str | None = None
    kept: str | None = None


@click.command(cls=Verb, example="aigovtool custodian certificate ./custodian --renew")
@click.argument("source", metavar="DIRECTORY|PARTY-FILE", type=ANYTHING)
@click.option("--renew", is_flag=True, help="Issue it anew, for a year, from the custodian's own authority.")
@click.option("--host", "hosts", multiple=True, help="With --renew: a further name or address; repeat for more.")
@click.pass_obj
def certificate(screen: Screen, *, source: Path, renew: bool, hosts: tuple[str, ...]) -> None:
    """Show a custodian's TLS certificate, from its DIRECTORY or as it proves it to a party; or renew it.

    A custodian that serves takes a renewed one up by itself, within seconds. Key, authority and hosts stay, so no party
    needs anything new; the old certificate is kept beside it.
    """
    now_ms = time.time_ns() // 1_000_000
    if hosts and not renew:
        raise click.UsageError("--host is for --renew")
    if source.is_dir():
        done = _in_directory(source, hosts, now_ms, renew=renew)
    elif renew:
        raise ConfigurationError(
            f"{source} is not a custodian's directory",
            reason="no_custodian",
            fix="renew it where the custodian runs: " + RENEW.format("DIRECTORY"),
        )
    else:
        done = _at_custodian(source, now_ms)

    def render() -> None:
        if done.kept is not None:
            screen.line("renewed; a custodian that serves shows it to new connections within seconds", style="green")
        _show(screen, done, now_ms)
        if done.kept is not None:
            screen.line("If several custodians share the ledger: copy the file to each of them, or renew there too.")
        if done.ends_soon:
            screen.banner(_advice(done, source))

    screen.show(done, render)


def standing(until_ms: int, now_ms: int) -> str:
    """Return until when a certificate is good, in words."""
    if until_ms <= now_ms:
        return f"{when(until_ms)}: it has ended, and nobody can connect"
    return f"{when(until_ms)} ({_left(until_ms, now_ms)} left)"


def warning(found: "ServerCertificate", now_ms: int, directory: Path) -> str | None:
    """Return what is to be said of a certificate that has ended, or ends within 30 days."""
    if not found.ends_soon(now_ms):
        return None
    if now_ms >= found.not_after_ms:
        what = f"the TLS certificate ended at {when(found.not_after_ms)}: nobody can connect; "
    else:
        what = f"the TLS certificate ends in {_left(found.not_after_ms, now_ms)}, at {when(found.not_after_ms)}; "
    return what + (
        "renew it: " + RENEW.format(directory) if found.own else f"get a new one from who issued it, {found.issuer}"
    )


def _left(until_ms: int, now_ms: int) -> str:
    return span((until_ms - now_ms) // 60_000 * 60_000)


def _advice(shown: CertificateShown, source: Path) -> str:
    if shown.own is False:
        return f"It ends soon: get a new one from who issued it, {shown.issuer}."
    return "It ends soon. Renew it: " + RENEW.format(source if shown.own else "DIRECTORY")


def _show(screen: Screen, shown: CertificateShown, now_ms: int) -> None:
    pairs = [
        ("subject", shown.subject),
        ("issued by", shown.issuer + ("" if shown.own is not False else " (not this custodian's own authority)")),
        ("hosts", ", ".join(shown.hosts) or "none"),
        ("since", when(shown.not_before_ms)),
        ("until", standing(shown.not_after_ms, now_ms)),
        ("SHA-256", shown.sha256),
        ("file", shown.file),
        ("old one kept in", shown.kept),
    ]
    screen.facts([(name, value) for name, value in pairs if value is not None])


def _in_directory(directory: Path, hosts: tuple[str, ...], now_ms: int, *, renew: bool) -> CertificateShown:
    from aigovtool.custodian import certificate as certificates  # noqa: PLC0415

    require_custodian(directory)
    kept = certificates.renew(directory, hosts, now_ms) if renew else None
    found = certificates.show(directory)
    return CertificateShown(
        subject=found.subject,
        issuer=found.issuer,
        hosts=found.hosts,
        sha256=found.sha256,
        not_before_ms=found.not_before_ms,
        not_after_ms=found.not_after_ms,
        ends_soon=found.ends_soon(now_ms),
        own=found.own,
        file=found.file,
        kept=None if kept is None else str(kept),
    )


def _at_custodian(file: Path, now_ms: int) -> CertificateShown:
    from aigovtool.crypto.x509 import describe  # noqa: PLC0415
    from aigovtool.custodian.certificate import WARN_BEFORE_MS  # noqa: PLC0415
    from aigovtool.operator.connection import CustodianConnection  # noqa: PLC0415

    with CustodianConnection.anonymous(read_party(file).custodian) as connection:
        facts = describe(connection.server_certificate())
    return CertificateShown(
        subject=facts.subject,
        issuer=facts.issuer,
        hosts=list(facts.hosts),
        sha256=facts.sha256,
        not_before_ms=facts.not_before_ms,
        not_after_ms=facts.not_after_ms,
        ends_soon=now_ms > facts.not_after_ms - WARN_BEFORE_MS,
        own=None,
    )
