"""Files that hold no secret and travel between people: written once, and read with care."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aigovtool.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from aigovtool.codec import Message

M = TypeVar("M", bound="Message")


def write_public(path: Path, document: "Message") -> None:
    """Write a document to a new file.

    Raises:
        ConfigurationError: `unwritable_file`.
    """
    from aigovtool.codec import encode  # noqa: PLC0415
    from aigovtool.regular_file import write_new  # noqa: PLC0415

    try:
        write_new(path, encode(document))
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}", reason="unwritable_file") from None


def read_public(path: Path, kind: type[M], what: str) -> M:
    """Return the document in a file that may have come from anybody; `what` it should be is said if it is not.

    Raises:
        ConfigurationError: `unreadable_file`, `wrong_file`.
    """
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.limits import MAX_CONTROL_BODY_BYTES  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONTROL_BODY_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}", reason="unreadable_file", fix=f"give {what}"
        ) from None
    try:
        return decode(content, kind)
    except InputError as error:
        raise ConfigurationError(
            f"{path} is not {what}: {error.message}", reason="wrong_file", fix=f"give {what}, as it was handed over"
        ) from None
