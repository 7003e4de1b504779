"""A custodian in this process to whom anything may happen: who there is, what time it is, and what is kept aside.

The keys, the ledger, the sealed packages and the evidence are real; the HTTP server is left out. What passes and what
clocks show are numbers, so that clocks can leap. On PostgreSQL two custodians on two hosts serve one ledger.
"""

import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Final

from tests.custodian.conftest import Bench, Enclave, make_bench

from aigovtool.attestation.model import MeasurementHex
from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.crypto.wrap import wrap
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.clock import HostClock
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service import commands, views
from aigovtool.custodian.service.packages import path_of
from aigovtool.errors import (
    AIGovToolError,
    ClockLeaptError,
    ConfigurationError,
    FaultError,
    LedgerRollbackError,
    OverloadedError,
)
from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, LeaseId, ModelId, OperatorId, digest_of
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.units import ZERO, UnitVector
from aigovtool.package.sealing import seal as seal_package
from aigovtool.package.source import SourceFile
from aigovtool.protocol import commands as acts
from aigovtool.protocol.commands import COMMAND, Act, CommandResult
from aigovtool.protocol.release import deposit_context
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform, measure

#: Faults that are no defect of the custodian's: it says that it cannot act now.
_SAID: Final = (LedgerRollbackError, ClockLeaptError, OverloadedError, ConfigurationError)
#: Lives begin at a multiple of this.
_BEGINNING_MS: Final = 10 * 86_400_000
#: How often the machine is suspended, for longer than an auditor overlooks, just before its clock is read.
_SUSPENDED: Final = 0.03


class Defect(Exception):  # noqa: N818 -- a finding
    """The custodian did what it must not: failed, or wrote a log that an auditor refuses."""


@dataclass
class Held:
    """A lease as its holder knows it."""

    instance: InstanceId
    lease_id: LeaseId
    units: UnitVector
    seq: int = 0
    used: UnitVector = ZERO
    over: bool = False


@lru_cache
def _measured() -> MeasurementHex:
    return measure()


