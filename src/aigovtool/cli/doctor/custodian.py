"""What `aigovtool doctor DIRECTORY` says of a custodian: its ledger, its TLS certificate, and its root key."""

import time
from pathlib import Path

from aigovtool.cli.custodian.certificate import standing, warning
from aigovtool.cli.directory import require_custodian
from aigovtool.cli.doctor import sqlite as doctor_sqlite
from aigovtool.cli.doctor.check import NOTE, OK, WRONG, Check
from aigovtool.cli.words import span
from aigovtool.errors import AIGovToolError


def custodian(directory: Path) -> list[Check]:
    """Look at the custodian in `directory`, whether it serves or not; nothing is changed.

    Raises:
        ConfigurationError: there is none, or its settings cannot be read.
    """
    from aigovtool.custodian.app import read_settings  # noqa: PLC0415

    require_custodian(directory)
    address = read_settings(directory).ledger
    found = doctor_sqlite.ledger(directory / "ledger.db") if address is None else _server(address)
    return [*found, _certificate(directory), _root_key(directory)]


def _server(address: str) -> list[Check]:
    from aigovtool.custodian.clock import system_time_ms  # noqa: PLC0415
    from aigovtool.custodian.store import postgres  # noqa: PLC0415

    try:
        facts = postgres.look(address)
    except AIGovToolError as error:
        return [Check(name="ledger", standing=WRONG, found=error.message)]
    wrong = [f"{name} is off: it may lose what it has acknowledged" for name in facts.off]
    wrong += ["older than 15"] if facts.too_old else []
    wrong += ["a replica: nothing can be written there"] if facts.replica else []
    wrong += [] if facts.has_ledger else ["no ledger in this database"]
    notes = [] if facts.encrypted else ["the connection is not encrypted: sslmode=verify-full, unless it is local"]
    found = "; ".join([f"PostgreSQL {facts.version}", *wrong, *notes])
    ledger = Check(name="ledger", standing=WRONG if wrong else NOTE if notes else OK, found=found)
    return [ledger, _clock(system_time_ms() - facts.time_ms)]


def _clock(ahead_ms: int) -> Check:
    """Say whether a custodian on this host would believe its clock, by that of the ledger's server."""
    from aigovtool.custodian.clock import MAX_AHEAD_MS  # noqa: PLC0415

    if abs(ahead_ms) <= MAX_AHEAD_MS:
        return Check(name="clock", standing=OK, found="as that of the ledger's server")
    found = f"{span(abs(ahead_ms))} {'ahead of' if ahead_ms > 0 else 'behind'} that of the ledger's server"
    return Check(name="clock", standing=WRONG, found=f"{found}: set whichever is wrong right")


def _certificate(directory: Path) -> Check:
    from aigovtool.custodian.certificate import show  # noqa: PLC0415

    now_ms = time.time_ns() // 1_000_000
    try:
        found = show(directory)
    except AIGovToolError as error:
        return Check(name="tls certificate", standing=WRONG, found=error.message)
    ending = warning(found, now_ms, directory)
    if ending is None:
        return Check(name="tls certificate", standing=OK, found=f"until {standing(found.not_after_ms, now_ms)}")
    return Check(name="tls certificate", standing=WRONG if now_ms >= found.not_after_ms else NOTE, found=ending)


def _root_key(directory: Path) -> Check:
    path = directory / "offline" / "root.key"
    if path.exists():
        return Check(name="root key", standing=NOTE, found=f"still in {path}: move it to offline storage")
    return Check(name="root key", standing=OK, found="not here")
