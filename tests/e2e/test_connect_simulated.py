"""A gateway that does not take a simulated TEE, in front of an enclave on a (software) TPM that is replaced by one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from tests.e2e.gateways import connecting
from tests.e2e.party_files import consumer_file
from tests.e2e.tpm_machine import lent_by, start
from tests.e2e.world import ENCLAVE_PROGRAM, MODEL, World, free_port, wait_for
from tests.enclave.attesters.measured_boot import measure_boot, policy_for
from tests.enclave.attesters.software_tpm import missing, software_tpm

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.consumer.connect.evidence_log import Event
from aigovtool.protocol import commands
from aigovtool.testing.fault_proxy import FaultProxy, fault_proxy
from aigovtool.testing.simulated_tee.wiring import development_policy

if missing():
    pytest.skip(f"not installed: {missing()}; no deployment with a (software) TPM was tried", allow_module_level=True)


@dataclass
class Site:
    """A deployment with an enclave on a TPM and a simulated one; consumers are led to the first, or to the second."""

    world: World
    proxy: FaultProxy
    tpm: AppraisalPolicy
    simulated_port: int

    def lead_to(self, port: int) -> None:
        """Have whoever connects reach another enclave."""
        self.proxy.lead_to(port)
        self.proxy.cut()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, digits_model: bytes) -> Iterator[Site]:
    """Its custodian admits both, for the sake of the test."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "tpm").mkdir()
    with software_tpm(folder / "tpm") as tpm:
        measure_boot(tpm)
        with lent_by(folder / "world", tpm, digits_model) as world:
            own = policy_for(tpm)
            world.command(commands.SetAppraisalPolicy(policy=with_simulated(own)))
            start(world, tpm)
            port = free_port()
            world.spawn(
                *("simulated", ENCLAVE_PROGRAM, str(world.directory / "borrower.json"), str(port)),
                *(str(world.directory / "cache-simulated"), MODEL),
            )
            world.wait_ready()
            wait_for(lambda: is_ready(world, port), "the simulated enclave is ready")
            with fault_proxy("127.0.0.1", world.enclave_port) as proxy:
                yield Site(world, proxy, own, port)


def with_simulated(policy: AppraisalPolicy) -> AppraisalPolicy:
    """Return a policy that also accepts the simulated TEE."""
    accepted = (*policy.accepted, *development_policy().accepted)
    return msgspec.structs.replace(policy, accepted=accepted, allow_simulated=True)


def is_ready(world: World, port: int) -> bool:
    """Return whether the enclave at a port serves."""
    try:
        return world.connect(port).request("GET", "/v2/health/ready").status == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    ("policy", "options", "reason"),
    [
        ("both", (), "simulated"),
        ("its own", ("--allow-simulated",), "simulated"),
        ("its own", (), "simulated"),
        ("allowing", ("--allow-simulated",), "tee"),
    ],
    ids=["no option", "no policy", "neither", "no entry"],
)
def test_a_gateway_on_a_tpm_does_not_go_over_to_a_simulated_tee(
    *, policy: str, options: tuple[str, ...], reason: str, site: Site, tmp_path: Path, body: bytes
) -> None:
    """Attack: the host boots a simulated enclave, which the custodian admits, in place of the one that was verified."""
    policies = {
        "its own": site.tpm,
        "both": with_simulated(site.tpm),
        "allowing": msgspec.structs.replace(site.tpm, allow_simulated=True),
    }
    credential = consumer_file(site.world, f"{tmp_path.name}.json", policy=policies[policy])
    site.lead_to(site.world.enclave_port)
    with connecting(tmp_path, credential, f"https://127.0.0.1:{site.proxy.port}", options=options) as gateway:
        assert gateway.infer(body).status_code == 200
        assert gateway.enclave()["tee"] == "tpm"
        spent = site.world.charged()
        site.lead_to(site.simulated_port)
        told = [gateway.infer(body).json() for _ in range(3)]
        assert {(one["status"], one["code"], one["reason"]) for one in told} == {(403, "evidence_unacceptable", reason)}
        assert ("real hardware" if reason == "simulated" else "new consumer file") in told[0]["fix"]
        assert not gateway.is_ready()
        gateway.wait_for_event(Event.REFUSED, reason)
        assert gateway.enclave()["state"] == "refused"
        assert site.world.charged() == spent
        site.lead_to(site.world.enclave_port)
        wait_for(lambda: gateway.infer(body).status_code == 200, "it serves again")
        assert gateway.enclave()["tee"] == "tpm"
    assert {line.seen.tee for line in gateway.told() if line.seen is not None} == {"tpm"}
