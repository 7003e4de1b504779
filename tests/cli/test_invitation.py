"""Who is invited compares one thing, and what was changed on the way shows in it."""

from pathlib import Path

import msgspec
import pytest
from tests.cli.conftest import Place

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.x509 import new_authority, to_pem
from aigovtool.protocol.party import Invitation


def another_authority() -> str:
    return to_pem(new_authority(SigningKey.generate(), "custodian", not_before_ms=0, not_after_ms=10**13)).decode()


def test_everybody_who_has_the_custodian_sees_the_same_fingerprint(place: Place, tmp_path: Path) -> None:
    """Its directory, an operator's file, the invitation, and the newcomer: in words, too."""
    shown = place.document("custodian", "show", str(place.directory / "custodian"))["fingerprint"]
    file, waiting = str(tmp_path / "invitation.json"), str(tmp_path / "carol.json")
    assert place.document("custodian", "show", str(place.operator))["fingerprint"] == shown
    assert place.document("operator", "invitation", "-o", file)["fingerprint"] == shown
    requested = place.run("operator", "request", "carol", "--invitation", file, "-o", waiting)
    assert shown in requested.output
    assert shown in place.run("custodian", "show", waiting).output


@pytest.mark.parametrize(
    "changed", [{"url": "https://localhost:1"}, {"tls_ca": another_authority()}], ids=["address", "authority"]
)
def test_an_invitation_that_leads_to_somebody_else_has_another_fingerprint(
    place: Place, tmp_path: Path, changed: dict[str, str]
) -> None:
    """The root key and what it signed are as they were, and who stands in between shows what they like.

    Attack: the first operator, or whoever carries the invitation, has the second one see another custodian's views.
    """
    sent, forged = tmp_path / "invitation.json", tmp_path / "forged.json"
    true = place.document("operator", "invitation", "-o", str(sent))["fingerprint"]
    invitation = decode(sent.read_bytes(), Invitation)
    custodian = msgspec.structs.replace(invitation.custodian, **changed)
    forged.write_bytes(encode(msgspec.structs.replace(invitation, custodian=custodian)))
    words = ("operator", "request", "carol", "--invitation", str(forged), "-o", str(tmp_path / "carol.json"))
    requested = place.document(*words)
    assert requested["fingerprint"] != true
    assert requested["custodian"] == custodian.url
