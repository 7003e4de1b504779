"""The file of an appraisal policy."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from aigovtool.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from aigovtool.attestation.policy import AppraisalPolicy

BEGIN: Final = "begin with the file that `aigovtool appraisal show --json > policy.json` writes"


def read_policy(file: Path) -> "AppraisalPolicy":
    """Return the policy in a file.

    Raises:
        ConfigurationError: `unreadable_policy`, `bad_policy`.
    """
    from aigovtool.attestation.policy import AppraisalPolicy  # noqa: PLC0415
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.limits import MAX_CONTROL_BODY_BYTES  # noqa: PLC0415

    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_CONTROL_BODY_BYTES + 1)
        return decode(content, AppraisalPolicy)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {file}: {error.strerror}", reason="unreadable_policy", fix=BEGIN
        ) from None
    except InputError as error:
        raise ConfigurationError(
            f"{file} is not an appraisal policy: {error.message}",
            reason="bad_policy",
            fix=BEGIN,
        ) from None
