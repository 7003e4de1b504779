"""The custodian's wiring: `initialise` makes one, `serve` runs it."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from aigovtool.attestation.model import TeeType
from aigovtool.attestation.policy import AppraisalPolicy, policy_digest
from aigovtool.attestation.tee.catalogue import HARDWARE
from aigovtool.attestation.verifier import Exchange, VerifierSet
from aigovtool.codec import Message, decode, encode
from aigovtool.crypto.identity import read_credential
from aigovtool.crypto.keyfile import make_private_directory, read_secret_file, write_secret_file
from aigovtool.crypto.memory import keep_to_itself
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.x509 import from_pem, to_pem
from aigovtool.custodian import activation
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.api import custodian_application
from aigovtool.custodian.certificate import Served
from aigovtool.custodian.clock import system_time_ms
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.endorsements.cache import CACHE_DIRECTORY, EndorsementCache
from aigovtool.custodian.endorsements.vendor import VendorServices
from aigovtool.custodian.key_watch import KeyWatch, fingerprint
from aigovtool.custodian.keys import CustodianKeys
from aigovtool.custodian.service import refusals
from aigovtool.custodian.service.credentials import certificate_for
from aigovtool.custodian.service.packages import remove_left
from aigovtool.custodian.service.reexamination import reexamine
from aigovtool.custodian.service.reports import sweep
from aigovtool.custodian.store import facts, log, parties, postgres
from aigovtool.custodian.store.backend import Backend
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.records import Party
from aigovtool.custodian.store.sqlite import Sqlite
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.custodian.timekeeping import ClockTeller, host_time_ms, ledger_clock
from aigovtool.errors import AIGovToolError, ConfigurationError, StorageError
from aigovtool.ids import KeyId, OperatorId, digest_of, parse_name
from aigovtool.ledger.entry import AppraisalPolicySet, Genesis, KeySetPublished, PartyAdded, PartyRole
from aigovtool.protocol.party import ConsumerFile, CustodianAddress, OperatorFile, PartyFile, parse_url
from aigovtool.transport import descriptors, heap
from aigovtool.transport.server import HttpServer, bind

_LOG = logging.getLogger(__name__)
_SWEEP_S = 5.0
_REFRESH_S = 3_600.0
_OPERATOR_VALIDITY_MS = 365 * 86_400_000


class InitSummary(Message):
    """What `initialise` made. `root_key` is to be moved to offline storage."""

    custodian: KeyId
    directory: str
    operator_file: str
    root_key: str
    simulated_allowed: bool


class Settings(Message):
    """The custodian's own configuration file."""

    url: str
    allow_simulated: bool
    #: Address of a PostgreSQL database; none means the SQLite file beside this one.
    ledger: str | None = None
    #: Where sealed packages lie, for custodians on several machines; none means the directory beside this file.
    packages: str | None = None
    #: Whether certificates, revocation lists and TCB information are fetched from the vendors of TEEs.
    fetch_endorsements: bool = True


def initialise(
    directory: Path,
    *,
    url: str,
    hosts: list[str],
    operator: str,
    allow_simulated: bool,
    ledger: str | None = None,
    packages: Path | None = None,
) -> InitSummary:
    """Make keys, ledger and the first operator's credential in a new directory.

    Raises:
        ConflictError: a custodian is there already (`key_file_exists`).
        InvalidValueError: the name, the address or a host is not one; nothing was written.
        ConfigurationError: something cannot be written, others can write to its directory, or the database cannot be
            used for a ledger.
    """
    parse_name(operator, "operator")
    parse_url(url)
    if ledger is not None:
        postgres.require_empty(ledger)
    now_ms = system_time_ms()
    keys = custodian_keys.create(directory, hosts, now_ms)
    make_private_directory(directory / "packages")
    settings = Settings(
        url=url,
        allow_simulated=allow_simulated,
        ledger=ledger,
        packages=None if packages is None else str(packages.resolve()),
    )
    write_secret_file(directory / "custodian.json", Secret(encode(settings)))
    operator_key = SigningKey.generate()
    enrolled = _found_ledger(directory, keys, operator, operator_key, settings)
    path = directory / "operator.json"
    certificate = certificate_for(keys, enrolled, now_ms=enrolled.not_after_ms - _OPERATOR_VALIDITY_MS)
    operator_file = _operator_file(keys, url, enrolled.name, operator_key, certificate)
    write_secret_file(path, Secret(encode(operator_file)))
    return InitSummary(
        custodian=keys.custodian,
        directory=str(directory),
        operator_file=str(path),
        root_key=str(directory / "offline" / "root.key"),
        simulated_allowed=allow_simulated,
    )


