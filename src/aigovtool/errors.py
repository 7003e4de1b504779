"""Every error that AIGovTool raises on purpose, in one tree.

```
AIGovToolError
├── InputError                    the caller's bytes are at fault            4xx
│   ├── MalformedError            cannot be parsed                           400 malformed
│   ├── InvalidValueError         parsed, but a value is out of its domain   422 invalid_value
│   ├── TooLargeError             over a stated bound                        413 too_large
│   ├── UnsupportedMediaError     content type or encoding not taken         415 unsupported_media
│   ├── NotFoundError             no such thing                              404 not_found
│   └── ConflictError             contradicts what is already recorded       409 conflict
├── IdentityError                 who is asking
│   ├── UnauthenticatedError      no valid proof of identity                 401 unauthenticated
│   └── ForbiddenError            identity is known, act is not allowed      403 forbidden
├── VerificationError             something is not what it claims to be      403
│   ├── SignatureInvalidError     a signature does not verify                403 bad_signature
│   ├── EvidenceError             evidence is not genuine                    403 evidence_not_genuine
│   ├── AppraisalError            evidence is genuine, but not acceptable    403 evidence_unacceptable
│   ├── PackageError              a sealed package is not intact             422 package_invalid
│   ├── ModelError                a model is refused                         422 model_refused
│   ├── ReceiptError              a receipt does not verify                  422 receipt_invalid
│   └── LogError                  the audit log does not verify              422 log_invalid
├── RefusalError                  governance says no; nothing was charged
│   ├── BudgetExhaustedError      no units are left                          402 budget_exhausted
│   ├── BudgetReservedError       units exist, but others hold them          429 budget_reserved
│   ├── LeaseCappedError          too much is outstanding already            429 lease_capped
│   ├── NoBudgetError             no budget row allows this (absent = deny)  403 no_budget_row
│   ├── LeaseExpiredError         no live authority from the custodian       423 lease_expired
│   ├── StoppedError              an operator has stopped this               423 stopped
│   └── ReattestRequiredError     the attestation is too old                 403 reattest
└── FaultError                    a part of the system is at fault
    ├── ConfigurationError        a file or an option of ours is wrong       500 configuration
    ├── UnreachableError          a peer does not answer                     503 unreachable
    ├── OverloadedError           a bounded queue is full                    429 overloaded
    ├── DeadlineError             the time for this work is over             504 deadline_exceeded
    ├── EngineError               the engine failed on this request          500 engine_failed
    ├── NotServedError            one of an enclave's models is not served   503 model_not_served
    ├── StorageError              the ledger could not be written            503 storage_failed
    ├── LedgerRollbackError       others hold a newer state of this ledger   503 ledger_rollback
    └── ClockLeaptError           the custodian's clock is not believed      503 clock_leapt
```

Each class has a stable `code` (for programs), an HTTP `status`, and an `exit_code` for the command
line. `reason` is an optional finer code within the class, for example `nonce_replayed`. `fix` says
what the reader can do next. A message never carries a secret, a prompt or an output.
"""

from typing import ClassVar


class AIGovToolError(Exception):
    """Base of everything raised on purpose; never raised itself."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        fix: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.fix = fix
        self.retry_after_s = retry_after_s
        #: Whether the audit log names this refusal already.
        self.recorded = False


class InputError(AIGovToolError):
    """The caller's bytes are at fault."""

    code = "input"
    status = 400
    exit_code = 3


class MalformedError(InputError):
    """The bytes cannot be parsed."""

    code = "malformed"


class InvalidValueError(InputError):
    """The bytes parse, but a value is outside its domain."""

    code = "invalid_value"
    status = 422


class TooLargeError(InputError):
    """The input is over a bound of `aigovtool.limits`."""

    code = "too_large"
    status = 413


class UnsupportedMediaError(InputError):
    """The content type or the content encoding is not taken."""

    code = "unsupported_media"
    status = 415


class NotFoundError(InputError):
    """There is no such thing."""

    code = "not_found"
    status = 404


class ConflictError(InputError):
    """The request contradicts what is already recorded."""

    code = "conflict"
    status = 409


