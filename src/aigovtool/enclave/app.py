"""The enclave's wiring: boot, serve, and boot again with new keys whenever an instance has ended.

The listening socket outlives instances. While there is no new instance the ended one keeps answering, with typed
refusals only: its engine is gone.
"""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from aigovtool.attestation.attester import Attester
from aigovtool.attestation.model import TeeType
from aigovtool.codec import decode
from aigovtool.crypto.keyfile import make_private_directory, read_secret_file
from aigovtool.crypto.memory import LOCK_FIX, keep_to_itself
from aigovtool.enclave.boot import Instance, boot
from aigovtool.enclave.custodian_link import CustodianLink
from aigovtool.enclave.engines.sandbox import Layer
from aigovtool.enclave.failed_runs import FailedRuns
from aigovtool.enclave.gateway.api import authorize, routes
from aigovtool.enclave.gateway.fast_path import InferenceFastPath
from aigovtool.enclave.instance_run import Ending, InstanceRun
from aigovtool.enclave.memory import LEAST_BYTES, memory_bounds, require_no_plain_swap
from aigovtool.enclave.roster import Roster
from aigovtool.errors import (
    AIGovToolError,
    AppraisalError,
    ConfigurationError,
    EvidenceError,
    ForbiddenError,
    RefusalError,
    UnreachableError,
)
from aigovtool.ids import ModelId, key_id_of
from aigovtool.protocol.party import MAX_PARTY_FILE_BYTES, BorrowerFile
from aigovtool.transport import descriptors, heap
from aigovtool.transport.routes import application
from aigovtool.transport.server import HttpServer, bind

_LOG: Final = logging.getLogger(__name__)
#: Whatever platform is here that protects memory.
AUTO: Final = "auto"
_MEMORY_FIX: Final = "give the machine more memory: the largest requests may end the enclave"
#: Models are loaded from buffers then: docs/deploy.md.
_FILES_FIX: Final = "see `aigovtool doctor` (files in memory), and what docs/deploy.md allows a unit"
_SEALERS_FIX: Final = "they share one engine: start an enclave for each, unless each trusts the models of the others"
_BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmOptions:
    """Where the TPM is and what goes with its quotes; used with `tee` `tpm` only.

    Attributes:
        tcti: a device, or how tpm2-tss reaches the TPM (for example `swtpm:host=127.0.0.1,port=2321`).
        bank: the PCR bank, `sha256` or `sha384`.
        event_log: the firmware's log; None to send no events.
        issuers: PEM or DER file with the certificates between the endorsement key's and its maker's root.
        ek_certificate: PEM or DER file, where the TPM holds no certificate of its endorsement key itself.
    """

    tcti: str = "/dev/tpmrm0"
    bank: str = "sha256"
    event_log: Path | None = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
    issuers: Path | None = None
    ek_certificate: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveOptions:
    """How to run an enclave. `tee` is a TEE type, or `auto`; the simulated one also needs `allow_simulated`.

    `tpm` has the settings of a TPM, if they are not the usual ones; `runs_at_once` is None for one for each core, and
    `threads_per_run` is how many threads compute one of them.
    """

    tee: str
    allow_simulated: bool
    borrower_file: Path
    models: tuple[str, ...]
    host: str
    port: int
    cache: Path
    tpm: TpmOptions | None = None
    runs_at_once: int | None = None
    threads_per_run: int = 1


def attester_for(tee: str, tpm: TpmOptions | None = None, *, allow_simulated: bool) -> Attester:
    """Return the attester of the named TEE; with `auto`, of the one that is here, and log what was found.

    Raises:
        ConfigurationError: the TEE is not available, or is the simulated one without explicit opt-in.
    """
    if tee != TeeType.SIMULATED.value:
        from aigovtool.enclave.attesters import detect  # noqa: PLC0415 - the drivers of platforms that are not here

        found = detect.look()
        chosen = detect.choose(found) if tee == AUTO else TeeType(tee)
        seen = "; ".join(f"{finding.tee}: {finding.detail}" for finding in found)
        _LOG.info("tee_chosen", extra={"tee": chosen.value, "found": seen})
        return _tpm(tpm or TpmOptions()) if chosen is TeeType.TPM else detect.attester_for(chosen)
    if not allow_simulated:
        raise ConfigurationError(
            "the simulated TEE protects nothing and is refused by default",
            reason="simulated_refused",
            fix="for development only: add --allow-simulated",
        )
    from aigovtool.testing.simulated_tee import wiring  # noqa: PLC0415 - behind the explicit opt-in only

    return wiring.platform()


