"""A running custodian looks at its keys now and then, and takes up what was changed: no restart, and nothing refused.

1. The files are read anew when one of them was changed, and taken up only if they fit each other and the signed set.
2. A new key set is in the audit log before anything is signed under it. While the ledger has a gap it is used all the
   same, because a stolen key must not stay in use; it is recorded once the gap is settled.
3. Enclaves that listen are told at once, the others with their next renewal; each fetches the set, and verifies it.
4. Once the keystore's new key is in use, all model keys are wrapped to it; then the old private key is removed.

Models whose keys no keystore key opens that is here, as in a ledger from before a rotation, are logged at the beginning
and after each change: their release is refused. What cannot be used is logged once, and what is in use stays; also that
another custodian of the same ledger has a newer key set than this directory.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from aigovtool.attestation.verifier import VerifierSet
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.keys import CustodianKeys, old_keystore_path
from aigovtool.custodian.service import key_sets
from aigovtool.errors import AIGovToolError, ConfigurationError, LedgerRollbackError

_LOG: Final = logging.getLogger(__name__)
_FORMER: Final = "put the keystore key of when they were deposited back as keys/keystore.old.key"
#: Name, inode, time and size of each file.
Fingerprint = tuple[tuple[str, int, int, int], ...]


class KeyWatch:
    """The keys in one custodian's directory, and which of them its process uses.

    Args:
        custodian: who uses them.
        directory: where they lie.
        seen: what `fingerprint` returned before they were read.
        verifiers: makes the verifiers that go with keys.
    """

    def __init__(
        self,
        custodian: Custodian,
        directory: Path,
        seen: Fingerprint,
        verifiers: Callable[[CustodianKeys], VerifierSet],
    ) -> None:
        self._custodian: Final = custodian
        self._directory: Final = directory
        self._verifiers: Final = verifiers
        self._seen = seen
        self._told: tuple[Fingerprint, str | None] | None = None

    async def begin(self) -> None:
        """Record the key set that is served from the beginning, if it is new.

        Raises:
            ConfigurationError: the ledger knows a newer one (`key_set_rollback`), or another one (`key_set_fork`).
            StorageError: the ledger cannot be written.
        """
        await self._publish(self._custodian.keys)
        await self._wrap_anew()

    async def changed(self) -> bool:
        """Look at the files; return whether other keys are in use from now on.

        Raises:
            StorageError: the ledger cannot be written; it is tried again when this is called again.
        """
        seen = self._seen
        try:
            seen = fingerprint(self._directory)
            if seen == self._seen:
                # Another custodian of this ledger may have published a newer one; or there was a gap before.
                await self._publish(self._custodian.keys)
                return False
            keys = self._load()
            await self._publish(keys)
        except ConfigurationError as error:
            self._seen = seen
            self._tell(error)
            return False
        self._seen = seen
        self._custodian.take_up(keys, self._verifiers(keys))
        self._custodian.hub.tell_key_set(keys.key_set.version)
        _LOG.info("keys_taken_up", extra={"version": keys.key_set.version})
        await self._wrap_anew()
        return True

    def _load(self) -> CustodianKeys:
        try:
            keys = custodian_keys.load(self._directory)
        except AIGovToolError as error:
            raise ConfigurationError(error.message, reason=error.reason) from None
        used = self._custodian.keys
        if keys.custodian != used.custodian:
            raise ConfigurationError("these are the keys of another custodian", reason="wrong_custodian")
        if keys.key_set.version < used.key_set.version:
            raise ConfigurationError("the key set is older than the one in use", reason="key_set_rollback")
        if keys.activation is None:  # of a copy that is not whole; one made here would be no other machine's
            raise ConfigurationError("the key that activates attestation keys is missing", reason="missing_key_file")
        return keys

    def _tell(self, error: ConfigurationError) -> None:
        """Log what is wrong with these files, once."""
        if self._told != (self._seen, error.reason):
            self._told = self._seen, error.reason
            _LOG.error("keys_unusable", extra={"code": error.code, "reason": error.reason})

    async def _publish(self, keys: CustodianKeys) -> None:
        with suppress(LedgerRollbackError):  # in a gap: at a later look
            await self._custodian.database.run(lambda running: key_sets.publish(self._custodian, running, keys))

    async def _wrap_anew(self) -> None:
        keys, database = self._custodian.keys, self._custodian.database
        if keys.rewrap:
            changed = await database.run(lambda running: key_sets.wrap_anew(running, keys))
            old_keystore_path(self._directory / "keys").unlink(missing_ok=True)
            _LOG.info("keystore_wrapped_anew", extra={"models": changed})
        closed = await database.run(lambda running: key_sets.not_opened(running, keys))
        if closed:
            told = {"models": len(closed), "model": closed[0], "fix": _FORMER}
            _LOG.error("model_keys_closed", extra=told)


def fingerprint(directory: Path) -> Fingerprint:
    """Return what tells that a file of the keys in a custodian's directory was changed.

    Raises:
        ConfigurationError: `unreadable_key_file`.
    """
    found = []
    try:
        for path in (directory / "keys").iterdir():
            if path.suffix == ".key" or path.name == "key-set.json":
                status = path.lstat()
                found.append((path.name, status.st_ino, status.st_mtime_ns, status.st_size))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {directory / 'keys'}: {error.strerror}", reason="unreadable_key_file"
        ) from None
    return tuple(sorted(found))
