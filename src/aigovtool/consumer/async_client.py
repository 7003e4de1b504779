"""The asynchronous client: the same core as `Client`, on asyncio.

```python
async with AsyncClient.connect("https://enclave.example:8443", "consumer.json") as client:
    result = await client.infer("covid-xray", image)
```
"""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aigovtool.attestation.model import ResultBody
from aigovtool.attestation.verifier import VerifierSet
from aigovtool.consumer.async_driver import AsyncDriver
from aigovtool.consumer.budget import LeaseProof
from aigovtool.consumer.clock import SYSTEM_CLOCK, Clock
from aigovtool.consumer.core import DEFAULT_WAIT_S
from aigovtool.consumer.opening import DEFAULT_TIMEOUT_S, Opened, open_core
from aigovtool.consumer.result import ModelInfo, Result
from aigovtool.ids import InstanceId
from aigovtool.ledger.receipt import Receipt
from aigovtool.package.manifest import Manifest
from aigovtool.protocol.commands import AskState
from aigovtool.protocol.trust import KeySet
from aigovtool.protocol.views import OwnView


class AsyncClient:
    """A consumer of one enclave. `await AsyncClient.connect(...)` or `async with` attests it."""

    def __init__(self, opened: Opened, clock: Clock) -> None:
        self._core: Final = opened.core
        self._driver: Final = AsyncDriver(opened.credential, opened.url, clock)

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
        """Return a client that attests when it is awaited or entered; arguments and errors as `Client.connect`."""
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
        return cls(opened, clock)

    async def infer(
        self,
        model: str,
        inputs: object,
        *,
        outputs: Sequence[str] | None = None,
        request_id: str | None = None,
        wait: bool = False,
        deadline_s: float | None = None,
    ) -> Result:
        """Ask `model`; see `Client.infer`. Cancelling leaves the outcome unknown: repeat with the same `request_id`."""
        return await self._driver.run(
            self._core.infer(model, inputs, outputs=outputs, request_id=request_id, wait=wait, deadline_s=deadline_s)
        )

    async def models(self) -> tuple[ModelInfo, ...]:
        """Return the served models; see `Client.models`."""
        return await self._driver.run(self._core.models())

    async def manifest(self, model: str) -> Manifest:
        """Return what the sealer of a model says of it; see `Client.manifest`."""
        return await self._driver.run(self._core.manifest(model))

    async def request_budget(
        self, units: int, reason: str, *, model: str | None = None, dimension: str = "inferences"
    ) -> AskState:
        """Ask the custodian for more; see `Client.request_budget`."""
        return await self._driver.run(self._core.request_budget(units, reason, model, dimension))

    async def ask_state(self, ask_id: str) -> AskState:
        """Return what became of a request for more budget; see `Client.ask_state`."""
        return await self._driver.run(self._core.ask_state(ask_id))

    async def decision(self, ask_id: str, *, deadline_s: float = DEFAULT_WAIT_S) -> AskState:
        """Wait until a request for more budget is decided; see `Client.decision`."""
        return await self._driver.run(self._core.decision(ask_id, deadline_s))

    async def budget(self) -> OwnView:
        """Return the consumer's own view; see `Client.budget`."""
        return await self._driver.run(self._core.budget())

    async def prove(self, receipt: Receipt) -> LeaseProof:
        """Return the proof that the lease of a receipt was debited; see `Client.prove`."""
        return await self._driver.run(self._core.prove(receipt))

    async def attest(self) -> ResultBody:
        """Attest afresh now; see `Client.attest`."""
        return (await self._driver.run(self._core.attest())).result.body

    @property
    def evidence(self) -> ResultBody:
        """The attestation result of the enclave; `ReattestRequiredError` before the first, or after a failed one."""
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
        return f"AsyncClient({self._driver.url!r}, {self._core.told()})"

    async def close(self) -> None:
        """Close every connection; one that another task uses is closed when its exchange is over."""
        await self._driver.close()

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        try:
            await self._driver.run(self._core.attest())
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
