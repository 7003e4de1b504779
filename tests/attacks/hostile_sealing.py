"""A custodian that seals anything, without a look at it: who lends a model need not use the product's own sealer."""

from pathlib import Path

from assurance.models.sealing import seal_model
from onnx import ModelProto
from tests.attacks.deployments import Deployment
from tests.e2e.world import BORROWER, MODEL

from aigovtool.crypto.wrap import wrap
from aigovtool.ids import ModelId, digest_of
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.protocol import commands
from aigovtool.protocol.release import deposit_context


class HostileDeployment(Deployment):
    """A deployment with such a custodian."""

    def _add_model(self, model: bytes, policy: ServingPolicy) -> None:
        self.lend(MODEL, model, policy)

    def lend(self, name: ModelId, model: bytes, policy: ServingPolicy) -> Path:
        """Lend a model to the borrower, and return where the custodian keeps its package."""
        made_of = ModelProto.FromString(model)
        made = seal_model(self.directory / "model.aigov", model, made_of, sealer=self.operator_key, name=name)
        content = made.path.read_bytes()
        package = digest_of(content)
        with self.custodian_client() as client:
            response = client.put(f"/v1/packages/{package}", content=content)
        assert response.status_code == 200, response.text
        context = deposit_context(self.custodian_id, made.digest)
        self.command(
            commands.AddModel(
                model=name,
                manifest=made.digest,
                package=package,
                wrapped_key=wrap(made.key.secret, self.operator.keystore, context),
                policy=policy,
                borrowers=[BORROWER],
            )
        )
        return self.directory / "custodian" / "packages" / f"{package.removeprefix('sha256:')}.aigov"
