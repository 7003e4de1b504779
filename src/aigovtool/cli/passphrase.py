"""Asking for the passphrase of a protected file: at the terminal, or in a file that a program names.

Never in an argument or in a variable, which others can read (`/proc/PID/environ`, shell histories, process lists).
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from aigovtool.errors import ConfigurationError, InvalidValueError

if TYPE_CHECKING:
    from aigovtool.crypto.passphrase import ProtectedFile
    from aigovtool.crypto.secret import Secret

#: Names a file that only this user can read, for programs: a service manager's credential, or what a keyring wrote.
PASSPHRASE_FILE: Final = "AIGOVTOOL_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable
_TRIES: Final = 3


def opened(path: Path, file: "ProtectedFile") -> "tuple[Secret, Secret]":
    """Return the content of a protected file and its passphrase, which is asked for up to three times.

    Raises:
        ConfigurationError: `passphrase_needed` when nobody is there to ask, `wrong_passphrase`; those of the file that
            `AIGOVTOOL_PASSPHRASE_FILE` names.
        click.Abort: the question was not answered.
    """
    from aigovtool.crypto.passphrase import unprotect  # noqa: PLC0415

    if (given := _given()) is not None:
        return unprotect(file, given), given
    for left in reversed(range(_TRIES)):
        passphrase = _asked(f"passphrase of {path}", for_what=path)
        try:
            return unprotect(file, passphrase), passphrase
        except ConfigurationError as wrong:
            if not left:
                raise
            click.echo(wrong.message, err=True)
    raise AssertionError  # the last try returned or raised


def chosen(path: Path) -> "Secret":
    """Return a new passphrase, which a person types twice.

    Raises:
        ConfigurationError: as `opened`.
        InvalidValueError: `weak_passphrase`, `bad_passphrase`, `passphrases_differ`.
    """
    from aigovtool.crypto.passphrase import require_strong  # noqa: PLC0415

    if (given := _given()) is not None:
        require_strong(given)
        return given
    first = _asked(f"new passphrase for {path}", for_what=path)
    require_strong(first)
    if _asked("the same again", for_what=path).reveal() != first.reveal():
        raise InvalidValueError("that was another one", reason="passphrases_differ", fix="try again")
    return first


def _given() -> "Secret | None":
    """Return what the named file holds, without the end of its line."""
    from aigovtool.crypto.keyfile import read_secret_file  # noqa: PLC0415
    from aigovtool.crypto.passphrase import MAX_PASSPHRASE_BYTES  # noqa: PLC0415
    from aigovtool.crypto.secret import Secret  # noqa: PLC0415

    name = os.environ.get(PASSPHRASE_FILE, "")
    if not name:
        return None
    with read_secret_file(Path(name), max_bytes=MAX_PASSPHRASE_BYTES + 2) as content:
        return Secret(content.reveal().rstrip(b"\r\n"))


def _asked(question: str, *, for_what: Path) -> "Secret":
    from aigovtool.crypto.secret import Secret  # noqa: PLC0415

    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{for_what} is protected by a passphrase, and nobody is there to ask",
            reason="passphrase_needed",
            fix=f"run it in a terminal, or name a file with the passphrase in {PASSPHRASE_FILE}",
        )
    return Secret(click.prompt(question, hide_input=True, err=True).encode())