def _tpm(options: TpmOptions) -> Attester:
    from aigovtool.attestation.tee.tpm.evidence import Bank  # noqa: PLC0415 - of machines with a TPM
    from aigovtool.enclave.attesters.tpm import TpmAttester  # noqa: PLC0415

    certificate = _certificates(options.ek_certificate)
    return TpmAttester(
        f"device:{options.tcti}" if options.tcti.startswith("/") else options.tcti,
        bank=Bank(options.bank),
        event_log=options.event_log,
        endorsements=_certificates(options.issuers),
        ek_certificate=certificate[0] if certificate else None,
    )


def _certificates(path: Path | None) -> list[bytes]:
    from aigovtool.attestation.certificates import read_certificates  # noqa: PLC0415 - of machines with a TPM

    if path is None:
        return []
    try:
        return [one.public_bytes(Encoding.DER) for one in read_certificates(path.read_bytes())]
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_certificate") from None
    except EvidenceError as error:
        raise ConfigurationError(f"{path}: {error.message}", reason="unreadable_certificate") from None


def _is_of_this_host(error: AIGovToolError) -> bool:
    """Return whether the platform is not here, or not for this program: no waiting mends that."""
    return isinstance(error, ConfigurationError) and (error.reason or "").startswith("attester_")


#: Is called with its address each time an instance is ready.
Ready = Callable[[str, Instance], None]


def _is_final(error: AIGovToolError, failures: int) -> bool:
    """Return whether a boot that failed ends the enclave, after so many others in a row."""
    if isinstance(error, UnreachableError | RefusalError):
        return False
    if isinstance(error, AppraisalError | ForbiddenError) or _is_of_this_host(error):
        return True
    return failures >= len(_BACKOFF_S)


def _running(instance: Instance) -> list[ModelId]:
    """Return the models that were run when the engine ended."""
    handles = instance.engine.running_at_end
    return [name for name, model in instance.models.items() if model.loaded.handle in handles]


def serve(options: EnclaveOptions, *, ready: Ready | None = None) -> None:
    """Serve until SIGINT or SIGTERM, with those of the models that can be served.

    Raises:
        AIGovToolError: configuration, or a refusal by the custodian that waiting cannot mend.
    """
    keep_to_itself()
    descriptors.provide()
    attester = attester_for(options.tee, options.tpm, allow_simulated=options.allow_simulated)
    if options.tee not in {TeeType.SIMULATED, TeeType.TPM}:  # their memory is not encrypted either
        require_no_plain_swap()
    party = decode(
        read_secret_file(options.borrower_file, max_bytes=MAX_PARTY_FILE_BYTES).reveal(),
        BorrowerFile,
        max_bytes=MAX_PARTY_FILE_BYTES,
    )
    make_private_directory(options.cache)
    listener = bind(options.host, options.port)
    asyncio.run(_Enclave(options, party, attester, listener, ready).run())


