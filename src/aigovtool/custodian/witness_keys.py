"""Who co-signs here: keys of witnesses in memory, and how often each of them may write.

Anybody can send a co-signature. One in the name of a known witness is verified without the ledger; a name that is not
known costs a look into the ledger, of which there is one a second at most, whoever asks. The ledger has the last word:
what is remembered here may have been retired at another custodian.
"""

from typing import Final

from aigovtool.crypto.sign import SigningKey, VerifyKey
from aigovtool.custodian.store import witnesses
from aigovtool.custodian.store.database import Database
from aigovtool.errors import ForbiddenError, OverloadedError
from aigovtool.ids import KeyId
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.cosignature import WitnessKey
from aigovtool.limits import MAX_WITNESSES

_LOOK_EVERY_MS: Final = 1_000
#: A witness writes once for each of its rounds, which are seconds apart; more at once after an outage.
_BURST: Final = 20.0
_WRITES_PER_MS: Final = 1 / 1_000


def unknown_witness() -> ForbiddenError:
    """Return the refusal of a co-signature by somebody who is not enrolled."""
    return ForbiddenError(
        "no witness of this name and key is enrolled here",
        reason="unknown_witness",
        fix="an operator enrols a witness by its verifier key: aigovtool audit witness enrol KEY",
    )


class WitnessKeys:
    """What one custodian remembers of the witnesses."""

    def __init__(self) -> None:
        self._keys: dict[str, WitnessKey] = {}
        self._looked_ms: int | None = None
        self._notes: dict[tuple[KeyId, Checkpoint], str] = {}
        #: For each witness: how many writes it had left, and when.
        self._left: dict[str, tuple[float, int]] = {}

    async def find(self, database: Database, name: str, now_ms: int) -> WitnessKey:
        """Return the enrolled witness of this name.

        Raises:
            ForbiddenError: `unknown_witness`.
            OverloadedError: it is not known here, and somebody else's name was looked up a moment ago.
        """
        if name not in self._keys:
            # A clock that was put back must not make this wait.
            if self._looked_ms is not None and 0 <= now_ms - self._looked_ms < _LOOK_EVERY_MS:
                raise OverloadedError("too many co-signatures by unknown witnesses", retry_after_s=1)
            self._looked_ms = now_ms
            found = await database.run_open(witnesses.active)
            self._keys = {one.name: WitnessKey(name=one.name, key=VerifyKey(one.key)) for one in found}
        if name not in self._keys:
            raise unknown_witness()
        return self._keys[name]

    def forget(self, name: str) -> None:
        """Look again, and at once, before this name is believed: its witness was retired."""
        self._keys.pop(name, None)
        self._looked_ms = None

    def look_again(self) -> None:
        """Look at once when the next unknown name comes: an operator has just enrolled one."""
        self._looked_ms = None

    def note(self, checkpoint: Checkpoint, key: SigningKey) -> str:
        """Return the signed note of a state that was co-signed; few are shown at a time, and each is signed once."""
        which = key.public.key_id, checkpoint
        if which not in self._notes:
            if len(self._notes) >= 4 * MAX_WITNESSES:
                self._notes.clear()
            self._notes[which] = sign_checkpoint(checkpoint, key)
        return self._notes[which]

    def count_write(self, name: str, now_ms: int) -> None:
        """Count one write of a witness.

        Raises:
            OverloadedError: it writes too often.
        """
        left, at_ms = self._left.get(name, (_BURST, now_ms))
        left = min(_BURST, left + max(0, now_ms - at_ms) * _WRITES_PER_MS)
        if left < 1:
            raise OverloadedError("this witness co-signs too often", retry_after_s=1)
        self._left[name] = left - 1, now_ms
