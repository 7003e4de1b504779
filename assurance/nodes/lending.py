"""Lends the models of a batch to one enclave, by the product's own sealer, and asks for each as a consumer does."""

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tests.attacks.deployments import Deployment, deployed
from tests.e2e.world import BORROWER, ENCLAVE_PROGRAM, MODEL, wait_for

from aigovtool.consumer import Client
from aigovtool.crypto.aead import new_model_key, new_salt
from aigovtool.crypto.wrap import wrap
from aigovtool.errors import AIGovToolError
from aigovtool.ids import Digest, ModelId, digest_of
from aigovtool.ledger.budget import Scope, Window
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.package.sealing import seal
from aigovtool.package.source import SourceFile
from aigovtool.protocol import commands
from aigovtool.protocol.release import deposit_context
from assurance.nodes.bare import Bare, Came
from assurance.nodes.cases import Case
from assurance.nodes.comparison import Told

#: Of each model; one is used.
_UNITS: Final = 1_000
_TTL_MS: Final = 30_000
#: A boot for each model that is refused, with the keys of all others, on a machine that does other things as well.
_READY_S: Final = 300.0


@dataclass
class Backend(Deployment):
    """A custodian, and an enclave that is started anew for each batch of models."""

    lent: int = 0
    served: list[ModelId] = field(default_factory=list)

    def answers_to(self, batch: Sequence[tuple[Case, Bare]]) -> list[Told]:
        """Lend the models of a batch, ask for each once, end the enclave, and see what was charged."""
        told: dict[str, Told] = {}
        models: dict[str, ModelId] = {}
        # A boot ends at the first model that is refused, and the next goes without that one: so they come first.
        for case, _ in sorted(batch, key=lambda one: one[1].came is not Came.NOT_LOADED):
            try:
                models[case.name] = self.lend(case)
            except AIGovToolError as error:
                told[case.name] = _refused(error)
        self.served = [*models.values(), MODEL]  # the last one is always served
        self.start_enclave()
        url = f"https://127.0.0.1:{self.enclave_port}"
        with Client.connect(url, self.consumer_file(f"{self.lent}.json"), allow_simulated=True) as client:
            for case, _ in batch:
                if model := models.get(case.name):
                    told[case.name] = _asked(client, model, case)
        self.end("enclave")
        charged = self._charged()
        return [replace(told[case.name], charged=charged.get(models.get(case.name, ""), 0)) for case, _ in batch]

    def start_enclave(self, *, wait: bool = True) -> None:
        """Start the enclave for the models of the batch."""
        place = (self.directory / "borrower.json", self.enclave_port, self.directory / "cache")
        self.spawn("enclave", ENCLAVE_PROGRAM, *map(str, place), *self.served)
        if wait:
            wait_for(self.enclave_ready, "the enclave is ready", _READY_S)

    def lend(self, case: Case) -> ModelId:
        """Seal a model, upload it, lend it, grant some units of it, and return its name.

        Raises:
            AIGovToolError: it is not sealed.
        """
        self.lent += 1
        name, key, out = ModelId(f"node-{self.lent}"), new_model_key(), io.BytesIO()
        made = seal(
            [SourceFile("model.onnx", io.BytesIO(case.model))],
            out,
            model=name,
            model_key=key,
            salt=new_salt(),
            sealer=self.operator_key,
            now_ms=time.time_ns() // 1_000_000,
        )
        context = deposit_context(self.custodian_id, made.manifest_digest)
        self.command(
            commands.AddModel(
                model=name,
                manifest=made.manifest_digest,
                package=self._upload(out.getvalue()),
                wrapped_key=wrap(key.secret, self.operator.keystore, context),
                policy=default_policy(Dial.BALANCED, ttl_ms=_TTL_MS),
                borrowers=[BORROWER],
            )
        )
        scope, window = Scope(model=name), Window.LIFETIME
        self.command(commands.GrantBudget(scope=scope, dimension=Dimension.INFERENCES, window=window, units=_UNITS))
        return name

    def _upload(self, package: bytes) -> Digest:
        digest = digest_of(package)
        with self.custodian_client() as client:
            client.put(f"/v1/packages/{digest}", content=package).raise_for_status()
        return digest

    def _charged(self) -> dict[str, int]:
        """Return the units of each model that are spent or held."""
        rows = self.view("/v1/budgets")["budgets"]
        return {row["key"]["scope"]["model"]: int(row["posted"]) + int(row["pending"]) for row in rows}


def _asked(client: Client, model: ModelId, case: Case) -> Told:
    try:
        return Told(outputs=client.infer(model, case.inputs).outputs)
    except AIGovToolError as error:
        return _refused(error)


def _refused(error: AIGovToolError) -> Told:
    return Told(refusal=f"{error.code}: {error.reason}")


@contextmanager
def backend(folder: Path) -> Iterator[Backend]:
    """Yield a custodian that lends batches; its processes end with the block."""
    with deployed(folder, kind=Backend, ttl_ms=_TTL_MS, enclave=False) as made:
        if not isinstance(made, Backend):
            raise TypeError(type(made))
        yield made
