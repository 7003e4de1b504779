"""The bounds of one HTTP server."""

from dataclasses import dataclass

from aigovtool import limits


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """The bounds of one server; the defaults are `aigovtool.limits`, and tests use smaller ones."""

    max_header_bytes: int = limits.MAX_HEADER_BYTES
    max_headers: int = limits.MAX_HEADERS
    max_connections: int = limits.MAX_CONNECTIONS
    max_connections_per_client: int = limits.MAX_CONNECTIONS_PER_CLIENT
    max_strangers: int = limits.MAX_STRANGERS
    max_strangers_per_address: int = limits.MAX_STRANGERS_PER_ADDRESS
    max_refusals_told: int = limits.MAX_REFUSALS_TOLD
    stranger_body_grace_s: float = limits.STRANGER_BODY_GRACE_S
    stranger_body_bytes_per_s: float = limits.STRANGER_BODY_BYTES_PER_S
    max_handshakes: int = limits.MAX_HANDSHAKES
    max_handshakes_per_address: int = limits.MAX_HANDSHAKES_PER_ADDRESS
    handshake_patience_s: float = limits.TLS_HANDSHAKE_PATIENCE_S
    header_timeout_s: float = limits.HEADER_TIMEOUT_S
    keep_alive_s: float = limits.KEEP_ALIVE_S
    body_idle_timeout_s: float = limits.BODY_IDLE_TIMEOUT_S
    write_stall_timeout_s: float = limits.WRITE_STALL_TIMEOUT_S
    handshake_timeout_s: float = limits.TLS_HANDSHAKE_TIMEOUT_S
    linger_s: float = limits.LINGER_S
    notice_period_s: float = limits.NOTICE_PERIOD_S
