"""A custodian's directory on the command line."""

from pathlib import Path

from aigovtool.errors import ConfigurationError


def require_custodian(directory: Path) -> None:
    """Refuse a directory that is not a custodian's.

    Raises:
        ConfigurationError: `no_custodian`.
    """
    if not (directory / "custodian.json").exists():
        raise ConfigurationError(
            f"there is no custodian in {directory}",
            reason="no_custodian",
            fix=f"name the directory of one, or make one: aigovtool custodian init {directory}",
        )