class _Enclave:
    def __init__(
        self,
        options: EnclaveOptions,
        party: BorrowerFile,
        attester: Attester,
        listener: socket.socket,
        ready: Ready | None,
    ) -> None:
        self._options = options
        self._party = party
        self._attester = attester
        self._listener = listener
        self._memory = memory_bounds()
        self._failed_runs = FailedRuns()
        self._warned_of_sealers = False
        self._ready = ready
        self._server: HttpServer | None = None
        self._run: InstanceRun | None = None
        self._ending = asyncio.Event()
        self._roster = Roster([ModelId(name) for name in options.models])

    async def run(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._shut_down)
        if not self._memory.is_enough:
            sizes = {"has_mib": self._memory.has >> 20, "least_mib": LEAST_BYTES >> 20}
            _LOG.warning("little_memory", extra={**sizes, "fix": _MEMORY_FIX})
        link = CustodianLink(self._party.custodian)
        try:
            while not self._ending.is_set():
                instance = await self._boot(link)
                if instance is None:
                    break
                ending = await self._serve(instance)
                _LOG.warning("instance_ended", extra={"reason": ending.value})
                if ending is Ending.ENGINE_DIED:
                    self._roster.engine_died(_running(instance))
        finally:
            if self._server is not None:
                await self._server.stop()
            await link.close()
            self._listener.close()

    def _shut_down(self) -> None:
        self._ending.set()
        if self._run is not None:
            self._run.shut_down()

    async def _boot(self, link: CustodianLink) -> Instance | None:
        failures = 0
        while not self._ending.is_set():
            blamed: list[ModelId] = []
            try:
                return await self._boot_once(link, blamed)
            except AIGovToolError as error:
                # Without the one model that it failed of, or once more with it, it is another boot.
                if blamed and self._roster.failed(blamed[0], error):
                    wait_s = _BACKOFF_S[0]
                elif _is_final(error, failures):
                    raise
                else:
                    wait_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
                    failures += 1
                model = {"model": blamed[0]} if blamed else {}
                _LOG.warning("boot_failed", extra={"code": error.code, "reason": error.reason, **model})
            await self._pause(wait_s)
        return None

    async def _boot_once(self, link: CustodianLink, blamed: list[ModelId]) -> Instance:
        """Boot with the models that are not set aside; on failure `blamed` has the model that it is of, if any."""
        began_s, models = time.monotonic(), self._roster.wanted()
        instance = await boot(
            self._party,
            models,
            self._attester,
            link,
            self._options.cache,
            aside=self._roster.aside(),
            blame=lambda model, _error: blamed.append(model),
            memory=self._memory,
            at_once=self._options.runs_at_once,
            run_threads=self._options.threads_per_run,
        )
        self._roster.booted(models, time.monotonic() - began_s)
        if Layer.MEMORY_LOCKED not in instance.engine.sandbox:
            _LOG.warning("memory_not_locked", extra={"what": "engine", "fix": LOCK_FIX})
        if Layer.PRIVATE_FILES not in instance.engine.sandbox:
            _LOG.warning("no_files_in_memory", extra={"fix": _FILES_FIX})
        self._warn_of_sealers(instance)
        for one in instance.not_served.values():
            _LOG.warning("model_not_served", extra={"model": one.model, "code": one.code, "reason": one.reason})
        return instance

    def _warn_of_sealers(self, instance: Instance) -> None:
        """Say once of which models one engine has the keys that different operators have sealed."""
        sealers: dict[str, list[ModelId]] = {}
        for name, model in instance.models.items():
            sealers.setdefault(key_id_of(model.offer.sealer), []).append(name)
        if len(sealers) > 1 and not self._warned_of_sealers:
            self._warned_of_sealers = True
            models = "; ".join(f"{key[:12]}: {', '.join(names)}" for key, names in sealers.items())
            _LOG.warning("several_sealers", extra={"models": models, "fix": _SEALERS_FIX})

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()

    async def _serve(self, instance: Instance) -> Ending:
        run = self._run = InstanceRun(instance, self._memory, self._failed_runs)
        if self._ending.is_set():  # told to end while it booted
            run.shut_down()
        if self._server is not None:
            await self._server.stop()
        app = application(routes(run), clock_ms=instance.custodian_time_ms, authorize=authorize(run))
        server = self._server = HttpServer(app, self._listener, instance.server_tls(), fast_path=InferenceFastPath(run))
        instance.keys.changed = lambda: server.replace_tls(instance.server_tls())
        await server.start()
        announcing = asyncio.create_task(self._announce(run))
        due_s = self._roster.due_s()
        trying = None if due_s is None else asyncio.get_running_loop().call_later(due_s, run.begin_anew)
        try:
            return await run.run()
        finally:
            if trying is not None:
                trying.cancel()
            announcing.cancel()

    async def _announce(self, run: InstanceRun) -> None:
        await run.ready.wait()
        heap.settle()
        if self._ready is not None and self._server is not None:
            self._ready("https://{}:{}".format(*self._server.address), run.instance)
