"""Seeds that once failed. They are checked in, and both the test suite and the short form play them for ever."""

import json
from pathlib import Path

_PATH = Path(__file__).with_suffix(".json")


def failed_seeds(campaign: str, path: Path = _PATH) -> list[int]:
    """Return the seeds at which a campaign once found something."""
    known: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8"))
    return known.get(campaign, [])


def keep_failed(campaign: str, seeds: list[int], path: Path = _PATH) -> None:
    """Add seeds to the list."""
    known: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8"))
    known[campaign] = sorted({*known.get(campaign, []), *seeds})
    path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
