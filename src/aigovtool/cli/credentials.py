"""Party files on the command line: reading the one in use, and writing new ones with mode 0600."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aigovtool.errors import ConfigurationError, ConflictError, InputError

if TYPE_CHECKING:
    from aigovtool.crypto.passphrase import ProtectedFile
    from aigovtool.ids import Digest
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.party import BorrowerFile, ConsumerFile, OperatorFile, PartyFile
    from aigovtool.protocol.trust import KeySet
    from aigovtool.protocol.views import PartyCertificate

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
    return _as(path, read_party(path), OperatorFile)


def read_borrower(path: Path) -> "BorrowerFile":
    """Return a borrower's file; raises as `read_party`."""
    from aigovtool.protocol.party import BorrowerFile  # noqa: PLC0415

    return _as(path, read_party(path), BorrowerFile)


def read_consumer(path: Path) -> "ConsumerFile":
    """Return a consumer's file; raises as `read_party`."""
    from aigovtool.protocol.party import ConsumerFile  # noqa: PLC0415

    return _as(path, read_party(path), ConsumerFile)


def read_user(path: Path) -> "ConsumerFile | BorrowerFile":
    """Return a consumer's or borrower's file; raises as `read_party`."""
    from aigovtool.protocol.party import BorrowerFile, ConsumerFile  # noqa: PLC0415

    party = read_party(path)
    return party if isinstance(party, BorrowerFile) else _as(path, party, ConsumerFile, BorrowerFile)


def read_party(path: Path, *, waiting: bool = False) -> "PartyFile":
    """Return a party file of any kind; only if `waiting`, also one that has no certificate yet.

    Raises:
        ConfigurationError: missing, readable by others, not a party file (`bad_party_file`), or one that waits for its
            certificate (`no_certificate`).
    """
    party = _decoded(path)
    if not party.certificate and not waiting:
        role = _role(type(party))
        put = f"operator finish {path} FILE" if role == "operator" else f"renew {path} --certificate FILE"
        raise ConfigurationError(
            f"{path} has no certificate yet",
            reason="no_certificate",
            fix=f"ask an operator for the file of `aigovtool {role} certificate`; then: aigovtool {put}",
        )
    return party


def protected(path: Path) -> "ProtectedFile | None":
    """Return a file that is under a passphrase, as it is; None for any other party file; raises as `read_party`."""
    from aigovtool.crypto.passphrase import ProtectedFile  # noqa: PLC0415

    found = _read(path)
    return found if isinstance(found, ProtectedFile) else None


def _decoded(path: Path) -> "PartyFile":
    from aigovtool.cli import passphrase  # noqa: PLC0415
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.crypto.passphrase import ProtectedFile  # noqa: PLC0415
    from aigovtool.protocol.party import MAX_PARTY_FILE_BYTES, OperatorFile  # noqa: PLC0415

    found = _read(path)
    if not isinstance(found, ProtectedFile):
        return found
    content, used = passphrase.opened(path, found)
    with content, used:
        return decode(content.reveal(), OperatorFile, max_bytes=MAX_PARTY_FILE_BYTES)


def _read(path: Path) -> "PartyFile | ProtectedFile":
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.crypto.keyfile import read_secret_file  # noqa: PLC0415
    from aigovtool.crypto.passphrase import ProtectedFile  # noqa: PLC0415
    from aigovtool.protocol.party import MAX_PARTY_FILE_BYTES, BorrowerFile, ConsumerFile, OperatorFile  # noqa: PLC0415

    most = 2 * MAX_PARTY_FILE_BYTES  # one under a passphrase is a third longer
    with read_secret_file(path, max_bytes=most) as content:
        try:
            kinds: type[PartyFile | ProtectedFile] = BorrowerFile | ConsumerFile | OperatorFile | ProtectedFile  # type: ignore[assignment]
            return decode(content.reveal(), kinds, max_bytes=most)
        except InputError as error:
            raise ConfigurationError(
                f"{path} is not a party file: {error.message}",
                reason="bad_party_file",
                fix="use the file as `aigovtool custodian init`, `borrower add` or `consumer add` wrote it",
            ) from None


def require_free(path: Path, option: str = "-o") -> None:
    """Refuse to go on when `path` exists: what is about to be done could not be written down afterwards.

    Args:
        path: the file to be.
        option: what named it, for the message.

    Raises:
        ConfigurationError: `file_exists`, `no_directory`, `bad_path`.
    """
    try:
        taken = path.exists() or path.is_symlink()
    except OSError as error:
        raise ConfigurationError(
            f"{str(path)[:100]} cannot be a file: {error.strerror}",
            reason="bad_path",
            fix=f"choose another name with {option}",
        ) from None
    if taken:
        fix = f"choose another name with {option}"
        raise ConfigurationError(f"{path} exists already", reason="file_exists", fix=fix)
    if not path.absolute().parent.is_dir():
        raise ConfigurationError(
            f"there is no directory {path.parent}", reason="no_directory", fix=f"mkdir {path.parent}"
        )