def _operator_file(keys: CustodianKeys, url: str, name: str, key: SigningKey, certificate: str) -> OperatorFile:
    return OperatorFile(
        operator=OperatorId(name),
        custodian=CustodianAddress(url=url, root=keys.root.raw, tls_ca=to_pem(keys.tls_ca).decode()),
        certificate=certificate,
        key=key.to_secret().reveal(),
        keystore=keys.keystore.public,
    )


def certificate_of(directory: Path, party: PartyFile, now_ms: int) -> PartyFile:
    """Return a party's file with a certificate that the present credentials key issued: same key, same end.

    For whoever holds the directory. The ledger, which is not asked, has the last word on each connection.

    Raises:
        ConfigurationError: the file is of another custodian (`wrong_custodian`).
        UnauthenticatedError: its certificate cannot be read (`bad_credential`).
        InvalidValueError: its time is over.
    """
    keys = custodian_keys.load(directory)
    if party.custodian.root != keys.root.raw:
        raise ConfigurationError("the file is of another custodian", reason="wrong_custodian")
    before = read_credential(from_pem(party.certificate.encode())[0])
    enrolled = Party(
        role=PartyRole(before.kind.value),
        name=before.name,
        borrower=party.borrower if isinstance(party, ConsumerFile) else None,
        key=before.public_key.raw,
        not_after_ms=before.not_after_ms,
    )
    issued = certificate_for(keys, enrolled, now_ms=now_ms)
    if isinstance(party, OperatorFile):
        keystore, version = keys.key_set.keystore, keys.key_set.version
        return msgspec.structs.replace(party, certificate=issued, keystore=keystore, key_set=version)
    return msgspec.structs.replace(party, certificate=issued)


def add_operator(directory: Path, operator: str, path: Path) -> None:
    """Enrol an operator without asking another one: for whoever holds the custodian's directory and was locked out.

    On SQLite the custodian must be stopped. The audit log names no command for it.

    Raises:
        InvalidValueError, ConflictError: the name is not one, or was given out before.
        ConfigurationError: the ledger cannot be opened, or `path` not be written.
        ClockLeaptError: this host's clock is far ahead of the ledger's time.
    """
    parse_name(operator, "operator")
    settings, keys, key = read_settings(directory), custodian_keys.load(directory), SigningKey.generate()
    database = Database(backend(directory, settings))
    try:
        # First, and without a certificate: names are never given out twice, so no key is enrolled that cannot be kept.
        waiting = _operator_file(keys, settings.url, operator, key, certificate="")
        write_secret_file(path, Secret(encode(waiting)))
        try:
            enrolled = database.submit(lambda transaction: _enrol(transaction, operator, key)).result()
        except AIGovToolError:
            path.unlink(missing_ok=True)
            raise
        certificate = certificate_for(keys, enrolled, now_ms=enrolled.not_after_ms - _OPERATOR_VALIDITY_MS)
        enrolled_file = msgspec.structs.replace(waiting, certificate=certificate)
        write_secret_file(path, Secret(encode(enrolled_file)), replace=True)
    finally:
        database.close()


