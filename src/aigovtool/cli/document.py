"""Documents in files, for people and version control: indented JSON, or the same signed by whoever vouches for it.

A signed document is read only together with the key that is to have signed it: a signature that nobody checks is worth
nothing, and looks like one that is.
"""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aigovtool.errors import ConfigurationError, InputError, InvalidValueError, VerificationError

if TYPE_CHECKING:
    from aigovtool.codec import Message
    from aigovtool.crypto.sign import VerifyKey

T = TypeVar("T", bound="Message")


def read_document(
    path: Path,
    kind: str,
    message: type[T],
    key: str | None,
    *,
    what: str,
    begin: str,
    option: str | None = None,
    max_bytes: int = 1 << 20,
) -> T:
    """Return the document in a file; with `key` (hexadecimal, 32 bytes) it must be signed with that key.

    Args:
        path: the file.
        kind: the payload type that a signature is for.
        message: what the document is read as.
        key: who must have signed it; without, it must be unsigned.
        what: what the document is, for messages: "an appraisal policy".
        begin: how to come to such a file, for messages.
        option: in which option the verb takes the key; None where it takes unsigned files alone.
        max_bytes: a larger file is refused.

    Raises:
        ConfigurationError: `unreadable_file`, `bad_document`, `not_signed` (a key was given), `signer_not_given` (it is
            signed, and no key was given).
        InvalidValueError: `bad_key`.
        SignatureInvalidError: another key signed it (`wrong_key`), or what it signed was changed.
    """
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.crypto.sign import Envelope, open_by_any  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        problem = f"cannot read {path}: {error.strerror}"
        raise ConfigurationError(problem, reason="unreadable_file", fix=begin) from None
    signed = b'"payloadType"' in content
    if signed and key is None:
        raise _signer_not_given(path, option)
    if key is not None and not signed:
        raise ConfigurationError(f"{path} is not signed", reason="not_signed", fix="ask for the signed file")
    signer = None if key is None else _verify_key(key)
    try:
        if signer is not None:
            return open_by_any(decode(content, Envelope), kind, message, [signer], max_bytes=max_bytes)
        return decode(content, message, max_bytes=max_bytes)
    except InputError as error:
        raise ConfigurationError(f"{path} is not {what}: {error.message}", reason="bad_document", fix=begin) from None


def _signer_not_given(path: Path, option: str | None) -> ConfigurationError:
    if option is None:
        said = f"{path} is signed, and this verb takes the unsigned file"
        fix = "give the file that was signed: whoever signs keeps it"
    else:
        said = f"{path} is signed, and it was not said by whom"
        fix = f"give the signer's public key with {option}: you have it from the signer and not from this file"
    return ConfigurationError(said, reason="signer_not_given", fix=fix)


def write_document(path: Path, document: "Message", *, replace: bool) -> None:
    """Write a document: indented JSON, one member per line; without `replace`, only where there is no such file.

    Raises:
        ConfigurationError: `unwritable_file`.
    """
    import msgspec  # noqa: PLC0415

    from aigovtool.codec import encode  # noqa: PLC0415
    from aigovtool.regular_file import new_beside, write_new  # noqa: PLC0415

    text = msgspec.json.format(encode(document), indent=2) + b"\n"
    try:
        if not replace:
            write_new(path, text)
            return
        made, partial = new_beside(path)
        try:
            with made:
                made.write(text)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        fix = "name another file, or remove this one" if isinstance(error, FileExistsError) else None
        raise ConfigurationError(f"cannot write {path}: {error.strerror}", reason="unwritable_file", fix=fix) from None


def _verify_key(text: str) -> "VerifyKey":
    from aigovtool.crypto.sign import VerifyKey  # noqa: PLC0415

    try:
        return VerifyKey(bytes.fromhex(text))
    except (ValueError, VerificationError):
        raise InvalidValueError(f"{text[:80]!r} is no public key: 64 hexadecimal digits", reason="bad_key") from None
