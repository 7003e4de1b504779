"""Real documents from public repositories; they are not in this repository (`AIGOVTOOL_EVIDENCE_DIR` names them)."""

import os
import random
from base64 import b64decode
from datetime import datetime
from pathlib import Path

import pytest

from aigovtool.attestation.examination import Examined, StepOutcome
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.nitro.verify import NitroVerifier

FOLDER = os.environ.get("AIGOVTOOL_EVIDENCE_DIR")
pytestmark = pytest.mark.skipif(
    FOLDER is None,
    reason="AIGOVTOOL_EVIDENCE_DIR is not set: no real AWS Nitro document was verified",
)
GENUINE = "blocky_nitro_attestation.b64"
DEBUG = "blocky_nitro_attestation_debug.b64"
SELF_SIGNED = "blocky_selfsigned_attestation.b64"
OLD_DEBUG = "evervault_beta_debug-mode-attestation-doc-bytes"


def document(name: str) -> bytes:
    data = (Path(FOLDER or "") / "nitro" / name).read_bytes()
    return b64decode(data) if name.endswith(".b64") else data


def examine(data: bytes, time: str) -> Examined:
    now_ms = int(datetime.fromisoformat(time).timestamp() * 1000)
    return NitroVerifier().examine(Evidence(tee=TeeType.NITRO, data=data), now_ms)


def failures(examined: Examined) -> dict[str, str]:
    return {step.name: step.reason for step in examined.steps if step.outcome is StepOutcome.FAILED}


def test_a_real_document_is_genuine() -> None:
    """Chain to AWS' root and signature hold; all three claims have their largest size, 1,024 bytes."""
    found = examine(document(GENUINE), "2024-09-07T14:37:39Z").genuine()
    pcrs = {str(one.name): one.digest for one in found.measurements}
    assert set(pcrs) == {f"pcr{index}" for index in range(16)}
    assert (
        pcrs["pcr0"]
        == "e72a46ca80a260fb044a125442f0c7e331813bcbaf9724d9f3857758992766f2d65710a27aa94ae3949dd54e7c9fe86a"
    )
    assert (pcrs["pcr1"][:8], pcrs["pcr1"][-4:]) == ("0343b056", "c6aa")
    assert (pcrs["pcr2"][:8], pcrs["pcr2"][-4:]) == ("d5dcbdea", "b75c")
    assert found.debug is False
    assert found.report_data == bytes(64)
    assert found.also_bound == ()
    assert {fact.name: fact.value[:10] for fact in found.facts} == {
        "module_id": "i-0a22e5c5",
        "digest": "SHA384",
        "user_data": "1024 bytes",
        "nonce": "1024 bytes",
        "public_key": "1024 bytes",
    }
    assert found.endorsed_until_ms == 1_725_730_659_000


def test_a_real_document_expires_with_its_leaf() -> None:
    """Valid from 14:37:36 to 17:37:39, and four hours later no more."""
    for time in ("2024-09-07T14:37:36Z", "2024-09-07T17:37:39Z"):
        assert failures(examine(document(GENUINE), time)) == {}
    assert failures(examine(document(GENUINE), "2024-09-07T18:37:39Z")) == {"validity": "expired"}
    assert failures(examine(document(GENUINE), "2024-09-07T14:37:35Z")) == {"validity": "not_yet_valid"}


@pytest.mark.parametrize(("name", "time"), [(DEBUG, "2024-09-07T14:38:06Z"), (OLD_DEBUG, "2022-10-12T13:50:06Z")])
def test_real_documents_of_debug_mode_are_genuine_and_say_so(name: str, time: str) -> None:
    """Debug mode is no failed step: appraisal refuses it."""
    found = examine(document(name), time).genuine()
    assert found.debug is True
    assert {one.digest for one in found.measurements[:3]} == {"00" * 48}


def test_a_self_signed_document_is_refused() -> None:
    """Its own signature holds, but its unprotected header and its bundle are null."""
    found = failures(examine(document(SELF_SIGNED), "2024-04-17T18:51:46Z"))
    assert found == {"headers": "envelope_headers", "document": "document_cabundle"}


@pytest.mark.parametrize(
    ("name", "time"),
    [(GENUINE, "2024-09-07T14:37:39Z"), (DEBUG, "2024-09-07T14:38:06Z"), (OLD_DEBUG, "2022-10-12T13:50:06Z")],
)
def test_a_changed_byte_of_a_real_document_is_refused(name: str, time: str) -> None:
    """A sample of bytes over the whole document, and all of those around the payload."""
    dice = random.Random(20261123)
    genuine = document(name)
    indices = {*range(12), *range(len(genuine) - 98, len(genuine)), *range(dice.randrange(19), len(genuine), 19)}
    for index in sorted(indices):
        changed = bytearray(genuine)
        changed[index] ^= dice.randrange(1, 256)
        assert failures(examine(bytes(changed), time)), f"byte {index}"
