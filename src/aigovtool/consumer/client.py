"""The synchronous client.

```python
from aigovtool.consumer import Client

with Client.connect("https://enclave.example:8443", "consumer.json") as client:
    result = client.infer("covid-xray", image)
    print(result.outputs["probability"], result.units_remaining)
```
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aigovtool.attestation.model import ResultBody
from aigovtool.attestation.verifier import VerifierSet
from aigovtool.consumer.budget import LeaseProof
from aigovtool.consumer.clock import SYSTEM_CLOCK, Clock
from aigovtool.consumer.core import DEFAULT_WAIT_S
from aigovtool.consumer.opening import DEFAULT_TIMEOUT_S, Opened, open_core
from aigovtool.consumer.result import ModelInfo, Result
from aigovtool.consumer.sync_driver import SyncDriver
from aigovtool.ids import InstanceId
from aigovtool.ledger.receipt import Receipt
from aigovtool.package.manifest import Manifest
from aigovtool.protocol.commands import AskState
from aigovtool.protocol.trust import KeySet
from aigovtool.protocol.views import OwnView


class Client:
    """A consumer that has attested one enclave. Several threads may share one.

    How it comes to trust, step by step:

    1. Open a TLS 1.3 connection with the consumer's certificate, and trust nobody yet.
    2. On it, send a challenge with 32 fresh random bytes.
    3. Take the server certificate of that same connection, and the SHA-256 of its public key.
    4. Verify the custodian's key set against the root in the consumer file; refuse an older one than before.
    5. Verify the evidence. Simulated evidence only if `allow_simulated` *and* the appraisal policy say so.
    6. Demand that the evidence binds: a session, this consumer, the nonce, that public key, the custodian's root,
       and the pinned manifests.
    7. Appraise it under the policy of the consumer file.
    8. From here on, use only connections whose server proves exactly that certificate.
    9. Attest afresh when the enclave shows another certificate (it rebooted), or when the attestation is too old.
    """

    def __init__(self, opened: Opened, clock: Clock) -> None:
        self._core: Final = opened.core
        self._driver: Final = SyncDriver(opened.credential, opened.url, clock)

    @classmethod
    def connect(
        cls,
        url: str,
        credential_path: Path | str,
        *,
        models: Mapping[str, str] | None = None,
        allow_simulated: bool = False,
        sealed: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: str = "same-instance-only",
        key_set_at_least: int = 0,
        verifiers: VerifierSet | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> Self:
        """Attest the enclave at `url` (steps 1 to 7), and return a client that speaks with it alone (8 and 9).

        Args:
            url: `https://HOST:PORT`.
            credential_path: the consumer file, readable by this user alone.
            models: manifest digests by model; a model that is not named is held to the digest first seen.
            allow_simulated: the caller's half of the opt-in to a TEE that protects nothing.
            sealed: a load balancer ends TLS before the enclave: steps 3 and 8 cannot be made, and all that is asked
                and answered is sealed between this client and the attested enclave instead.
            timeout_s: for attesting, and for every small exchange.
            retry: `same-instance-only`, or `may-charge`: also repeat a request whose outcome is unknown on another
                instance, where it can be charged again (`RetryMayCharge`).
            key_set_at_least: the lowest number of the custodian's key set to accept (`key_set_version` of last time).
            verifiers: other TEE verifiers than the built-in ones.
            clock: another clock, for tests.

        Raises:
            ConfigurationError, InvalidValueError: the consumer file, the address or an option is wrong.
            VerificationError: steps 4 to 7; the reason names the check.
            UnauthenticatedError, UnreachableError, DeadlineError: the enclave refuses the credential, or no answer.
        """
        opened = open_core(
            url,
            credential_path,
            models=models,
            allow_simulated=allow_simulated,
            sealed=sealed,
            timeout_s=timeout_s,
            retry=retry,
            key_set_at_least=key_set_at_least,
            verifiers=verifiers,
            clock=clock,
        )
        client = cls(opened, clock)
        client._attest_or_close()
        return client

    def _attest_or_close(self) -> None:
        try:
            self._driver.run(self._core.attest())
        except BaseException:
            self.close()
            raise

    def infer(
        self,
        model: str,
        inputs: object,
        *,
        outputs: Sequence[str] | None = None,
        request_id: str | None = None,
        wait: bool = False,
        deadline_s: float | None = None,
    ) -> Result:
        """Ask `model`, verify the receipt, and return the answer.

        Args:
            model: its name.
            inputs: arrays by input name, or one array for a model with one input. An array is a numpy array, a torch
                tensor, a pandas series or frame, nested lists or a scalar; all but the first two take the datatype of
                the model's input. A frame may also be all inputs of a model, each the column of its name.
            outputs: names of the outputs to answer; None for all.
            request_id: names this request, 1 to 64 of `A-Za-z0-9._:-`. Repeated with the same inputs it is charged
                once by one instance. None for a fresh one.
            wait: wait while the budget is used up or held by others, or the enclave has no authority, until
                `deadline_s`, and then raise that refusal. The custodian may grant more meanwhile, or deny the request
                for more (`ask_denied`), which ends the wait. A stop is not waited for.
            deadline_s: for all of it; 60 s, or an hour with `wait`.

        Raises:
            InvalidValueError, TooLargeError, NotFoundError: the inputs do not fit the model.
            BudgetExhaustedError, StoppedError, and the other kinds of RefusalError: nothing was charged,
                unless their `fix` says that an earlier try may have been.
            ReceiptError: the receipt is missing, or not for this exchange. There is no result.
            EngineError: the engine failed, or the answer does not fit the model.
            ConflictError: `retry_may_charge`; the outcome is unknown and another instance answers now.
            VerificationError: a fresh attestation was needed and failed.
            UnreachableError, DeadlineError: no answer; repeat with the same `request_id`, which `fix` names.
        """
        return self._driver.run(
            self._core.infer(model, inputs, outputs=outputs, request_id=request_id, wait=wait, deadline_s=deadline_s)
        )

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the served models, with manifest digests, inputs and outputs; raises as `infer`."""
        return self._driver.run(self._core.models())

    def manifest(self, model: str) -> Manifest:
        """Return what the sealer of a model says of it: inputs, outputs, classes, how a picture becomes an input.

        Its digest is the one that the evidence covers. Raises as `infer`, and `EvidenceError` (`wrong_manifest`).
        """
        return self._driver.run(self._core.manifest(model))

    def request_budget(
        self, units: int, reason: str, *, model: str | None = None, dimension: str = "inferences"
    ) -> AskState:
        """Ask the custodian for `units` more on `model` (needed where several are served).

        Raises:
            InvalidValueError: units, reason, model or dimension are out of their domain.
            UnauthenticatedError, ForbiddenError: the custodian does not take the credential.
            UnreachableError, DeadlineError: the custodian does not answer.
        """
        return self._driver.run(self._core.request_budget(units, reason, model, dimension))

    def ask_state(self, ask_id: str) -> AskState:
        """Return what became of a request for more budget; raises as `request_budget`."""
        return self._driver.run(self._core.ask_state(ask_id))

    def decision(self, ask_id: str, *, deadline_s: float = DEFAULT_WAIT_S) -> AskState:
        """Wait until an operator, or a rule, has decided on a request for more budget, and return what became of it.

        Its `state` is `approved`, with what was `granted`, or `denied`; `decision` is the operator's reason.

        Args:
            ask_id: of what `request_budget` returned.
            deadline_s: how long to wait; an hour.

        Raises:
            DeadlineError: nobody decided in that time (`not_decided`); the request is open all the same.
            UnauthenticatedError, ForbiddenError, UnreachableError: as `request_budget`.
        """
        return self._driver.run(self._core.decision(ask_id, deadline_s))

    def budget(self) -> OwnView:
        """Return what the custodian shows this consumer of itself; raises as `request_budget`."""
        return self._driver.run(self._core.budget())

    def prove(self, receipt: Receipt) -> LeaseProof:
        """Return the proof, in the custodian's signed log, that the lease of an answer's receipt was debited.

        Args:
            receipt: what it states: `Result.statement`, or `ReceiptVerdict.receipt`.

        Raises:
            NotFoundError: the custodian knows no such lease of this consumer.
            SignatureInvalidError, LogError: the proof does not verify.
            UnreachableError, DeadlineError: the custodian does not answer.
        """
        return self._driver.run(self._core.prove(receipt))

    def attest(self) -> ResultBody:
        """Attest afresh now, and return the result; raises as `connect`."""
        return self._driver.run(self._core.attest()).result.body

    @property
    def evidence(self) -> ResultBody:
        """The attestation result of the enclave; `ReattestRequiredError` after a failed fresh attestation."""
        return self._core.evidence()

    @property
    def instance(self) -> InstanceId:
        """The attested instance."""
        return self._core.session().instance

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to read before using any answer; empty for a TEE that protects."""
        return self._core.session().warnings

    @property
    def key_set(self) -> KeySet:
        """The custodian's keys, as its root signed them, which the enclave goes by."""
        return self._core.session().key_set

    @property
    def key_set_version(self) -> int:
        """The number of the custodian's key set, to give to the next `connect`."""
        return self._core.session().key_set.version

    def __repr__(self) -> str:
        """Show whom it speaks to; nothing is asked for that."""
        return f"Client({self._driver.url!r}, {self._core.told()})"

    def close(self) -> None:
        """Close every connection; one that another thread uses is closed when its exchange is over."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
