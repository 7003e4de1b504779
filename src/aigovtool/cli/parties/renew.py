"""`aigovtool renew`: a party's certificate anew, for the same key and until the same end.

It is needed before the custodian revokes the authority that issued the present one, and does no harm at any time. What
a certificate says is worth nothing without the ledger, which has the party's key, end and revocation.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct, structs

from aigovtool.cli.credentials import certified, content_of, protected, read_fetched, read_party, replace_party
from aigovtool.cli.directory import require_custodian
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import DIRECTORY, FILE, Verb

if TYPE_CHECKING:
    from aigovtool.crypto.secret import Secret
    from aigovtool.ids import Digest
    from aigovtool.protocol.party import OperatorFile, PartyFile
    from aigovtool.protocol.trust import KeySet
    from aigovtool.protocol.views import PartyCertificate


class Renewed(Struct, frozen=True, kw_only=True):
    """The file that has another certificate now; `keystore` says whether it has another keystore key too."""

    file: str
    keystore: bool


@click.command(cls=Verb, example="aigovtool renew radiology.json")
@click.argument("file", type=FILE)
@click.option("--certificate", "source", type=FILE, help="One that an operator fetched; nothing is sent.")
@click.option(
    "--custodian", "directory", type=DIRECTORY, help="Issue it from the custodian's directory; nothing is sent."
)
@click.pass_obj
def renew(screen: Screen, *, file: Path, source: Path | None, directory: Path | None) -> None:
    """Put a new certificate into your party's FILE: for the same key, until the same end.

    It is issued by the key that the custodian uses now, and an operator's file gets the present keystore key. Do it
    once the custodian's credentials key was rotated, before the old one is revoked. If it was revoked already, nobody
    can connect with the old certificate: then an operator fetches one (`aigovtool consumer certificate`), and whoever
    holds the custodian's directory renews the operator's file with --custodian.
    """
    if source is not None and directory is not None:
        raise click.UsageError("give --certificate or --custodian, not both")
    before = content_of(file)
    party, passphrase = _opened(file, waiting=source is not None)
    if source is not None:
        renewed = _with_certificate(party, *read_fetched(source, party, "a certificate that an operator fetched"), file)
    elif directory is not None:
        renewed = _issued(party, directory)
    else:
        renewed = _fetched(party, file)
    _write(file, renewed, passphrase, before)
    done = Renewed(file=str(file), keystore=_keystore(renewed) != _keystore(party))

    def render() -> None:
        screen.line(f"{file} has a new certificate; what uses it must read the file again", style="green")
        if done.keystore:
            screen.line("Model keys are deposited to the new keystore key from now on.")

    screen.show(done, render)


def _opened(file: Path, *, waiting: bool) -> "tuple[PartyFile, Secret | None]":
    """Return a party's file, only if `waiting` one that has no certificate yet, and the passphrase that it is under."""
    from aigovtool.cli.passphrase import opened  # noqa: PLC0415
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.protocol.party import MAX_PARTY_FILE_BYTES, OperatorFile  # noqa: PLC0415

    kept = protected(file)
    if kept is None:
        return read_party(file, waiting=waiting), None
    content, passphrase = opened(file, kept)
    with content:
        return decode(content.reveal(), OperatorFile, max_bytes=MAX_PARTY_FILE_BYTES), passphrase


def _write(file: Path, party: "PartyFile", passphrase: "Secret | None", before: "Digest") -> None:
    """Replace a party's file, if it still is what was read, under the same passphrase as before."""
    from aigovtool.codec import encode  # noqa: PLC0415
    from aigovtool.crypto.keyfile import write_secret_file  # noqa: PLC0415
    from aigovtool.crypto.passphrase import protect  # noqa: PLC0415
    from aigovtool.crypto.secret import Secret  # noqa: PLC0415

    if passphrase is None:
        replace_party(file, party, instead_of=before)
        return
    with passphrase, Secret(encode(party)) as plain, Secret(encode(protect(plain, passphrase))) as content:
        write_secret_file(file.absolute(), content, replace=True, instead_of=before)


def _fetched(party: "PartyFile", file: Path) -> "PartyFile":
    from aigovtool.crypto.sign import Envelope, VerifyKey  # noqa: PLC0415
    from aigovtool.operator.connection import CustodianConnection  # noqa: PLC0415
    from aigovtool.protocol.party import OperatorFile, known_key_set  # noqa: PLC0415
    from aigovtool.protocol.trust import open_key_set  # noqa: PLC0415
    from aigovtool.protocol.views import PartyCertificate  # noqa: PLC0415

    with CustodianConnection.of(party) as connection:
        found = connection.get("/v1/self/certificate", PartyCertificate)
        root, at_least = VerifyKey(party.custodian.root), known_key_set(party)
        key_set = open_key_set(connection.get("/v1/key-set", Envelope), root, at_least=at_least)
    renewed = _with_certificate(party, found, key_set, file)
    if not isinstance(renewed, OperatorFile):
        return renewed
    return structs.replace(renewed, keystore=key_set.keystore, key_set=key_set.version)


def _issued(party: "PartyFile", directory: Path) -> "PartyFile":
    from aigovtool.custodian.app import certificate_of  # noqa: PLC0415

    require_custodian(directory)
    return certificate_of(directory, party, time.time_ns() // 1_000_000)


def _with_certificate(party: "PartyFile", found: "PartyCertificate", key_set: "KeySet", file: Path) -> "PartyFile":
    from aigovtool.protocol.party import BorrowerFile, OperatorFile  # noqa: PLC0415

    if isinstance(party, BorrowerFile):
        return structs.replace(party, certificate=certified(found, key_set, party.enrolment_key, party.borrower, file))
    name = party.operator if isinstance(party, OperatorFile) else party.consumer
    return structs.replace(party, certificate=certified(found, key_set, party.key, name, file))


def _keystore(party: "PartyFile | OperatorFile") -> bytes:
    return getattr(party, "keystore", b"")
