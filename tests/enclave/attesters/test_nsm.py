"""Documents of the Nitro Secure Module through its driver's one ioctl, and on to the verifier."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from tests.attestation.tee.nitro import maker
from tests.enclave.attesters.stand_ins import SecureModule, claims, module_answer, open_files, refused

from aigovtool.attestation.attester import Attester
from aigovtool.attestation.binding import Expectation, require_bound
from aigovtool.attestation.model import TeeType, Unchecked
from aigovtool.attestation.tee.nitro.verify import NitroVerifier
from aigovtool.enclave.attesters.nsm import ERRORS, NsmAttester
from aigovtool.errors import ConfigurationError, EvidenceError


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "nsm"
    path.touch()
    return path


def reason(device: Path, module: SecureModule) -> str | None:
    """Return why there is no evidence; no descriptor stays open."""
    before = open_files()
    with pytest.raises((EvidenceError, ConfigurationError)) as caught:
        NsmAttester(device=device, ioctl=module.ioctl).attest(claims())
    assert open_files() == before
    return caught.value.reason


def test_a_document_is_asked_for_as_the_driver_and_the_module_say(device: Path) -> None:
    """One ioctl with the documented number; a request that a library reads, in the module's words."""
    module = SecureModule()
    port: Attester = NsmAttester(device=device, ioctl=module.ioctl)
    evidence = port.attest(claims())
    assert port.tee is TeeType.NITRO
    assert (evidence.tee, evidence.endorsements) == (TeeType.NITRO, ())
    assert module.commands == [0xC0200A00]
    asked = {
        "Attestation": {
            "user_data": claims().report_data(),
            "nonce": bytes.fromhex(claims().nonce),
            "public_key": claims().hpke_key,
        }
    }
    assert module.requests == [cbor2.dumps(asked)]


def test_what_the_attester_gives_is_what_the_verifier_takes(device: Path) -> None:
    """From claims to evidence, to verified evidence, and back to the claims that it is bound to."""
    said = claims()
    evidence = NsmAttester(device=device, ioctl=SecureModule().ioctl).attest(said)
    found = NitroVerifier(roots=maker.roots()).examine(evidence, maker.NOW_MS).genuine()
    free = Unchecked(reason="test")
    expected = Expectation(
        role="session",
        audience=said.audience,
        nonce=said.nonce,
        tls_spki=said.tls_spki,
        instance=free,
        custodian_root=free,
        configuration=free,
        appraisal_policy=free,
        manifests=free,
    )
    require_bound(said, found.report_data, expected, found.also_bound)
    assert [name for name, _ in found.also_bound] == ["nonce", "hpke_key"]
    assert {fact.name for fact in found.facts} == {"module_id", "digest"}
    with pytest.raises(EvidenceError) as caught:
        require_bound(claims(instance="56" * 32), found.report_data, expected, found.also_bound)
    assert caught.value.reason == "channel_binding"


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_an_error_of_the_module_is_told_by_its_name(device: Path, name: str) -> None:
    """The module's errors are typed."""
    module = SecureModule(answer=lambda request: cbor2.dumps({"Error": name}))
    with pytest.raises(EvidenceError, match=name) as caught:
        NsmAttester(device=device, ioctl=module.ioctl).attest(claims())
    assert caught.value.reason == "attester_refused"


