"""What an operator does at a custodian: signed commands, views, package uploads, the audit log.

```python
with OperatorClient(operator_file) as client:
    result = client.command(Stop(target=StopTarget.ALL, value="", reason="incident 7"))
    print(result.epoch, [view.instance for view in client.enclaves().enclaves])
```

A command is encoded and signed once; every attempt to deliver it sends these bytes, so that a lost answer is
never a command carried out twice.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import decode, encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, SigningKey, VerifyKey, seal
from aigovtool.errors import ConfigurationError, FaultError, InvalidValueError
from aigovtool.ids import Digest, MessageId, ModelId
from aigovtool.ledger.checkpoint import Checkpoint, open_checkpoint
from aigovtool.ledger.entry import Entry, PartyRole
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.limits import MAX_REASON_CHARS
from aigovtool.operator.connection import CustodianConnection, Receive
from aigovtool.operator.order import Order, cosigned, require_cosignable
from aigovtool.protocol import views
from aigovtool.protocol.commands import COMMAND, Act, Command, CommandResult, SetModelTerms
from aigovtool.protocol.party import OperatorFile
from aigovtool.protocol.trust import KeySet, open_key_set

T = TypeVar("T")
Progress = Callable[[int, int], None]

_CHUNK_BYTES: Final = 1 << 20
LOG_PAGE: Final = 1_000


def _system_time_ms() -> int:
    return time.time_ns() // 1_000_000


class OperatorClient:
    """One operator at one custodian. Every method raises `UnreachableError` when there is no answer.

    Args:
        operator_file: the operator's credential, and the custodian's address and root.
        clock_ms: the operator's time, in milliseconds since the epoch.
        pause: waits before another attempt, in seconds.
    """

    def __init__(
        self,
        operator_file: OperatorFile,
        *,
        clock_ms: Callable[[], int] = _system_time_ms,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.file: Final = operator_file
        with Secret(operator_file.key) as seed:
            self.key: Final = SigningKey.from_secret(seed)
        self.root: Final = VerifyKey(operator_file.custodian.root)
        self._clock_ms: Final = clock_ms
        self._connection: Final = CustodianConnection(
            operator_file.custodian, operator_file.certificate, self.key, pause=pause
        )

    def command(self, act: Act) -> CommandResult:
        """Sign `act`, deliver it, and return what it came to.

        Raises:
            AIGovToolError: why the custodian refused; then nothing was changed.
        """
        return self.deliver(self.order(act))

    def order(self, act: Act) -> Order:
        """Return `act` as a command that this operator signed; nothing is sent.

        Raises:
            InvalidValueError: no custodian would read it (`schema`, `reason_too_long`); nothing was signed.
        """
        if len(reason := getattr(act, "reason", "")) > MAX_REASON_CHARS:
            raise InvalidValueError(
                f"a reason has at most {MAX_REASON_CHARS} characters, and this one has {len(reason)}",
                reason="reason_too_long",
                fix="say it in fewer words; nothing was sent",
            )
        command = Command(
            custodian=self.root.key_id,
            operator=self.file.operator,
            command_id=MessageId(secrets.token_hex(16)),
            issued_at_ms=self._clock_ms(),
            act=act,
        )
        decode(encode(command), Command)
        return Order(envelope=seal(COMMAND, command, self.key), command=command)

    def cosign(self, order: Order) -> Order:
        """Add this operator's signature to another operator's order.

        Raises:
            AIGovToolError: it is not one that this operator can cosign; see `order.require_cosignable`.
        """
        act, now_ms = order.command.act, self._clock_ms()
        present = self._policy_of(act.model) if isinstance(act, SetModelTerms) else None
        require_cosignable(order, self.file, self.key, self.parties(), now_ms=now_ms, present=present)
        return cosigned(order, self.key)

    def _policy_of(self, model: ModelId) -> ServingPolicy | None:
        return next((found.policy for found in self.models().models if found.model == model), None)

    def deliver(self, order: Order) -> CommandResult:
        """Deliver a signed command, and return what it came to; the same order again is the same command.

        Raises:
            AIGovToolError: why the custodian refused; then nothing was changed.
        """
        result = self._connection.post("/v1/commands", encode(order.envelope), CommandResult)
        if result.command_id != order.command.command_id:
            raise FaultError("the custodian answered another command", reason="bad_answer")
        return result

    def health(self) -> views.Health:
        """Return whether the custodian serves."""
        return self._connection.get("/v1/health", views.Health)

    def key_set(self) -> KeySet:
        """Return the custodian's keys, verified against the pinned root, and no older than those of the file."""
        return self._opened(self.key_set_envelope())

    def key_set_envelope(self) -> Envelope:
        """Return the custodian's keys as the root signed them; raises as `key_set`."""
        envelope = self._connection.get("/v1/key-set", Envelope)
        self._opened(envelope)
        return envelope

    def _opened(self, envelope: Envelope) -> KeySet:
        return open_key_set(envelope, self.root, at_least=self.file.key_set)

    def parties(self) -> views.Parties:
        """Return all parties."""
        return self._connection.get("/v1/parties", views.Parties)

    def certificate(self, role: PartyRole, name: str) -> views.PartyCertificate:
        """Return the certificate of an enrolled party, issued anew.

        Raises:
            ForbiddenError: there is no such party, or it was revoked (`not_enrolled`).
        """
        return self._connection.get(f"/v1/certificate?role={role.value}&name={quote(name)}", views.PartyCertificate)

    def fetched_certificate(self, role: PartyRole, name: str) -> views.FetchedCertificate:
        """Return a party's certificate as it is handed over, with the key set; raises as `certificate`."""
        return views.FetchedCertificate(issued=self.certificate(role, name), key_set=self.key_set_envelope())

    def models(self) -> views.Models:
        """Return all models."""
        return self._connection.get("/v1/models", views.Models)

    def budgets(self) -> views.Budgets:
        """Return the budget rows of the current windows."""
        return self._connection.get("/v1/budgets", views.Budgets)

    def usage(self) -> views.Usage:
        """Return usage by model and consumer."""
        return self._connection.get("/v1/usage", views.Usage)

    def enclaves(self) -> views.Enclaves:
        """Return instances, newest first."""
        return self._connection.get("/v1/enclaves", views.Enclaves)

    def stops(self) -> views.Stops:
        """Return the stops in force."""
        return self._connection.get("/v1/stops", views.Stops)

    def asks(self) -> views.Asks:
        """Return requests for more budget."""
        return self._connection.get("/v1/asks", views.Asks)

    def appraisal_policy(self) -> AppraisalPolicy:
        """Return the appraisal policy in force."""
        return self._connection.get("/v1/appraisal-policy", AppraisalPolicy)

    def gap(self) -> views.GapView:
        """Return whether the ledger has forgotten something."""
        return self._connection.get("/v1/gap", views.GapView)

    def witnesses(self) -> views.Witnesses:
        """Return all witnesses, retired ones too."""
        return self._connection.get("/v1/witnesses", views.Witnesses)

    def log_head(self) -> views.LogHead:
        """Return the newest checkpoint and key set as they came; `verified_head` checks them."""
        return self._connection.get("/v1/log/head", views.LogHead)

    def verified_head(self) -> tuple[views.LogHead, Checkpoint]:
        """Return the newest checkpoint, signed by a log key that the pinned root signed.

        Raises:
            SignatureInvalidError, LogError: it is not.
        """
        head = self.log_head()
        return head, open_checkpoint(head.checkpoint, self._opened(head.key_set).log_keys())

    def log_entries(self, start: int = 0, *, end: int | None = None) -> Iterator[bytes]:
        """Yield entries of the audit log from index `start`, up to but without `end`, each in its only encoding."""
        while end is None or start < end:
            limit = LOG_PAGE if end is None else min(LOG_PAGE, end - start)
            page = self._connection.get(f"/v1/log/entries?start={start}&limit={limit}", views.LogPage)
            if page.start != start or len(page.entries) > limit:
                raise FaultError("the custodian answered with another page of the log", reason="bad_answer")
            if not page.entries:
                return
            yield from page.entries
            start += len(page.entries)

    def log_found(self, kind: str, *, before: int) -> Iterator[bytes]:
        """Yield entries of one kind from before index `before`, newest first, as the custodian tells them.

        Raises:
            InvalidValueError: the custodian does not look this kind up (`log_kind`).
        """
        while True:
            path = f"/v1/log/found?kind={kind}&before={before}&limit={LOG_PAGE}"
            page = self._connection.get(path, views.LogFound).entries
            for raw in page:
                index = decode(raw, Entry).index
                if index >= before:
                    raise FaultError("the custodian answered with other entries of the log", reason="bad_answer")
                before = index
                yield raw
            if not page:  # one that is shorter than was asked for need not be the last
                return

    def upload_package(self, path: Path, progress: Progress | None = None) -> views.PackageStored:
        """Upload a sealed package; `progress(bytes_done, bytes_total)` begins anew with each attempt.

        Raises:
            ConfigurationError: `unreadable_package`.
            AIGovToolError: why the custodian refused.
        """
        digest, size = _digest_of_file(path)
        stored = self._connection.put(
            f"/v1/packages/{digest}", lambda: _chunks(path, size, progress), size, views.PackageStored
        )
        if (stored.package, stored.package_bytes) != (digest, size):
            raise FaultError("the custodian stored something else", reason="bad_answer")
        return stored

    def fetch_ledger(self, receive: Receive[T]) -> T:
        """Have the custodian copy its ledger, and return what `receive` makes of it; raises what that raises too."""
        return self._connection.fetch("/v1/ledger", receive)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _digest_of_file(path: Path) -> tuple[Digest, int]:
    digest, size = sha256(), 0
    for chunk in _chunks(path, None, None):
        digest.update(chunk)
        size += len(chunk)
    return Digest("sha256:" + digest.hexdigest()), size


def _chunks(path: Path, size: int | None, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                done += len(chunk)
                if size is not None and done > size:
                    break
                yield chunk
                if progress is not None:
                    progress(done, size or done)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_package") from None
    if size is not None and done != size:
        raise ConfigurationError(
            f"{path} changed while it was uploaded", reason="package_changed", fix="upload it again"
        )