@dataclass
class Office:
    """One custodian, its parties, and what was seen of its log."""

    directory: Path
    chance: random.Random
    #: The address of an empty PostgreSQL database; none means SQLite.
    ledger: str | None = None
    bench: Bench = field(init=False)
    custodians: list[Custodian] = field(default_factory=list)
    #: What each host's wall clock shows beyond the time that has passed.
    off_ms: list[int] = field(default_factory=lambda: [0, 0])
    operators: dict[str, SigningKey] = field(default_factory=dict)
    owners: dict[ConsumerId, BorrowerId] = field(default_factory=dict)
    models: list[ModelId] = field(default_factory=list)
    manifests: dict[ModelId, str] = field(default_factory=dict)
    enclaves: list[Enclave] = field(default_factory=list)
    #: Instances that are told to attest anew.
    ended: set[InstanceId] = field(default_factory=set)
    held: list[Held] = field(default_factory=list)
    #: Signed checkpoints that somebody was given.
    notes: list[str] = field(default_factory=list)
    backups: list[bytes] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    #: Delivers the newest order once more.
    last: Callable[[], Awaitable[CommandResult]] | None = None

    def __post_init__(self) -> None:
        """Found the custodian, with its first operator."""
        self.bench = make_bench(self.directory, ledger=self.ledger)
        self.operators["alice"] = self.bench.key
        self.custodians = [self.bench.custodian]
        self.restart()
        for custodian in self.custodians:
            custodian.database.submit(custodian.now).result()
        # A seed finds windows at the same place whenever it is played, but for months.
        self.bench.now_ms += -self.bench.now_ms % _BEGINNING_MS

    def wall_ms(self, host: int | None = None) -> int:
        """Return what the clock of a host shows; without one, of that which is spoken to."""
        at = self.custodians.index(self.bench.custodian) if host is None else host
        return self.bench.now_ms + self.off_ms[at]

    def turn(self) -> None:
        """Speak to one of the custodians from now on."""
        self.bench.custodian = self.chance.choice(self.custodians)

    # -- The process ------------------------------------------------------------------------------------------

    def restart(self, change: Callable[[], object] = lambda: None) -> None:
        """Stop the custodian in order, let something happen to its files, and start it."""
        self.close()
        change()
        self.custodians = [self._served(host) for host in range(1 if self.ledger is None else 2)]
        self.turn()

    def _served(self, host: int) -> Custodian:
        custodian = open_custodian(self.directory)

        def read_ms() -> int:
            if self.chance.random() < _SUSPENDED:  # in the middle of whatever is done
                self.bench.now_ms += self.chance.choice((61_000, 150_000))
            return self.wall_ms(host)

        custodian.clock = HostClock(read_ms, lambda: self.bench.now_ms)
        return custodian

    def back_up(self) -> None:
        """Keep a copy of the ledger, if it is a file."""
        if self.ledger is None:
            self.restart(lambda: self.backups.append((self.directory / "ledger.db").read_bytes()))

    def restore(self) -> None:
        """Put an older copy in the place of the ledger."""
        copy = self.chance.choice(self.backups)

        def put() -> None:
            for leftover in ("ledger.db-wal", "ledger.db-shm"):
                (self.directory / leftover).unlink(missing_ok=True)
            (self.directory / "ledger.db").write_bytes(copy)

        self.restart(put)

    def close(self) -> None:
        """Stop all that serve the ledger."""
        for custodian in self.custodians:
            custodian.database.close()

    # -- Orders -----------------------------------------------------------------------------------------------

    async def attempt(self, what: str, work: Awaitable[object]) -> object | None:
        """Await what may be refused, and count what it came to.

        Raises:
            Defect: the custodian failed, instead of refusing.
        """
        try:
            found = await work
        except AIGovToolError as error:
            if isinstance(error, FaultError) and not isinstance(error, _SAID):
                raise Defect(f"{what}: {error.code} {error.reason}: {error}") from error
            self.counts[f"{what}: {error.reason or error.code}"] += 1
            self.told.append(f"{what}: refused, {error.reason or error.code}")
            return None
        self.counts[what] += 1
        self.told.append(what)
        return found

    async def good(self, role: PartyRole) -> list[str]:
        """Return those whose credentials last; now and then all that there ever were, in this ledger or a lost one."""
        mine: dict[PartyRole, Iterable[str]] = {
            PartyRole.OPERATOR: self.operators,
            PartyRole.BORROWER: self.bench.enrolment,
            PartyRole.CONSUMER: self.owners,
        }
        found = (await views.show_parties(self.bench.custodian)).parties
        last = {one.name for one in found if one.role is role and not one.revoked}
        last -= {one.name for one in found if one.role is role and one.not_after_ms <= self.bench.now_ms}
        everybody = sorted(mine[role])
        lasting = [name for name in everybody if name in last]
        return lasting if lasting and self.chance.random() < 0.9 else everybody

    async def order(self, act: Act, *, two: bool | None = None) -> CommandResult | None:
        """Have one operator order something, or two, whoever comes."""
        both = self.chance.random() < 0.6 if two is None else two
        names = await self.good(PartyRole.OPERATOR)
        name, *others = self.chance.sample(names, k=min(len(names), 2 if both else 1))
        bench, key = self.bench, self.operators[name]
        late_ms = self.chance.choice((0, 0, 0, 0, 0, 0, 0, 0, -200_000, 4_000_000))
        order = bench.order(act, operator=OperatorId(name), issued_at_ms=max(0, self.wall_ms() - late_ms))
        envelope = seal(COMMAND, order, key, *(self.operators[other] for other in others))
        identity = bench.identity(IdentityKind.OPERATOR, name, key)
        self.last = lambda: commands.execute(bench.custodian, identity, envelope)
        found = await self.attempt(type(act).__name__, self.last())
        return found if isinstance(found, CommandResult) else None

    def sealed(self, model: ModelId, policy: ServingPolicy, borrowers: list[BorrowerId]) -> acts.AddModel:
        """Seal a model, put it where uploads go, and return the command that lends it."""
        bench, out = self.bench, BytesIO()
        made = seal_package(
            [SourceFile("model.onnx", BytesIO(bench.graph))],
            out,
            model=model,
            model_key=ModelKey(Secret(bench.model_key)),
            salt=os.urandom(32),
            sealer=bench.key,
            now_ms=bench.now_ms,
        )
        package = digest_of(out.getvalue())
        path_of(bench.custodian, package).write_bytes(out.getvalue())
        context = deposit_context(bench.custodian.keys.custodian, made.manifest_digest)
        self.manifests[model] = made.manifest_digest
        return acts.AddModel(
            model=model,
            manifest=made.manifest_digest,
            package=package,
            wrapped_key=wrap(Secret(bench.model_key), bench.operator.keystore, context),
            policy=policy,
            borrowers=borrowers,
        )

    def enclave(self, borrower: BorrowerId, models: list[ModelId]) -> Enclave:
        """Return what may become an instance."""
        return Enclave(self.bench, borrower, models=models, platform=SimulatedPlatform(_measured()))
