"""Documents signed with an operator's key, so that others can check who vouches for them."""

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from aigovtool.cli.credentials import read_operator
from aigovtool.cli.document import write_document
from aigovtool.cli.screen import Screen

if TYPE_CHECKING:
    from aigovtool.codec import Message


class Signed(Struct, frozen=True, kw_only=True):
    """A document that was signed, and the key that others check it with."""

    version: int
    file: str
    key: str


def sign_document(
    screen: Screen, out: Path, kind: str, document: "Message", *, version: int, operator_file: Path | None
) -> None:
    """Sign a document with the operator's key, write it to `out`, and show the key that others check it with."""
    from aigovtool.crypto.secret import Secret  # noqa: PLC0415
    from aigovtool.crypto.sign import SigningKey, seal  # noqa: PLC0415

    key = SigningKey.from_secret(Secret(read_operator(operator_file).key))
    write_document(out, seal(kind, document, key), replace=False)
    shown = Signed(version=version, file=str(out), key=key.public.raw.hex())

    def render() -> None:
        screen.facts([("signed", f"{out}, version {shown.version}"), ("key for others", shown.key)])
        screen.line("Give the key to others by another way than the file: it says whose signature they look for.")

    screen.show(shown, render)