def certified(found: "PartyCertificate", key_set: "KeySet", seed: bytes, name: str, file: Path) -> str:
    """Return the certificate that was fetched for a party, which may have come in a file from anybody.

    One that is not this party's, or that its custodian did not issue, would take the place of one that is good.

    Raises:
        ConflictError: it is for another key than that in the party's file, or for another name (`other_key`); or none
            of the custodian's authorities issued it (`other_issuer`).
        UnauthenticatedError, InputError: it is no certificate of a party.
    """
    from aigovtool.crypto.identity import read_credential  # noqa: PLC0415
    from aigovtool.crypto.secret import Secret  # noqa: PLC0415
    from aigovtool.crypto.sign import SigningKey  # noqa: PLC0415
    from aigovtool.crypto.x509 import from_pem, is_issued_by  # noqa: PLC0415

    with Secret(seed) as secret:
        mine = SigningKey.from_secret(secret).public.raw
    says = read_credential(from_pem(found.certificate.encode())[0]) if found.key == mine else None
    if says is None or (says.public_key.raw, says.name) != (mine, name):
        raise ConflictError(
            f"the certificate is for another key than that in {file}, or for another name",
            reason="other_key",
            fix=f"ask the operators which key they enrolled: yours is {mine.hex()}",
        )
    if not any(is_issued_by(from_pem(found.certificate.encode())[0], one) for one in key_set.credentials):
        raise ConflictError(
            "the certificate was not issued by the custodian, or by a key that is not accepted any more",
            reason="other_issuer",
            fix="ask an operator to fetch it again",
        )
    return found.certificate


def read_fetched(source: Path, party: "PartyFile", what: str) -> "tuple[PartyCertificate, KeySet]":
    """Return a certificate that an operator fetched, and the key set with it, which the party's root key has signed.

    `what` the file should be is said if it is not.

    Raises:
        ConfigurationError: as `read_public`.
        SignatureInvalidError: the key set is of another custodian, or older than one that is known.
    """
    from aigovtool.cli.public_file import read_public  # noqa: PLC0415
    from aigovtool.crypto.sign import VerifyKey  # noqa: PLC0415
    from aigovtool.protocol.party import known_key_set  # noqa: PLC0415
    from aigovtool.protocol.trust import open_key_set  # noqa: PLC0415
    from aigovtool.protocol.views import FetchedCertificate  # noqa: PLC0415

    found = read_public(source, FetchedCertificate, what)
    root, at_least = VerifyKey(party.custodian.root), known_key_set(party)
    return found.issued, open_key_set(found.key_set, root, at_least=at_least)


def write_party(path: Path, party: "PartyFile") -> None:
    """Write a party file with mode 0600; never over another file."""
    from aigovtool.codec import encode  # noqa: PLC0415
    from aigovtool.crypto.keyfile import write_secret_file  # noqa: PLC0415
    from aigovtool.crypto.secret import Secret  # noqa: PLC0415

    with Secret(encode(party)) as content:
        write_secret_file(path.absolute(), content)


def content_of(path: Path) -> "Digest":
    """Return the digest of a party file, to be taken before it is read by who will replace it; raises as `read_party`.

    Two verbs may have one file at the same time, and wait for a person or for the custodian: what the one has written,
    a passphrase for example, is not to be taken away by what the other had read before.
    """
    from aigovtool.crypto.keyfile import digest_of_secret_file  # noqa: PLC0415
    from aigovtool.protocol.party import MAX_PARTY_FILE_BYTES  # noqa: PLC0415

    return digest_of_secret_file(path, max_bytes=2 * MAX_PARTY_FILE_BYTES)


def replace_party(path: Path, party: "PartyFile", *, instead_of: "Digest | None" = None) -> None:
    """Write a party file over its older self, with mode 0600: the one or the other is there at any time.

    Raises:
        ConflictError: it is not what was read any more, `instead_of` says (`key_file_changed`).
    """
    from aigovtool.codec import encode  # noqa: PLC0415
    from aigovtool.crypto.keyfile import write_secret_file  # noqa: PLC0415
    from aigovtool.crypto.secret import Secret  # noqa: PLC0415

    with Secret(encode(party)) as content:
        write_secret_file(path.absolute(), content, replace=True, instead_of=instead_of)


def _as(path: Path, party: "PartyFile", kind: type[T], *also_taken: type) -> T:
    if isinstance(party, kind):
        return party
    wanted = (kind, *also_taken)
    names = " or ".join(_kind(one) for one in wanted)
    raise ConfigurationError(
        f"{path} is {_kind(type(party))}; here {names} is needed",
        reason="wrong_party_file",
        fix=f"give {names}: " + " or ".join(f"`aigovtool {_role(one)} add` writes one" for one in wanted),
    )


def _kind(kind: type) -> str:
    return f"{'an' if _role(kind) == 'operator' else 'a'} {_role(kind)} file"


def _role(kind: type) -> str:
    """Return `operator` for `OperatorFile`, and so on."""
    return kind.__name__.removesuffix("File").lower()
