"""An honest enclave: what a consumer sends, and what it gets."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.consumer.conftest import MANIFEST, MODEL, FakeEnclave

from aigovtool.consumer import Client
from aigovtool.errors import ForbiddenError, InvalidValueError, NotFoundError, VerificationError


def test_an_array_is_answered_with_arrays_and_a_verified_receipt(client: Client, enclave: FakeEnclave) -> None:
    """The whole way: attested, asked, answered, receipt checked."""
    result = client.infer("doubler", np.array([[1, 2], [3, 4]], dtype=np.float32))
    assert np.array_equal(result.outputs["y"], [[2, 4], [6, 8]])
    assert result.outputs["y"].flags.writeable
    assert result.outputs["n"].tolist() == [2]
    assert result.units_remaining == 9
    assert result.statement.request_key == result.request_id
    assert result.statement.instance == client.instance == enclave.instance
    assert result.warning == "SIMULATED TEE: protects nothing"


def test_the_representation_of_a_client_says_whom_it_speaks_to(client: Client, enclave: FakeEnclave) -> None:
    """In a notebook, without a request: address, platform, instance and models."""
    shown = repr(client)
    for words in (enclave.url, "simulated", enclave.instance[:12], "doubler"):
        assert words in shown
    enclave.key_set = enclave.world.key_set(1)
    with pytest.raises(VerificationError):
        client.attest()
    assert "no enclave is attested" in repr(client)


def test_the_representation_of_a_result_shows_no_data(client: Client) -> None:
    """A log of results must not become a log of answers."""
    shown = repr(client.infer("doubler", [[1234.5, 777.25]]))
    assert shown.startswith("Result(model='doubler', outputs={")
    assert "y: float32[1, 2]" in shown
    assert "units_remaining=9" in shown
    assert "SIMULATED" in shown
    assert "2469" not in shown
    assert "1554.5" not in shown


def test_inputs_may_be_named(client: Client) -> None:
    """A mapping gives inputs by name."""
    assert client.infer("doubler", {"x": [[1, 2]]}).outputs["y"].tolist() == [[2, 4]]


def test_only_the_outputs_that_were_asked_for_come_back(client: Client) -> None:
    """`outputs` names what is answered."""
    assert set(client.infer("doubler", [[1, 2]], outputs=["n"]).outputs) == {"n"}


def test_a_request_for_no_output_is_refused_before_anything_is_sent(client: Client, enclave: FakeEnclave) -> None:
    """In the protocol no names mean all outputs: it was charged, and its answer refused."""
    with pytest.raises(InvalidValueError) as caught:
        client.infer("doubler", [[1, 2]], outputs=[])
    assert caught.value.reason == "no_outputs"
    assert not enclave.charged


def test_an_unknown_output_is_refused_before_anything_is_sent(client: Client, enclave: FakeEnclave) -> None:
    """A mistake in a name costs nothing."""
    with pytest.raises(InvalidValueError) as caught:
        client.infer("doubler", [[1, 2]], outputs=["z"])
    assert caught.value.reason == "unknown_output"
    assert not enclave.charged


def test_a_model_that_is_not_served_is_named(client: Client) -> None:
    """After a fresh attestation without it, the model does not exist."""
    with pytest.raises(NotFoundError) as caught:
        client.infer("tripler", [[1, 2]])
    assert caught.value.reason == "no_such_model"
    assert caught.value.fix == "it serves doubler"


@pytest.mark.parametrize("bad", ["", "a b", "x" * 65, "a\n"])
def test_a_request_id_is_checked_before_it_is_sent(client: Client, bad: str) -> None:
    """A request id goes into a header and into receipts."""
    with pytest.raises(InvalidValueError) as caught:
        client.infer("doubler", [[1, 2]], request_id=bad)
    assert caught.value.reason == "bad_request_id"


def test_a_repeated_request_id_is_charged_once_and_its_first_receipt_still_verifies(
    client: Client, enclave: FakeEnclave
) -> None:
    """The salt belongs to the request id, so the receipt that the enclave kept fits the repetition."""
    first = client.infer("doubler", [[1, 2]], request_id="case-17")
    again = client.infer("doubler", [[1, 2]], request_id="case-17")
    assert again.receipt == first.receipt
    assert len(enclave.charged) == 1


def test_salts_of_two_requests_differ(client: Client) -> None:
    """One salt for all would let the custodian see that two prompts are equal."""
    first, second = client.infer("doubler", [[1, 2]]), client.infer("doubler", [[1, 2]])
    assert first.saved.salt != second.saved.salt
    assert first.statement.request != second.statement.request


def test_models_are_described(client: Client) -> None:
    """Names, digests, inputs and outputs."""
    (model,) = client.models()
    assert (model.model, model.manifest) == (MODEL, MANIFEST)
    assert [spec.name for spec in model.inputs] == ["x"]
    assert [spec.name for spec in model.outputs] == ["y", "n"]


def test_the_evidence_can_be_looked_at(client: Client) -> None:
    """The attestation result says which checks were made."""
    assert client.evidence.tee == "simulated"
    assert {check.name for check in client.evidence.checks} >= {"debug", "measurements"}
    assert client.warnings == ("SIMULATED TEE: protects nothing",)
    assert client.key_set_version == 7


def test_the_client_uses_nothing_of_the_environment(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A proxy from the environment would be somebody between."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    client.attest()
    assert client.infer("doubler", [[1, 2]]).outputs["n"].tolist() == [1]


# --- Terms of answers that change ------------------------------------------------------------------


def withhold(enclave: FakeEnclave, name: str) -> None:
    """Let one output leave no more: the next request for it is refused, and the metadata has it no more."""
    enclave.refusals.append(ForbiddenError(f"output {name!r} does not leave", reason="output_withheld"))
    enclave.forge_metadata = lambda metadata: msgspec.structs.replace(
        metadata, outputs=tuple(spec for spec in metadata.outputs if spec.name != name)
    )


def test_who_asks_for_everything_gets_what_leaves_now(client: Client, enclave: FakeEnclave) -> None:
    """The client knows the model from before: it looks again, and asks for the rest under the same id."""
    assert set(client.infer("doubler", [[1, 2]]).outputs) == {"y", "n"}
    withhold(enclave, "y")
    result = client.infer("doubler", [[1, 2]], request_id="case-18")
    assert set(result.outputs) == {"n"}
    assert enclave.charged[1:] == ["case-18"]
    (shown,) = client.models()
    assert [spec.name for spec in shown.outputs] == ["n"]


def test_who_names_an_output_that_leaves_no_more_is_told(client: Client, enclave: FakeEnclave) -> None:
    """Nothing else is answered instead."""
    client.infer("doubler", [[1, 2]])
    withhold(enclave, "y")
    with pytest.raises(ForbiddenError) as caught:
        client.infer("doubler", [[1, 2]], outputs=["y"])
    assert caught.value.reason == "output_withheld"
    assert len(enclave.charged) == 1


def test_an_enclave_that_withholds_what_it_shows_is_asked_once_more_only(client: Client, enclave: FakeEnclave) -> None:
    """It says no and shows the same outputs as before: that is its answer."""
    refusals = [ForbiddenError("no", reason="output_withheld") for _ in range(2)]
    enclave.refusals += refusals
    with pytest.raises(ForbiddenError):
        client.infer("doubler", [[1, 2]])
    assert len(enclave.refusals) == 1


def test_models_are_described_as_they_are_now(client: Client, enclave: FakeEnclave) -> None:
    """Also when they were described before."""
    assert [spec.name for spec in client.models()[0].outputs] == ["y", "n"]
    withhold(enclave, "n")
    assert [spec.name for spec in client.models()[0].outputs] == ["y"]
