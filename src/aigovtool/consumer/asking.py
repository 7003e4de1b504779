"""What becomes of a consumer's request for more budget while it waits for units.

An enclave that ran out of units files a request at the custodian, in the consumer's name. While a client waits it looks
after that request, and a denial ends the wait: nobody is being asked any more.

1. A request that was open, or not there, at the first look and is denied now: the wait is over.
2. The newest request was denied before the first look, and `_LOOKS` further looks find no newer one: over as well. An
   enclave asks once per exhaustion, and files within a try or two if it is going to.
3. A custodian that cannot be reached from here is not asked again in this wait: the units may come all the same.

It decides nothing about refusals that are not about the budget.
"""

from typing import Final

from aigovtool.consumer.budget import CustodianDesk
from aigovtool.consumer.exchange import Flow
from aigovtool.consumer.patience import Deadline
from aigovtool.errors import AIGovToolError, BudgetExhaustedError
from aigovtool.ids import ModelId
from aigovtool.protocol.commands import AskState

_LOOKS: Final = 3
_DENIED: Final = "denied"


class Asking:
    """Looks after the requests of one consumer for one model, during one wait."""

    def __init__(self, desk: CustodianDesk, model: ModelId) -> None:
        self._desk: Final = desk
        self._model: Final = model
        self._looks = 0
        self._old_denial: AskState | None = None
        self._reachable = True

    def require_hope(self, error: AIGovToolError, deadline: Deadline) -> Flow[None]:
        """Return if waiting for what `error` refused still makes sense.

        Raises:
            BudgetExhaustedError: `ask_denied`.
        """
        if not isinstance(error, BudgetExhaustedError) or not self._reachable:
            return
        try:
            view = yield from self._desk.own(deadline)
        except AIGovToolError:
            self._reachable = False
            return
        own = [ask for ask in view.asks if ask.scope.model == self._model and ask.scope.consumer == view.name]
        newest = max(own, key=lambda ask: ask.at_ms, default=None)
        if newest is None or newest.state != _DENIED or any(ask.state == "open" for ask in own):
            self._looks += 1
            return
        if not self._looks:
            self._old_denial = newest
        self._looks += 1
        is_old = self._old_denial is not None and self._old_denial.ask_id == newest.ask_id
        if not is_old or self._looks > _LOOKS:
            raise _denied(newest)


def _denied(ask: AskState) -> BudgetExhaustedError:
    by = "an operator" if ask.decided_by is None else f"operator {ask.decided_by}"
    return BudgetExhaustedError(
        f"{by} denied the request for {ask.units} more units of {ask.scope.model} (request {ask.ask_id[:12]})",
        reason="ask_denied",
        fix="ask again with a reason (request_budget)",
    )
