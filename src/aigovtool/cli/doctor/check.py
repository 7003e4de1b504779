"""One thing that `aigovtool doctor` looked at."""

from typing import Final

from msgspec import Struct

OK: Final = "ok"
NOTE: Final = "note"
MISSING: Final = "missing"
WRONG: Final = "wrong"


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `standing` is ok, note, missing, or wrong: to be mended."""

    name: str
    standing: str
    found: str
