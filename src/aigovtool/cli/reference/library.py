"""The file of a library of reference values: JSON, or signed."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from aigovtool.cli.document import read_document

if TYPE_CHECKING:
    from aigovtool.attestation.reference_values import ReferenceLibrary

_BEGIN: Final = "begin one with `aigovtool reference-values add`"


def read_library(path: Path, key: str | None = None, *, option: str | None = None) -> "ReferenceLibrary":
    """Return the library in a file; with `key` (hexadecimal, from `option`) it must be signed with that key.

    Raises:
        ConfigurationError, InvalidValueError, SignatureInvalidError: as for `read_document`.
    """
    from aigovtool.attestation.reference_values import REFERENCE_VALUES, ReferenceLibrary  # noqa: PLC0415

    return read_document(
        path, REFERENCE_VALUES, ReferenceLibrary, key, what="a library of reference values", begin=_BEGIN, option=option
    )
