"""The file of an appraisal policy: JSON, or signed."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from aigovtool.cli.document import read_document

if TYPE_CHECKING:
    from aigovtool.attestation.policy import AppraisalPolicy

BEGIN: Final = "begin with the file that `aigovtool appraisal show --json > policy.json` writes"


def read_policy(file: Path, key: str | None = None, *, option: str | None = None) -> "AppraisalPolicy":
    """Return the policy in a file; with `key` (hexadecimal, from `option`) it must be signed with that key.

    Raises:
        ConfigurationError, InvalidValueError, SignatureInvalidError: as for `read_document`.
    """
    from aigovtool.attestation.policy import POLICY, AppraisalPolicy  # noqa: PLC0415

    return read_document(file, POLICY, AppraisalPolicy, key, what="an appraisal policy", begin=BEGIN, option=option)
