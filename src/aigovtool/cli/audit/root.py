"""A copy of the audit log, opened under the root key that its reader trusts."""

import base64
import binascii
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from aigovtool.cli.credentials import read_party
from aigovtool.errors import ConfigurationError, SignatureInvalidError

if TYPE_CHECKING:
    from aigovtool.crypto.sign import VerifyKey
    from aigovtool.ledger.audit import AuditReport
    from aigovtool.ledger.cosignature import WitnessKey

_ROOT_BYTES: Final = 32
_COMPARE: Final = "compare the root key with the custodian's, as `aigovtool custodian show` prints it"

root_option = click.option("--root", metavar="KEY", help="The custodian's root key: 32 bytes in base64 or hexadecimal.")


def opened(
    file: Path,
    root: "VerifyKey",
    *,
    seen: Sequence[str] = (),
    names: Sequence[str] = (),
    witnesses: "Sequence[WitnessKey]" = (),
    key_set_at_least: int = 0,
    keep: Callable[[bytes], None] = lambda _: None,
) -> "AuditReport":
    """Verify a copy of the log; raises as `verify_audit_file`."""
    from aigovtool.operator.audit_file import verify_audit_file  # noqa: PLC0415

    try:
        return verify_audit_file(
            file, root, seen=seen, names=names, witnesses=witnesses, key_set_at_least=key_set_at_least, keep=keep
        )
    except SignatureInvalidError as error:
        if error.reason == "key_set_rollback":
            error.fix = "have it written again: the custodian has had a newer key set since"
            raise
        raise SignatureInvalidError(
            f"{file} is not by this custodian: {error.message}", reason=error.reason, fix=_COMPARE
        ) from None


def root_of(text: str | None, party_file: Path | None) -> "VerifyKey":
    """Return the root key that was given, or that of a party file.

    Raises:
        ConfigurationError: `no_root`, `bad_root`, and what is wrong with the file.
        SignatureInvalidError: `bad_key`.
    """
    from aigovtool.crypto.sign import VerifyKey  # noqa: PLC0415

    if text is None and party_file is None:
        raise ConfigurationError(
            "no root key was given",
            reason="no_root",
            fix="give --root KEY as `aigovtool custodian show` prints it, or --operator with a party file",
        )
    if text is None:
        return VerifyKey(read_party(party_file or Path()).custodian.root)
    try:
        raw = bytes.fromhex(text) if len(text) == 2 * _ROOT_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != _ROOT_BYTES:
        raise ConfigurationError(
            "--root is not 32 bytes in base64 or hexadecimal",
            reason="bad_root",
            fix="give the root key as `aigovtool custodian show` prints it",
        )
    try:
        return VerifyKey(raw)
    except SignatureInvalidError as error:
        raise SignatureInvalidError(f"--root is no key: {error.message}", reason=error.reason, fix=_COMPARE) from None
