"""The gateway's wiring: read what is believed, verify, serve loopback, watch, stop.

Nothing is served before one of the enclaves is verified. Its home is a directory of this user's alone:

```
evidence.jsonl     what was seen of enclaves (`evidence_log`)
receipts/          the records of answers (`kept_receipts`)
policy-seen.json   the newest appraisal policy that was used here: an older one does not come back
```
"""

import asyncio
import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from aigovtool.attestation.policy import AppraisalPolicy, PolicyMark, mark_of, require_successor
from aigovtool.attestation.verifier import VerifierSet
from aigovtool.codec import decode, encode
from aigovtool.consumer.async_driver import AsyncDriver
from aigovtool.consumer.attest import Session, Trust
from aigovtool.consumer.clock import SYSTEM_CLOCK, Clock
from aigovtool.consumer.connect.api import Gateway, routes
from aigovtool.consumer.connect.evidence_log import Event, EvidenceLog
from aigovtool.consumer.connect.fleet import Fleet
from aigovtool.consumer.connect.kept_receipts import KeptReceipts
from aigovtool.consumer.connect.local import LocalOnly
from aigovtool.consumer.connect.member import Member, State
from aigovtool.consumer.core import ConsumerCore
from aigovtool.consumer.credential import Credential, parse_pins, read_consumer_file
from aigovtool.consumer.opening import DEFAULT_TIMEOUT_S, address_of
from aigovtool.consumer.outcomes import Outcomes, parse_retry
from aigovtool.consumer.wiring import verifiers_for
from aigovtool.crypto.keyfile import make_private_directory, read_secret_file, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.errors import AIGovToolError, ConfigurationError, InputError
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.routes import application
from aigovtool.transport.server import HttpServer, bind

