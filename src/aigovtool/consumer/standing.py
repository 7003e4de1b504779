"""What a consumer is told when its own certificate is refused: what its end is, and what to do.

Only its owner knows which file it is in, and the words of who refuses are not advice to follow.
"""

from datetime import UTC, datetime
from typing import Final

from aigovtool.consumer.credential import Credential
from aigovtool.crypto.identity import read_credential
from aigovtool.errors import AIGovToolError, UnauthenticatedError

#: By so much an enclave's clock may be ahead of this one without anybody being to blame.
_SKEW_MS: Final = 300_000
_OF_TIME: Final = frozenset({"credential_expired", "credential_not_yet_valid"})


def explain(error: AIGovToolError, credential: Credential, now_ms: int) -> AIGovToolError:
    """Return `error`, with what to do if it says that the time of this consumer's certificate is not now."""
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
