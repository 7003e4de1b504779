"""What consumers and borrowers may do at a custodian: see what is left for them, and ask for more."""

import secrets
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from aigovtool.codec import encode
from aigovtool.ids import MessageId
from aigovtool.ledger.budget import Scope
from aigovtool.ledger.units import Dimension
from aigovtool.operator.connection import CustodianConnection
from aigovtool.protocol.commands import AskRequest, AskState
from aigovtool.protocol.party import BorrowerFile, ConsumerFile
from aigovtool.protocol.views import OwnView


class PartyClient:
    """One consumer or borrower at its custodian; raises as `CustodianConnection.get`."""

    def __init__(self, party: ConsumerFile | BorrowerFile, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._connection: Final = CustodianConnection.of(party, pause=pause)

    def ask(self, scope: Scope, units: int, reason: str, dimension: Dimension = Dimension.INFERENCES) -> AskState:
        """Ask for `units` more at `scope`; an attempt that is repeated is one request."""
        request = AskRequest(
            ask_id=MessageId(secrets.token_hex(16)), scope=scope, units=units, reason=reason, dimension=dimension
        )
        return self._connection.post("/v1/asks", encode(request), AskState)

    def ask_state(self, ask_id: MessageId) -> AskState:
        """Return what became of a request."""
        return self._connection.get(f"/v1/asks/{ask_id}", AskState)

    def own_view(self) -> OwnView:
        """Return the party's own budgets and requests."""
        return self._connection.get("/v1/self", OwnView)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
