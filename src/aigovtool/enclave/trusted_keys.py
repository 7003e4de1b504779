"""The custodian's key set as a running instance believes it: the newest that it has seen, and never an older one.

The custodian tells the number of its key set with each renewal and on the push stream. That is a hint: the set itself
is fetched, and believed because the root key signed it, which is part of what the instance has attested.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aigovtool.crypto.sign import Envelope, VerifyKey
from aigovtool.errors import AIGovToolError
from aigovtool.protocol.trust import KeySet, open_key_set, require_no_rollback

_LOG: Final = logging.getLogger(__name__)
#: A renewal waits for it, so it is given up early; whatever comes next tells the number again.
_FETCH_S: Final = 2.0


class TrustedKeys:
    """One instance's key set.

    Args:
        root: the custodian's root key.
        envelope: the key set that the instance begins with.

    Raises:
        SignatureInvalidError: the root key did not sign it.
    """

    def __init__(self, root: VerifyKey, envelope: Envelope) -> None:
        self._root: Final = root
        self.envelope = envelope
        self.key_set = open_key_set(envelope, root)
        #: Called after each change.
        self.changed: Callable[[], None] = lambda: None
        #: Set once an authority was taken back that may have certified this platform's attestation key.
        self.uncertified: Final = asyncio.Event()
        self._hint = 0
        self._hinted: Final = asyncio.Event()

    def hint(self, version: int) -> None:
        """Have `learning` fetch the key set of this number, if it is newer."""
        if version > self.key_set.version:
            self._hint = version
            self._hinted.set()

    async def learning(self, fetch: Callable[[], Awaitable[Envelope]]) -> None:
        """Learn, for ever, whatever is hinted at."""
        while True:
            await self._hinted.wait()
            self._hinted.clear()
            await self.learn(self._hint, fetch)

    async def learn(self, version: int, fetch: Callable[[], Awaitable[Envelope]]) -> None:
        """Fetch the key set of this number, if it is newer; where that fails, what is believed stays as it is."""
        if version > self.key_set.version:
            try:
                async with asyncio.timeout(_FETCH_S):
                    envelope = await fetch()
                self.take(envelope)
            except TimeoutError:
                _LOG.warning("key_set_not_taken", extra={"code": "unreachable", "reason": "custodian"})
            except AIGovToolError as error:
                _LOG.warning("key_set_not_taken", extra={"code": error.code, "reason": error.reason})

    def take(self, envelope: Envelope) -> None:
        """Believe a key set from now on, if it is newer.

        Raises:
            SignatureInvalidError: the root key did not sign it, it is older than the one that is believed
                (`key_set_rollback`), or another one of the same number (`key_set_fork`).
        """
        key_set: KeySet = open_key_set(envelope, self._root)
        require_no_rollback(key_set, self.key_set)
        if key_set.version > self.key_set.version:
            if set(self.key_set.attestation) - set(key_set.attestation):
                self.uncertified.set()
            self.envelope, self.key_set = envelope, key_set
            _LOG.info("key_set_taken", extra={"version": key_set.version})
            self.changed()
