"""A custodian whose ledger a test can put back to an older copy: two operators, a borrower, a consumer, an enclave.

The custodian, its HTTP server, the parties' files and the evidence are real. The enclave is the keys of one boot: a
test says what it reports and signs.
"""

import asyncio
import secrets
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from tests.cli.conftest import Place, serving_of
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, Bench, Enclave, make_bench, want
from tests.custodian.test_continuity import Backup, backup

from aigovtool.attestation.binding import Binding, HpkePublicKey, IdentityPublicKey, SpkiHash
from aigovtool.codec import encode
from aigovtool.consumer.receipts import SavedReceipt
from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.service.standing import policy_in_force
from aigovtool.errors import LedgerRollbackError
from aigovtool.ids import LeaseId, Nonce, OperatorId, RequestKey, digest_of
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.receipt import Receipt, chain, sign_batch
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.messages import Grant, Report
from aigovtool.protocol.party import ConsumerFile, OperatorFile
from aigovtool.protocol.release import session_audience

T = TypeVar("T")
BUDGET = 1000


def do(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end."""
    return asyncio.run(work)


@dataclass
class Site:
    """The custodian and everybody's files; `place.run` is alice's command line."""

    place: Place
    bench: Bench
    ledger: str | None
    enclave: Enclave = field(init=False)

    def file(self, name: str) -> str:
        return self.place.file(name)

    def draw(self, units: int) -> LeaseId:
        """Have the enclave draw a lease."""
        (result,) = do(self.enclave.renew(want(units))).results
        assert isinstance(result, Grant)
        return result.lease_id

    def close(self, lease: LeaseId, receipts: list[SavedReceipt], used: int | None = None) -> None:
        """Have the enclave close a lease that these receipts are charged to."""
        head = ""
        for saved in receipts:
            head = chain(head, saved.signed.receipt)
        count = len(receipts) if used is None else used
        final = Report(
            lease_id=lease,
            seq=1,
            used=UnitVector(inferences=count),
            ok=len(receipts),
            err=0,
            final=True,
            receipts=head,
        )
        do(self.enclave.renew(reports=(final,)))

    def receipts(self, lease: LeaseId, numbers: int) -> list[SavedReceipt]:
        """Return receipts number 1 to `numbers` of a lease, as the consumer saves them."""
        return [self._receipt(lease, number) for number in range(1, numbers + 1)]

    def _receipt(self, lease: LeaseId, number: int) -> SavedReceipt:
        bench, enclave = self.bench, self.enclave
        claims = Binding(
            role="session",
            audience=session_audience(CONSUMER),
            nonce=Nonce(secrets.token_hex(32)),
            tls_spki=SpkiHash(bytes(32)),
            hpke_key=HpkePublicKey(enclave.hpke.public),
            identity_key=IdentityPublicKey(enclave.identity.public.raw),
            instance=enclave.instance,
            custodian_root=bench.custodian.keys.custodian,
            configuration=digest_of(b"configuration"),
            appraisal_policy=digest_of(b"policy"),
            manifests=(bench.manifest,),
        )
        receipt = Receipt(
            request_key=RequestKey(f"request-{number}"),
            request=digest_of(b"request"),
            response=digest_of(b"response"),
            model=MODEL,
            manifest=bench.manifest,
            consumer=CONSUMER,
            units=UnitVector(inferences=1),
            remaining=UnitVector(inferences=BUDGET),
            lease_id=lease,
            sequence=number,
            instance=enclave.instance,
            tee="simulated",
            at_ms=bench.now_ms,
        )
        (signed,) = sign_batch([receipt], enclave.instance, enclave.identity)
        return SavedReceipt(
            signed=signed,
            identity_key=enclave.identity.public.raw,
            claims=claims,
            evidence=enclave.platform.attest(claims),
            key_set=bench.custodian.keys.key_set_envelope,
            salt=b"",
            request=receipt.request,
            response=receipt.response,
            attested_at_ms=bench.now_ms,
        )

    def copy(self) -> Backup:
        """Take a backup."""
        return backup(self.bench, self.ledger)

    def forget(self, units: int = 5) -> None:
        """Use units, lose the ledger, restore an older copy, and have the enclave show what it remembers."""
        copy = self.copy()
        self.draw(units)
        copy.restore()
        self.show()

    def show(self) -> None:
        """Have the enclave show its newest checkpoint."""
        try:
            do(self.enclave.renew())
        except LedgerRollbackError:
            return
        raise AssertionError("the custodian remembers")

    @contextmanager
    def served(self) -> Iterator[Place]:
        """Serve the custodian while commands are run."""
        with serving_of(self.bench.custodian, self.place.listener):
            yield self.place


def make_site(directory: Path, listener: socket.socket, ledger: str | None, *, alone: bool = False) -> Site:
    """Make a custodian that lends a model with a budget, with everybody enrolled and one enclave admitted.

    `alone`: there is no second operator.
    """
    bench = make_bench(directory / "custodian", ledger=ledger)
    address = msgspec.structs.replace(bench.operator.custodian, url=f"https://127.0.0.1:{listener.getsockname()[1]}")
    alice = msgspec.structs.replace(bench.operator, custodian=address)
    _write(directory / "alice.json", alice)
    site = Site(Place(directory, directory / "alice.json", listener), bench, ledger)
    if not alone:
        do(_enrol_bob(site, alice))
    do(_enrol(site, alice))
    site.enclave = Enclave(bench)
    do(site.enclave.boot())
    return site


async def _enrol_bob(site: Site, alice: OperatorFile) -> None:
    bench, key = site.bench, SigningKey.generate()
    added = await bench.add_party(PartyRole.OPERATOR, "bob", key)
    bob = msgspec.structs.replace(
        alice, operator=OperatorId("bob"), certificate=added.certificate or "", key=key.to_secret().reveal()
    )
    _write(site.place.directory / "bob.json", bob)


async def _enrol(site: Site, alice: OperatorFile) -> None:
    bench = site.bench
    await bench.add_borrower(BORROWER)
    added = await bench.add_consumer(CONSUMER, BORROWER)
    ward = ConsumerFile(
        consumer=CONSUMER,
        borrower=BORROWER,
        custodian=alice.custodian,
        certificate=added.certificate or "",
        key=bench.consumers[CONSUMER].to_secret().reveal(),
        policy=await bench.custodian.database.run(policy_in_force),
    )
    _write(site.place.directory / "ward7.json", ward)
    await bench.command(bench.upload())
    await bench.grant(BUDGET)


def _write(path: Path, value: object) -> None:
    path.touch(mode=0o600)
    path.write_bytes(encode(value))