def _enrol(transaction: Transaction, operator: str, key: SigningKey) -> Party:
    """Enrol an operator by the ledger's time, by which the credential will be judged."""
    now_ms = host_time_ms(transaction)
    not_after_ms = now_ms + _OPERATOR_VALIDITY_MS
    role, public = PartyRole.OPERATOR, key.public
    party = Party(role=role, name=operator, borrower=None, key=public.raw, not_after_ms=not_after_ms)
    parties.add(transaction, party)
    entry = PartyAdded(
        role=role, name=operator, key=public.key_id, borrower=None, not_after_ms=not_after_ms, command=None
    )
    log.append(transaction, now_ms, entry)
    return party


def _found_ledger(
    directory: Path, keys: CustodianKeys, operator: str, operator_key: SigningKey, settings: Settings
) -> Party:
    database = Database(backend(directory, settings, create=True))
    if settings.ledger is None:
        os.chmod(directory / "ledger.db", 0o600)  # noqa: PTH101 - the same call that made it safe elsewhere
    policy = first_policy(allow_simulated=settings.allow_simulated)

    def job(transaction: Transaction) -> Party:
        now_ms = host_time_ms(transaction)
        log.append(transaction, now_ms, Genesis(custodian=keys.custodian))
        digest = digest_of(keys.key_set_envelope.payload)
        log.append(transaction, now_ms, KeySetPublished(version=keys.key_set.version, digest=digest))
        enrolled = _enrol(transaction, operator, operator_key)
        if policy is not None:
            facts.put(transaction, facts.APPRAISAL_POLICY, policy)
            set_ = AppraisalPolicySet(version=policy.version, digest=policy_digest(policy), command=None)
            log.append(transaction, transaction.head.clock_ms, set_)
        return enrolled

    try:
        return database.submit(job).result()
    finally:
        database.close()


def first_policy(*, allow_simulated: bool) -> AppraisalPolicy | None:
    """Return the first appraisal policy: none, unless the simulated TEE is explicitly allowed.

    Absent means deny: without a policy no enclave is admitted until an operator sets one.
    """
    if not allow_simulated:
        return None
    from aigovtool.testing.simulated_tee import wiring  # noqa: PLC0415 - behind the explicit opt-in only

    return wiring.development_policy()


def verifiers(directory: Path, keys: CustodianKeys, *, allow_simulated: bool) -> VerifierSet:
    """Return the verifiers that this custodian is wired with.

    Raises:
        ConfigurationError: `tpm_roots`.
    """
    roots = activation.read_roots(directory)
    found = {tee: verifier() for tee, verifier in HARDWARE.items()}
    found[TeeType.TPM] = activation.verifier(keys, roots, Exchange())
    if allow_simulated:
        from aigovtool.testing.simulated_tee import wiring  # noqa: PLC0415 - behind the explicit opt-in only

        found[TeeType.SIMULATED] = wiring.verifier()
    return VerifierSet(found, {TeeType.TPM: partial(activation.verifier, keys, roots)})


def backend(directory: Path, settings: Settings, *, create: bool = False) -> Backend:
    """Return where the ledger is kept."""
    if settings.ledger is None:
        return Sqlite(directory / "ledger.db", create=create)
    return postgres.Postgres(settings.ledger, create=create)


def read_settings(directory: Path) -> Settings:
    """Read the custodian's own configuration."""
    return decode(read_secret_file(directory / "custodian.json", max_bytes=1 << 16).reveal(), Settings)


def open_custodian(directory: Path) -> Custodian:
    """Open the custodian in `directory` for serving."""
    settings = read_settings(directory)
    keys = custodian_keys.load_to_serve(directory)
    made = Custodian(
        keys=keys,
        database=Database(backend(directory, settings)),
        verifiers=verifiers(directory, keys, allow_simulated=settings.allow_simulated),
        packages=Path(settings.packages) if settings.packages else directory / "packages",
    )
    fetch = VendorServices().fetch if settings.fetch_endorsements else None
    made.endorsements = EndorsementCache(directory / CACHE_DIRECTORY, fetch, system_time_ms)
    remove_left(made.packages)
    return made


