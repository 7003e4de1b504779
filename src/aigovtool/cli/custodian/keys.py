"""`aigovtool custodian keys`: the custodian's own keys, which are announced, used and revoked in its directory.

A rotation is three orders, with time between them for as long as the overlap is wanted: `rotate` makes a key and tells
everybody of it, `use` signs with it, `revoke` has nobody believe the old one any more. `revoke` of a key in use does
all three at once: that is for a key that was stolen. `rotate` and `revoke` need the offline root key.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from aigovtool.cli.directory import require_custodian
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import DIRECTORY, FILE, Verb, VerbGroup
from aigovtool.cli.words import short, when

if TYPE_CHECKING:
    from aigovtool.custodian.key_rotation import KeysShown

_ROLES: Final = ("commands", "log", "credentials", "keystore", "attestation")
_STATES: Final = {
    "in_use": "in use",
    "next": "announced, not used yet",
    "accepted": "accepted, not used any more",
    "opens": "opens model keys that were deposited to it",
    "revoked": "revoked",
}
_TAKES_UP: Final = "A custodian that serves takes it up by itself, within seconds."
_REPLICAS: Final = "If several custodians share the ledger: copy the directory keys to each of them now."

_role = click.option("--key", "role", type=click.Choice(_ROLES), required=True, help="What the key is for.")
_root = click.option(
    "--root", "root_file", type=FILE, help="The offline root key, if it is not in DIRECTORY/offline/root.key."
)


@click.group(cls=VerbGroup, example="aigovtool custodian keys list ./custodian")
def keys() -> None:
    """Rotate and revoke the custodian's own keys."""


@keys.command("list", cls=Verb, example="aigovtool custodian keys list ./custodian")
@click.argument("directory", type=DIRECTORY)
@click.pass_obj
def list_keys(screen: Screen, directory: Path) -> None:
    """Show the key set in DIRECTORY, and what becomes of each key in it."""
    from aigovtool.custodian.key_rotation import show  # noqa: PLC0415

    require_custodian(directory)
    found = show(directory)
    screen.show(found, lambda: _show(screen, found))


@keys.command(cls=Verb, example="aigovtool custodian keys rotate ./custodian --key log --root /media/usb/root.key")
@click.argument("directory", type=DIRECTORY)
@_role
@_root
@click.pass_obj
def rotate(screen: Screen, *, directory: Path, role: str, root_file: Path | None) -> None:
    """Make a new key, and have everybody told of it; the present one is used on until `keys use`.

    Needs the root key. An authority for attestation keys is used at once where there was none.
    """
    from aigovtool.custodian.key_rotation import Role, announce, default_root  # noqa: PLC0415

    require_custodian(directory)
    made = announce(directory, Role(role), root_file or default_root(directory), _now_ms())

    def render() -> None:
        screen.line(f"the new {role} key is announced, in version {made.version} of the key set", style="green")
        _show(screen, made)
        screen.line(f"{_TAKES_UP} {_REPLICAS}")
        if any((one.role, one.state) == (role, "next") for one in made.keys):
            screen.line(f"next, once every enclave has renewed: aigovtool custodian keys use {directory} --key {role}")

    screen.show(made, render)


@keys.command(cls=Verb, example="aigovtool custodian keys use ./custodian --key log")
@click.argument("directory", type=DIRECTORY)
@_role
@click.pass_obj
def use(screen: Screen, *, directory: Path, role: str) -> None:
    """Use the announced key from now on. The private key before it is removed.

    Needs no root key. What the old key signed is believed until it is revoked.
    """
    from aigovtool.custodian.key_rotation import Role  # noqa: PLC0415
    from aigovtool.custodian.key_rotation import use as use_key  # noqa: PLC0415

    require_custodian(directory)
    made = use_key(directory, Role(role))

    def render() -> None:
        screen.line(f"the new {role} key is in use", style="green")
        _show(screen, made)
        screen.line(f"{_TAKES_UP} {_REPLICAS}")

    screen.show(made, render)


@keys.command(cls=Verb, example="aigovtool custodian keys revoke ./custodian 3f29ab01 --root /media/usb/root.key")
@click.argument("directory", type=DIRECTORY)
@click.argument("key_id", metavar="KEYID")
@_root
@click.option("--drop-oldest", is_flag=True, help="Of log keys, forget the one that was revoked first, if need be.")
@click.pass_obj
def revoke(screen: Screen, *, directory: Path, key_id: str, root_file: Path | None, drop_oldest: bool) -> None:
    """Have nobody believe a key any more: KEYID is its identifier, or the first digits that `keys list` shows.

    Needs the root key. One that is in use is replaced at once: by the announced key, or by a new one. That is for a key
    that was stolen; docs/deploy.md says what else is to be done then, and what nothing can mend.

    Log keys that were revoked stay listed, 32 at most: the log may hold a checkpoint that one signed. Revoking one more
    is refused, unless --drop-oldest has the first one make room. A log that holds what this one signed (a gap that was
    settled) cannot be verified from then on, and checkpoints by it that somebody kept are not read any more.
    """
    from aigovtool.custodian.key_rotation import default_root, show  # noqa: PLC0415
    from aigovtool.custodian.key_rotation import revoke as revoke_key  # noqa: PLC0415

    require_custodian(directory)
    before = show(directory)
    made = revoke_key(directory, key_id, root_file or default_root(directory), _now_ms(), drop_oldest=drop_oldest)
    known = {one.key for one in made.keys}
    dropped = [one.key for one in before.keys if one.state.value == "revoked" and one.key not in known]

    def render() -> None:
        screen.line(f"revoked, in version {made.version} of the key set", style="green")
        for key in dropped:
            screen.line(f"nobody knows the log key {short(key)} any more: what it signed is not read", style="bold")
        _show(screen, made)
        screen.line(f"{_TAKES_UP} {_REPLICAS}")

    screen.show(made, render)


def _show(screen: Screen, found: "KeysShown") -> None:
    screen.facts(
        [("custodian", short(found.custodian)), ("key set", f"version {found.version}, {when(found.issued_at_ms)}")]
    )
    rows = [[one.role.value, one.key[:16], _STATES[one.state.value]] for one in found.keys]
    screen.table(["for", "key", "state"], rows, "no keys")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
