"""What a consumer is told when the custodian granted its enclave no units."""

from aigovtool.errors import (
    BudgetExhaustedError,
    BudgetReservedError,
    LeaseCappedError,
    NoBudgetError,
    ReattestRequiredError,
    RefusalError,
    StoppedError,
)
from aigovtool.ledger.units import Dimension
from aigovtool.protocol.messages import DenyCode


def refusal(  # noqa: PLR0911 - one refusal per code
    code: DenyCode | None, wait_s: int, short: Dimension | None = None
) -> RefusalError:
    """Return the refusal for a denial; `wait_s` is when asking again makes sense, `short` what is lacking."""
    what = "units" if short in {None, Dimension.INFERENCES} else f"units of {short}"
    if code is DenyCode.EXHAUSTED:
        return BudgetExhaustedError(
            f"no {what} are left for this consumer",
            fix="ask for more with `aigovtool budget request`; the custodian has been told",
            retry_after_s=wait_s,
        )
    if code is DenyCode.INSUFFICIENT:
        return BudgetExhaustedError(
            f"fewer {what} are left than this request needs",
            reason="insufficient",
            fix="send a smaller batch, or ask for more",
            retry_after_s=wait_s,
        )
    if code is DenyCode.BUDGET_ENDED:
        return BudgetExhaustedError(
            "the budget's time is over",
            reason="budget_ended",
            fix="ask the custodian for a new one",
            retry_after_s=wait_s,
        )
    if code is DenyCode.RESERVED:
        return BudgetReservedError("other leases hold the units that are left", retry_after_s=wait_s)
    if code is DenyCode.CAPPED:
        return LeaseCappedError("too many units are outstanding for this borrower", retry_after_s=wait_s)
    if code is DenyCode.STOPPED:
        return StoppedError("the custodian has stopped this consumer", retry_after_s=wait_s)
    if code is DenyCode.REATTEST:
        return ReattestRequiredError("the enclave must attest again", retry_after_s=wait_s)
    return NoBudgetError(
        "no budget row allows this consumer" + ("" if what == "units" else f" any {what}"),
        fix="the custodian grants one with `aigovtool budget grant`",
    )
