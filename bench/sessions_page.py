"""The part of docs/benchmarks.md that is about new sessions."""

from collections.abc import Sequence
from typing import Final

from bench.sessions import Sessions
from bench.tables import table

_SESSIONS: Final = """\
## New sessions

What the SDK does before it asks for the first time: TLS, the custodian's key set, evidence over a fresh nonce, all
checks, and the policy. {at_once} sessions are opened at a time, by several consumers, and closed. A quote of the
simulated TEE takes no time; one of a TPM takes a second, which is waited here. One quote answers all who wait for one.
Processor time is of one session.

"""
_COLUMNS: Final = ("a quote takes s", "sessions a minute", "enclave: CPU ms", "consumer: CPU ms", "p50 s", "p99 s")


def sessions_part(sessions: Sequence[Sessions]) -> str:
    """Return what is to be said of new sessions."""
    return _SESSIONS.format(at_once=max(one.at_once for one in sessions)) + table(_COLUMNS, map(_row, sessions))


def _row(one: Sessions) -> tuple[str, ...]:
    return (
        f"{one.quote_s:g}",
        f"{one.per_minute:,.0f}",
        f"{one.enclave_cpu_ms:.1f}",
        f"{one.consumer_cpu_ms:.1f}",
        f"{one.p50_s:.2f}",
        f"{one.p99_s:.2f}",
    )
