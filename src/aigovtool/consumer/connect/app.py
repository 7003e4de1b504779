"""The gateway's wiring: read what is believed, verify, serve loopback, watch, stop.

Nothing is served before one of the enclaves is verified. Its home is a directory of this user's alone:

```
evidence.jsonl     what was seen of enclaves (`evidence_log`)
receipts/          the records of answers (`kept_receipts`)
policy-seen.json   the newest appraisal policy that was used here: an older one does not come back

The custodian's keys do not go back either: the log says which were seen.
```
"""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

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
from aigovtool.consumer.connect.member import OF_ONE_MODEL, Member, State
from aigovtool.consumer.connect.status import Status
from aigovtool.consumer.core import ConsumerCore
from aigovtool.consumer.credential import Credential, parse_pins, read_consumer_file
from aigovtool.consumer.opening import DEFAULT_TIMEOUT_S, address_of
from aigovtool.consumer.outcomes import Outcomes, parse_retry
from aigovtool.consumer.wiring import verifiers_for
from aigovtool.crypto.keyfile import make_private_directory, read_secret_file, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.errors import AIGovToolError, AppraisalError, ConfigurationError, InputError
from aigovtool.transport import heap
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
        key_set_at_least: as in `Client.connect`.
        allow_simulated: as in `Client.connect`.
        sealed: as in `Client.connect`, for all enclaves.
        all_users: whether other users of this machine may ask, in this consumer's name.
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
    sealed: bool = False
    all_users: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A gateway that serves: where programs find it, and what is behind it."""

    url: str
    fleet: Fleet
    credential: Credential
    status: Callable[[], Status]


#: Is called when the gateway serves.
Ready = Callable[[Running], None]
#: What is to be done beside it for as long as it serves: to show it, for example.
Beside = Callable[[Running], Coroutine[None, None, None]]


def serve(options: ConnectOptions, *, ready: Ready, beside: Beside | None = None) -> None:
    """Serve until SIGINT or SIGTERM; raises as `gateway`, and what `beside` raises."""
    asyncio.run(_serve(options, ready, beside))


async def _serve(options: ConnectOptions, ready: Ready, beside: Beside | None) -> None:
    ending = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    async with gateway(options) as running:
        heap.settle()
        ready(running)
        if beside is None:
            await ending.wait()
            return
        tasks = [asyncio.create_task(ending.wait()), asyncio.create_task(beside(running))]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            await _ended(task)
        for task in done:
            task.result()


@asynccontextmanager
async def gateway(
    options: ConnectOptions, *, verifiers: VerifierSet | None = None, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[Running]:
    """Verify the enclaves, and serve them on loopback until the end of the block.

    Args:
        options: how.
        verifiers: other TEE verifiers than the built-in ones.
        clock: another clock, for tests.

    Raises:
        ConfigurationError: an option, the consumer file or the home is wrong; `log_in_use`, `cannot_bind`.
        AppraisalError: `policy_rollback`, `policy_fork`.
        LogError: the evidence log was changed.
        AIGovToolError: no enclave is verified; why the first one is not.
    """
    _check(options)
    credential = _credential_of(options)
    make_private_directory(options.home)
    _remember_policy(options.home / _POLICY_NAME, credential.policy)
    async with AsyncExitStack() as stack:
        log = EvidenceLog(options.home / LOG_NAME, clock)
        stack.callback(log.close)
        receipts = KeptReceipts(options.home / RECEIPTS_NAME, clock)
        stack.callback(receipts.close)
        listener = stack.enter_context(bind(options.host, options.port))
        fleet = _fleet_of(options, credential, log, verifiers, clock)
        stack.push_async_callback(fleet.close)
        await fleet.open()
        log.note(Event.STARTED, f"appraisal policy {mark_of(credential.policy).digest}")
        stack.callback(log.note, Event.STOPPED)
        watching = asyncio.create_task(fleet.watch(options.verify_every_s))
        stack.push_async_callback(_ended, watching)
        host, port = listener.getsockname()[:2]
        served = Gateway(fleet=fleet, credential=credential, receipts=receipts, log=log, clock=clock)
        app = LocalOnly(
            application(routes(served), clock_ms=clock.now_ms),
            (host, port),
            options.origins,
            all_users=options.all_users,
        )
        await stack.enter_async_context(HttpServer(app, listener, None, _BOUNDS))
        yield Running(
            url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
            fleet=fleet,
            credential=credential,
            status=served.status,
        )


async def _ended(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait([task])


def _check(options: ConnectOptions) -> None:
    if options.host not in _LOOPBACK:
        raise ConfigurationError(
            f"{options.host!r} is not loopback: whoever reaches the gateway asks in your name",
            reason="not_loopback",
            fix="listen on 127.0.0.1; other machines run a gateway of their own",
        )
    if not options.enclaves:
        raise ConfigurationError("no enclave is named", reason="no_enclave", fix="name one with --enclave")


def _fleet_of(
    options: ConnectOptions, credential: Credential, log: EvidenceLog, verifiers: VerifierSet | None, clock: Clock
) -> Fleet:
    def noted(member: Member, session: Session | None, error: AIGovToolError | None) -> None:
        if session is not None:
            log.verified(member.url, session)
        elif error is not None and error.reason in OF_ONE_MODEL:
            log.model_refused(member.url, error)
        elif error is not None:
            log.not_verified(member.url, error, refused=member.state is State.REFUSED)

    if verifiers is None:
        verifiers = verifiers_for(credential.policy, allow_simulated=options.allow_simulated)
    trust = Trust(
        credential=credential,
        verifiers=verifiers,
        allow_simulated=options.allow_simulated,
        pins=parse_pins(options.models),
        sealed=options.sealed,
    )
    retry = parse_retry(options.retry)
    outcomes = Outcomes(retry, clock)
    members = []
    for url in dict.fromkeys(address_of(one) for one in options.enclaves):
        core = ConsumerCore(
            trust,
            clock=clock,
            random_bytes=secrets.token_bytes,
            timeout_s=DEFAULT_TIMEOUT_S,
            retry=retry,
            # As the policy, the custodian's keys do not go back: whoever stole a revoked one is not believed any more.
            key_set_at_least=max(options.key_set_at_least, log.newest_key_set(credential.custodian_root.key_id)),
            outcomes=outcomes,
        )
        members.append(Member(url, core, AsyncDriver(credential, url, clock), clock=clock, noted=noted))
    return Fleet(members, outcomes, clock=clock)


def _credential_of(options: ConnectOptions) -> Credential:
    credential = read_consumer_file(options.credential_file)
    return credential if options.policy is None else replace(credential, policy=options.policy)


def _require_successor(policy: AppraisalPolicy, seen: PolicyMark) -> None:
    try:
        require_successor(policy, seen)
    except AppraisalError as error:
        error.fix = "use the newest policy or consumer file that the custodian's operator gave you, or ask for it"
        raise


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
        _require_successor(policy, seen)
        if seen == mark:
            return
    with Secret(encode(mark)) as content:
        write_secret_file(path, content, replace=path.exists())
