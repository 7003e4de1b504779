"""The file of a library of reference values: JSON, or signed."""

from pathlib import Path
from typing import TYPE_CHECKING

from aigovtool.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from aigovtool.attestation.reference_values import ReferenceLibrary
    from aigovtool.codec import Message


def read_library(path: Path, key: str | None = None) -> "ReferenceLibrary":
    """Return the library in a file; with `key` it must be signed with that key (hexadecimal).

    Raises:
        ConfigurationError: `unreadable_file`, `not_a_library`, or `not_signed` where a key is given.
        SignatureInvalidError: it is signed with another key.
    """
    from aigovtool.attestation.reference_values import ReferenceLibrary, opened  # noqa: PLC0415
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.crypto.sign import Envelope, VerifyKey  # noqa: PLC0415
    from aigovtool.limits import MAX_CONTROL_BODY_BYTES  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONTROL_BODY_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}",
            reason="unreadable_file",
            fix="begin one with `aigovtool reference-values add`",
        ) from None
    try:
        if b'"payloadType"' in content:
            envelope = decode(content, Envelope)
            if key is None:
                return decode(envelope.payload, ReferenceLibrary)
            return opened(envelope, [VerifyKey(_raw(key))])
        if key is not None:
            raise ConfigurationError(f"{path} is not signed", reason="not_signed", fix="ask for the signed file")
        return decode(content, ReferenceLibrary)
    except InputError as error:
        raise ConfigurationError(
            f"{path} is no library of reference values: {error.message}", reason="not_a_library"
        ) from None


def write_document(path: Path, document: "Message", *, replace: bool) -> None:
    """Write a document for people and version control: indented JSON, one member per line.

    Raises:
        ConfigurationError: `unwritable_file`.
    """
    import msgspec  # noqa: PLC0415

    from aigovtool.codec import encode  # noqa: PLC0415

    text = msgspec.json.format(encode(document), indent=2) + b"\n"
    try:
        if not replace:
            with path.open("xb") as file:
                file.write(text)
            return
        partial = path.with_name(f".{path.name}.tmp")
        partial.write_bytes(text)
        partial.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}", reason="unwritable_file") from None


def _raw(key: str) -> bytes:
    try:
        return bytes.fromhex(key)
    except ValueError:
        raise ConfigurationError("the key is not hexadecimal", reason="bad_hex") from None
