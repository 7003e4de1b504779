"""The file of an appraisal policy: JSON, or signed."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from aigovtool.cli.document import read_document, write_document

if TYPE_CHECKING:
    from aigovtool.attestation.policy import AppraisalPolicy

BEGIN: Final = "begin with the file that `aigovtool appraisal show --json > policy.json` writes"


def read_policy(file: Path, key: str | None = None) -> "AppraisalPolicy":
    """Return the policy in a file; with `key` it must be signed with that key (hexadecimal).

    Raises:
        ConfigurationError, SignatureInvalidError: as for `read_document`.
    """
    from aigovtool.attestation.policy import POLICY, AppraisalPolicy  # noqa: PLC0415

    return read_document(file, POLICY, AppraisalPolicy, key, what="an appraisal policy", begin=BEGIN)


def require_newest(policy: "AppraisalPolicy", seen_file: Path) -> None:
    """Refuse a policy older than the newest that a file remembers, and remember this one.

    Raises:
        AppraisalError: `policy_rollback`, `policy_fork`.
        ConfigurationError: the file cannot be read or written, or is another kind of file.
    """
    from aigovtool.attestation.policy import POLICY, PolicyMark, mark_of, require_successor  # noqa: PLC0415

    mark = mark_of(policy)
    if seen_file.exists():
        seen = read_document(
            seen_file, POLICY, PolicyMark, None, what="the mark of a policy", begin="name another file, or remove it"
        )
        require_successor(policy, seen)
        if mark == seen:
            return
    write_document(seen_file, mark, replace=True)
