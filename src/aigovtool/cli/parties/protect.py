"""`aigovtool operator protect`: a passphrase for an operator's file, so that a stolen file alone orders nothing."""

from pathlib import Path

import click
from msgspec import Struct

from aigovtool.cli.credentials import content_of, protected, read_operator
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb


class Protection(Struct, frozen=True, kw_only=True):
    """What an operator's file needs from now on."""

    file: str
    operator: str
    passphrase: bool


@click.command("protect", cls=Verb, example="aigovtool operator protect alice.json")
@click.argument("file", type=FILE)
@click.option("--remove", is_flag=True, help="Take the passphrase away again.")
@click.pass_obj
def protect(screen: Screen, *, file: Path, remove: bool) -> None:
    """Put an operator's FILE under a passphrase, or under another one; it is asked for by each verb that uses the file.

    Whoever copied the file before has it without. A passphrase that is lost cannot be found: another operator revokes
    the party, and enrols it under another name. Programs name a file that holds the passphrase, and that only their
    user can read, in AIGOVTOOL_PASSPHRASE_FILE.
    """
    from aigovtool.cli import passphrase  # noqa: PLC0415
    from aigovtool.codec import encode  # noqa: PLC0415
    from aigovtool.crypto.keyfile import write_secret_file  # noqa: PLC0415
    from aigovtool.crypto.passphrase import protect as under  # noqa: PLC0415
    from aigovtool.crypto.secret import Secret  # noqa: PLC0415

    read, before = content_of(file), protected(file) is not None
    party = read_operator(file)
    if remove:
        content = Secret(encode(party))
    else:
        with passphrase.chosen(file) as words, Secret(encode(party)) as plain:
            content = Secret(encode(under(plain, words)))
    with content:
        if before or not remove:
            write_secret_file(file.absolute(), content, replace=True, instead_of=read)
    done = Protection(file=str(file), operator=party.operator, passphrase=not remove)
    screen.show(done, lambda: _say(screen, done))


def _say(screen: Screen, done: Protection) -> None:
    if not done.passphrase:
        screen.line(f"{done.file} needs no passphrase: whoever has it can order as {done.operator}", style="yellow")
        return
    screen.line(f"{done.file} needs its passphrase from now on", style="green")
    screen.line("Copies that were made before need none: destroy them, or have the operator revoked.")