class IdentityError(AIGovToolError):
    """Who is asking is unknown, or may not do this."""

    code = "identity"
    status = 401
    exit_code = 4


class UnauthenticatedError(IdentityError):
    """There is no valid proof of identity."""

    code = "unauthenticated"


class ForbiddenError(IdentityError):
    """The identity is known, but may not do this."""

    code = "forbidden"
    status = 403


class VerificationError(AIGovToolError):
    """Something is not what it claims to be."""

    code = "verification"
    status = 403
    exit_code = 5


class SignatureInvalidError(VerificationError):
    """A signature does not verify, or is by the wrong key."""

    code = "bad_signature"


class EvidenceError(VerificationError):
    """Evidence is not genuine: its signature, chain, freshness or encoding fails."""

    code = "evidence_not_genuine"


class AppraisalError(VerificationError):
    """Evidence is genuine, but the appraisal policy does not accept it."""

    code = "evidence_unacceptable"


class PackageError(VerificationError):
    """A sealed package is truncated, altered, re-ordered or not for this key."""

    code = "package_invalid"
    status = 422


class ModelError(VerificationError):
    """A model is refused: what it contains is not allowed or cannot be loaded."""

    code = "model_refused"
    status = 422


class ReceiptError(VerificationError):
    """A receipt does not match its request, answer, model or signer."""

    code = "receipt_invalid"
    status = 422


class LogError(VerificationError):
    """The audit log does not verify; the message names the first bad entry."""

    code = "log_invalid"
    status = 422


class RefusalError(AIGovToolError):
    """Governance says no. Nothing was computed for the caller and nothing was charged."""

    code = "refused"
    status = 403
    exit_code = 6


class BudgetExhaustedError(RefusalError):
    """No units are left on the budget path."""

    code = "budget_exhausted"
    status = 402


class BudgetReservedError(RefusalError):
    """Units are left, but other leases hold them; they may come back."""

    code = "budget_reserved"
    status = 429


class LeaseCappedError(RefusalError):
    """The instance or the borrower holds too many unclosed units already."""

    code = "lease_capped"
    status = 429


class NoBudgetError(RefusalError):
    """A budget row that the model's policy requires does not exist: absent means deny."""

    code = "no_budget_row"


class LeaseExpiredError(RefusalError):
    """The custodian's authority has run out, for example because it cannot be reached."""

    code = "lease_expired"
    status = 423


class StoppedError(RefusalError):
    """An operator has stopped the model, borrower, enclave, consumer, or everything."""

    code = "stopped"
    status = 423


class ReattestRequiredError(RefusalError):
    """The attestation is too old or was withdrawn; the instance must attest again."""

    code = "reattest"


class FaultError(AIGovToolError):
    """A part of the system is at fault, not the caller."""

    code = "fault"
    status = 500
    exit_code = 7


class ConfigurationError(FaultError):
    """A configuration file, key file or option is missing, unsafe or wrong."""

    code = "configuration"
    exit_code = 2


class UnreachableError(FaultError):
    """A peer does not answer in time."""

    code = "unreachable"
    status = 503


class OverloadedError(FaultError):
    """A bounded queue is full; try again later."""

    code = "overloaded"
    status = 429


class DeadlineError(FaultError):
    """The time allowed for this work is over."""

    code = "deadline_exceeded"
    status = 504


class EngineError(FaultError):
    """The engine failed on this request; nothing is charged."""

    code = "engine_failed"


class NotServedError(FaultError):
    """An enclave serves without this one of its models; `reason` says why it is not there."""

    code = "model_not_served"
    status = 503


class LedgerRollbackError(FaultError):
    """Somebody holds a checkpoint that this ledger should remember and does not: it was restored from a backup."""

    code = "ledger_rollback"
    status = 503


class ClockLeaptError(FaultError):
    """The clock of the custodian's host is further ahead than can be true: nothing is granted by it."""

    code = "clock_leapt"
    status = 503


class StorageError(FaultError):
    """The ledger could not be written; nothing was granted."""

    code = "storage_failed"
    status = 503