def serve(directory: Path, *, host: str, port: int, ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM. `ready` is called with the address once connections are accepted.

    Raises:
        ConfigurationError: keys, ledger or address cannot be used.
        StorageError: the ledger could not be written any more; restart after mending the disk.
    """
    keep_to_itself()
    descriptors.provide()
    seen = fingerprint(directory)
    custodian = open_custodian(directory)
    settings = read_settings(directory)
    try:
        keys = custodian.keys
        certificate = Served(directory, keys.tls, keys.key_set.credentials)
        judging = partial(verifiers, directory, allow_simulated=settings.allow_simulated)
        watch = KeyWatch(custodian, directory, seen, judging)
        asyncio.run(_serve(custodian, certificate, watch, (host, port), ready=ready, ledger=settings.ledger))
    finally:
        custodian.database.close()


async def _serve(
    custodian: Custodian,
    certificate: Served,
    watch: KeyWatch,
    listen: tuple[str, int],
    *,
    ready: Callable[[str], None] | None,
    ledger: str | None,
) -> None:
    await watch.begin()
    served = custodian_application(custodian, clock_ms=await ledger_clock(custodian))
    server = HttpServer(served, bind(*listen), certificate.tls)
    ending = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    heap.settle()
    await server.start()
    if ready is not None:
        ready("https://{}:{}".format(*server.address))
    tasks = [asyncio.create_task(_refresh(custodian))]
    if ledger is not None:
        tasks.append(asyncio.create_task(_relay(custodian, ledger)))
    try:
        await _until(custodian, server, certificate, watch, ending)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for instance in custodian.hub.connected():
            custodian.hub.cut(instance)
        await server.stop()
        await refusals.write_all(custodian)


async def _look(custodian: Custodian, certificate: Served, watch: KeyWatch) -> bool:
    """Look at the files of keys and certificate; return whether other TLS is to be used."""
    changed = certificate.changed()
    try:
        if await watch.changed():
            certificate.trust(custodian.keys.key_set.credentials)
            return True
    except AIGovToolError as error:
        _LOG.error("keys_not_taken_up", extra={"code": error.code})
    return changed


async def _refresh(custodian: Custodian) -> None:
    """Keep endorsements from getting old, and judge who was admitted by what they say now; also when we begin."""
    while True:
        try:
            # First by what is known, which waits for nobody, and names what is to be refreshed.
            await reexamine(custodian)
            if custodian.endorsements is not None:
                await custodian.endorsements.refresh()
                await reexamine(custodian)
        except Exception as error:  # noqa: BLE001 - it must go on, or a revoked machine would not be noticed
            _LOG.error("refresh_failed", extra={"error": type(error).__name__})
        await asyncio.sleep(_REFRESH_S)


async def _relay(custodian: Custodian, address: str) -> None:
    from aigovtool.custodian.relay import relay  # noqa: PLC0415 - psycopg is needed with PostgreSQL only

    await relay(custodian, address)


async def _until(
    custodian: Custodian, server: HttpServer, certificate: Served, watch: KeyWatch, ending: asyncio.Event
) -> None:
    """Charge overdue leases, and take up renewed certificates and keys, until told to end or the ledger fails."""
    teller = ClockTeller(custodian.clock)
    while not ending.is_set():
        if await _look(custodian, certificate, watch):
            server.replace_tls(certificate.tls)
        teller.look()
        certificate.warn(system_time_ms())
        try:
            async with asyncio.timeout(_SWEEP_S):
                await ending.wait()
        except TimeoutError:
            try:
                await custodian.database.run(lambda running: sweep(custodian, running, custodian.now(running)))
                await refusals.write_due(custodian)
            except AIGovToolError as error:
                _LOG.error("sweep_failed", extra={"code": error.code})
        if custodian.database.failed.is_set():
            raise StorageError("the ledger could not be written", fix="check the disk, then restart the custodian")
