"""Party files on the command line: reading the one in use, and writing new ones with mode 0600."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aigovtool.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.party import BorrowerFile, ConsumerFile, OperatorFile, PartyFile

T = TypeVar("T")


def connected(operator_file: Path | None) -> "OperatorClient":
    """Return a client for the operator whose file was named; close it.

    Raises:
        ConfigurationError: `no_operator_file` when none was named, and whatever is wrong with the file.
    """
    from aigovtool.operator.client import OperatorClient  # noqa: PLC0415

    return OperatorClient(read_operator(operator_file))


def read_operator(path: Path | None) -> "OperatorFile":
    """Return the operator file; raises as `connected`."""
    from aigovtool.protocol.party import OperatorFile  # noqa: PLC0415

    if path is None:
        raise ConfigurationError(
            "no operator file was named",
            reason="no_operator_file",
            fix="give --operator FILE or set AIGOVTOOL_OPERATOR; `aigovtool custodian init` writes the first one",
        )
    return _as(path, read_party(path), OperatorFile, "an operator file")


def read_user(path: Path) -> "ConsumerFile | BorrowerFile":
    """Return a consumer's or borrower's file; raises as `read_party`."""
    from aigovtool.protocol.party import BorrowerFile, ConsumerFile  # noqa: PLC0415

    party = read_party(path)
    if isinstance(party, BorrowerFile):
        return party
    return _as(path, party, ConsumerFile, "a consumer or borrower file")


def read_party(path: Path) -> "PartyFile":
    """Return a party file of any kind.

    Raises:
        ConfigurationError: missing, readable by others, or not a party file (`bad_party_file`).
    """
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.crypto.keyfile import read_secret_file  # noqa: PLC0415
    from aigovtool.protocol.party import MAX_PARTY_FILE_BYTES, BorrowerFile, ConsumerFile, OperatorFile  # noqa: PLC0415

    with read_secret_file(path, max_bytes=MAX_PARTY_FILE_BYTES) as content:
        try:
            kinds: type[PartyFile] = BorrowerFile | ConsumerFile | OperatorFile  # type: ignore[assignment]
            return decode(content.reveal(), kinds, max_bytes=MAX_PARTY_FILE_BYTES)
        except InputError as error:
            raise ConfigurationError(
                f"{path} is not a party file: {error.message}",
                reason="bad_party_file",
                fix="use the file as `aigovtool custodian init`, `borrower add` or `consumer add` wrote it",
            ) from None


def require_free(path: Path) -> None:
    """Refuse to go on when `path` exists: the party would be enrolled, but its only key could not be written.

    Raises:
        ConfigurationError: `file_exists`, `no_directory`.
    """
    if path.exists() or path.is_symlink():
        raise ConfigurationError(f"{path} exists already", reason="file_exists", fix="choose another name with -o")
    if not path.absolute().parent.is_dir():
        raise ConfigurationError(f"there is no directory {path.parent}", reason="no_directory", fix="make it first")


def write_party(path: Path, party: "PartyFile") -> None:
    """Write a party file with mode 0600; never over another file."""
    from aigovtool.codec import encode  # noqa: PLC0415
    from aigovtool.crypto.keyfile import write_secret_file  # noqa: PLC0415
    from aigovtool.crypto.secret import Secret  # noqa: PLC0415

    with Secret(encode(party)) as content:
        write_secret_file(path.absolute(), content)


def _as(path: Path, party: "PartyFile", kind: type[T], what: str) -> T:
    if not isinstance(party, kind):
        raise ConfigurationError(f"{path} is not {what}", reason="wrong_party_file", fix=f"give {what}")
    return party