LOG_NAME: Final = "evidence.jsonl"
RECEIPTS_NAME: Final = "receipts"
_POLICY_NAME: Final = "policy-seen.json"
#: How often an enclave is verified again, if nobody says otherwise.
VERIFY_EVERY_S: Final = 300.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
#: Programs of one machine: they are one address, and may be idle for longer than strangers from elsewhere.
_BOUNDS: Final = HttpLimits(max_strangers=1_000, max_strangers_per_address=1_000, header_timeout_s=75.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """How to run a gateway.

    Attributes:
        enclaves: `https://HOST:PORT` of each.
        credential_file: the consumer file.
        home: the directory of the gateway; made if need be.
        policy: an appraisal policy instead of that in the consumer file.
        host: a name of loopback.
        port: 0 takes a free one.
        models: manifest digests by model; a model that is not named is held to the digest first seen.
        verify_every_s: how often each enclave is verified again.
        origins: of pages that may ask from a browser.
        retry: as in `Client.connect`.
    """

    enclaves: Sequence[str]
    credential_file: Path
    home: Path
    policy: AppraisalPolicy | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    models: Mapping[str, str] | None = None
    verify_every_s: float = VERIFY_EVERY_S
    origins: Sequence[str] = ()
    retry: str = "same-instance-only"
    key_set_at_least: int = 0
    allow_simulated: bool = False


#: Is called with the gateway's own address, and what it serves from, when it is ready.
Ready = Callable[[str, Fleet, Credential], None]


def serve(
    options: ConnectOptions,
    *,
    ready: Ready | None = None,
    verifiers: VerifierSet | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ConfigurationError: an option, the consumer file or the home is wrong; `log_in_use`, `cannot_bind`.
        AppraisalError: `policy_rollback`, `policy_fork`.
        LogError: the evidence log was changed.
        AIGovToolError: no enclave is verified; why the first one is not.
    """
    if options.host not in _LOOPBACK:
        raise ConfigurationError(
            f"{options.host!r} is not loopback: whoever reaches the gateway asks in your name",
            reason="not_loopback",
            fix="listen on 127.0.0.1; other machines run a gateway of their own",
        )
    if not options.enclaves:
        raise ConfigurationError("no enclave is named", reason="no_enclave", fix="name one with --enclave")
    asyncio.run(_Connect(options, ready, verifiers, clock).run())


class _Connect:
    def __init__(
        self, options: ConnectOptions, ready: Ready | None, verifiers: VerifierSet | None, clock: Clock
    ) -> None:
        self._options: Final = options
        self._ready: Final = ready
        self._clock: Final = clock
        self._credential: Final = _credential_of(options)
        self._verifiers: Final = verifiers or verifiers_for(
            self._credential.policy, allow_simulated=options.allow_simulated
        )
        self._ending: Final = asyncio.Event()

    async def run(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._ending.set)
        home = self._options.home
        make_private_directory(home)
        _remember_policy(home / _POLICY_NAME, self._credential.policy)
        with ExitStack() as stack:
            log = EvidenceLog(home / LOG_NAME, self._clock)
            stack.callback(log.close)
            receipts = KeptReceipts(home / RECEIPTS_NAME, self._clock)
            stack.callback(receipts.close)
            listener = stack.enter_context(bind(self._options.host, self._options.port))
            fleet = self._fleet(log)
            try:
                await fleet.open()
                log.note(Event.STARTED, f"policy {mark_of(self._credential.policy).digest}")
                await self._serve(fleet, receipts, listener)
            finally:
                await fleet.close()
            log.note(Event.STOPPED, "")

    async def _serve(self, fleet: Fleet, receipts: KeptReceipts, listener: socket.socket) -> None:
        gateway = Gateway(fleet=fleet, credential=self._credential, receipts=receipts, clock=self._clock)
        port = int(listener.getsockname()[1])
        app = LocalOnly(application(routes(gateway), clock_ms=self._clock.now_ms), port, self._options.origins)
        watching = asyncio.create_task(fleet.watch(self._options.verify_every_s))
        try:
            async with HttpServer(app, listener, None, _BOUNDS):
                if self._ready is not None:
                    host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
                    self._ready(f"http://{host}:{port}", fleet, self._credential)
                await self._ending.wait()
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    def _fleet(self, log: EvidenceLog) -> Fleet:
        def noted(member: Member, session: Session | None, error: AIGovToolError | None) -> None:
            if session is not None:
                log.verified(member.url, session)
            elif error is not None:
                log.not_verified(member.url, error, refused=member.state is State.REFUSED)

        options = self._options
        trust = Trust(
            credential=self._credential,
            verifiers=self._verifiers,
            allow_simulated=options.allow_simulated,
            pins=parse_pins(options.models),
        )
        outcomes = Outcomes(parse_retry(options.retry), self._clock)
        members = []
        for url in dict.fromkeys(address_of(one) for one in options.enclaves):
            core = ConsumerCore(
                trust,
                clock=self._clock,
                random_bytes=secrets.token_bytes,
                timeout_s=DEFAULT_TIMEOUT_S,
                retry=parse_retry(options.retry),
                key_set_at_least=options.key_set_at_least,
                outcomes=outcomes,
            )
            driver = AsyncDriver(self._credential, url, self._clock)
            members.append(Member(url, core, driver, clock=self._clock, noted=noted))
        return Fleet(members, outcomes, clock=self._clock)


def _credential_of(options: ConnectOptions) -> Credential:
    credential = read_consumer_file(options.credential_file)
    return credential if options.policy is None else replace(credential, policy=options.policy)


def _remember_policy(path: Path, policy: AppraisalPolicy) -> None:
    """Refuse a policy that is older than one that was used here, and remember this one."""
    mark = mark_of(policy)
    if path.exists():
        try:
            seen = decode(read_secret_file(path).reveal(), PolicyMark)
        except InputError as error:
            raise ConfigurationError(
                f"{path} is not what was written there: {error.message}", reason="bad_home"
            ) from None
        require_successor(policy, seen)
        if seen == mark:
            return
    with Secret(encode(mark)) as content:
        write_secret_file(path, content, replace=path.exists())
