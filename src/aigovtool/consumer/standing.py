"""What a consumer is told when its own certificate, or clock, is refused: what its end is, and what to do.

Only its owner knows which file it is in, and the words of who refuses are not advice to follow.
"""

from datetime import UTC, datetime
from typing import Final

from aigovtool.consumer.credential import Credential
from aigovtool.crypto.identity import read_credential
from aigovtool.errors import AIGovToolError, UnauthenticatedError
from aigovtool.protocol.sealed import MAX_AGE_MS

#: By so much an enclave's clock may be ahead of this one without anybody being to blame.
_SKEW_MS: Final = 300_000
_OF_TIME: Final = frozenset({"credential_expired", "credential_not_yet_valid"})


def explain(error: AIGovToolError, credential: Credential, now_ms: int) -> AIGovToolError:
    """Return `error`, with what to do if it says that this consumer's certificate or clock is of another time."""
    if isinstance(error, UnauthenticatedError) and error.reason == "sealed_at_another_time":
        error.fix = (
            f"set the clock of this machine, by which it is {_moment(now_ms)}: it may be {MAX_AGE_MS // 60_000} "
            "minutes wrong at most; if it is right, whoever ends TLS passes on late what it is sent"
        )
    if not isinstance(error, UnauthenticatedError) or error.reason not in _OF_TIME:
        return error
    own = read_credential(credential.chain[0])
    if now_ms > own.not_after_ms - _SKEW_MS:
        error.fix = (
            f"the certificate in your consumer file ended on {_moment(own.not_after_ms)}: ask the custodian's operator "
            "for a new consumer file, and start again with it"
        )
    else:
        error.fix = (
            f"by the clock of this machine the certificate in your consumer file is good from "
            f"{_moment(own.not_before_ms)} to {_moment(own.not_after_ms)}: if that clock is right, ask the borrower "
            "about that of the enclave"
        )
    return error


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