def test_an_unknown_error_of_the_module_is_not_repeated(device: Path) -> None:
    """What a module of the future says may be anything; it does not get into our messages."""
    module = SecureModule(answer=lambda request: cbor2.dumps({"Error": "\x1b[2J"}))
    with pytest.raises(EvidenceError) as caught:
        NsmAttester(device=device, ioctl=module.ioctl).attest(claims())
    assert caught.value.reason == "attester_refused"
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(cbor2.dumps("Attestation"), id="text"),
        pytest.param(cbor2.dumps({}), id="empty"),
        pytest.param(cbor2.dumps({"Attestation": None}), id="null"),
        pytest.param(cbor2.dumps({"Attestation": {}}), id="no document"),
        pytest.param(cbor2.dumps({"Attestation": {"document": b""}}), id="empty document"),
        pytest.param(cbor2.dumps({"Attestation": {"document": "x"}}), id="text document"),
        pytest.param(cbor2.dumps({"Error": 1}), id="error number"),
        pytest.param(cbor2.dumps({"Error": "InternalError", "y": 1}), id="more than an error"),
        pytest.param(cbor2.dumps({"GetRandom": {"random": b"x"}}), id="another response"),
        pytest.param(cbor2.dumps({"Attestation": {"document": b"x"}}) + b"\x00", id="trailing byte"),
        pytest.param(cbor2.dumps({"Attestation": {"document": b"not a document"}}), id="no COSE"),
        pytest.param(cbor2.dumps({"Attestation": {"document": bytes(0x3000)}}), id="cut to the buffer"),
        pytest.param(b"\xff" * 0x4000, id="garbage"),
    ],
)
def test_any_other_response_is_refused(device: Path, answer: bytes) -> None:
    """A response is a document or an error, and nothing beside it."""
    assert reason(device, SecureModule(answer=lambda request: answer)) == "attester_answer"


@pytest.mark.parametrize("inside", [True, False])
def test_a_good_document_with_something_beside_it_is_refused(device: Path, inside: bool) -> None:  # noqa: FBT001
    """What a module of the future adds may change what the rest means."""

    def answer(request: Any) -> bytes:
        response = cbor2.loads(module_answer(request))
        (response["Attestation"] if inside else response)["warning"] = 1
        return cbor2.dumps(response)

    assert reason(device, SecureModule(answer=answer)) == "attester_answer"


def other_claims(**other: Any) -> Callable[[Any], bytes]:
    def answer(request: Any) -> bytes:
        request["Attestation"].update(other)
        return module_answer(request)

    return answer


@pytest.mark.parametrize("other", [{"user_data": bytes(64)}, {"nonce": None}, {"public_key": bytes(32)}], ids=str)
def test_a_document_about_other_claims_is_refused(device: Path, other: dict[str, Any]) -> None:
    """What was asked for must be what came, before it is sent to anybody."""
    assert reason(device, SecureModule(answer=other_claims(**other))) == "attester_other_report"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EMSGSIZE, "attester_too_large"),
        (errno.ETIMEDOUT, "attester_failed"),
        (errno.EIO, "attester_failed"),
        (errno.ENODATA, "attester_failed"),
        (errno.EINVAL, "attester_failed"),
        (errno.EBUSY, "attester_busy"),
        (errno.EACCES, "attester_permission"),
    ],
)
def test_each_error_of_the_driver_has_its_reason(device: Path, number: int, expected: str) -> None:
    """The kernel gives up on the module after two minutes by itself; nothing is asked twice."""
    module = SecureModule(error=number)
    assert reason(device, module) == expected
    assert len(module.commands) == 1


def test_a_driver_that_claims_more_than_its_buffer_is_not_believed(device: Path) -> None:
    """No byte beyond the response buffer is read."""

    class Liar(SecureModule):
        def ioctl(self, file: int, command: int, argument: bytearray) -> int:
            super().ioctl(file, command, argument)
            argument[24:] = (0x3001).to_bytes(8, "little")
            return 0

    with pytest.raises(EvidenceError, match="beyond its buffer") as caught:
        NsmAttester(device=device, ioctl=Liar().ioctl).attest(claims())
    assert caught.value.reason == "attester_answer"


def test_a_machine_without_the_device_is_told_so(tmp_path: Path) -> None:
    """Absent and forbidden are matters of configuration."""
    assert reason(tmp_path / "nsm", SecureModule()) == "attester_absent"

    def forbidden(path: Path) -> int:
        raise refused(errno.EACCES, path)

    with pytest.raises(ConfigurationError) as caught:
        NsmAttester(open_device=forbidden).attest(claims())
    assert caught.value.reason == "attester_permission"


def test_the_real_ioctl_refuses_what_is_no_such_device(device: Path) -> None:
    """Without stand-ins: the number and the argument pass through `fcntl.ioctl`, and a plain file says ENOTTY."""
    with pytest.raises(EvidenceError, match="ioctl") as caught:
        NsmAttester(device=device).attest(claims())
    assert caught.value.reason == "attester_failed"
