"""Key release: a wrapped key opens in one context only, and boot messages stay within their domain."""

import itertools

import pytest

from aigovtool.attestation.model import ActivationCredential, ActivationKeys
from aigovtool.codec import decode, encode
from aigovtool.errors import InvalidValueError
from aigovtool.ids import BorrowerId, Digest, InstanceId, KeyId, ModelId, Nonce
from aigovtool.protocol.release import (
    MAX_MODELS,
    Challenge,
    ChallengeRequest,
    boot_audience,
    deposit_context,
    release_context,
    session_audience,
)

CUSTODIANS = [KeyId("c" * 64), KeyId("d" * 64)]
INSTANCES = [InstanceId("a" * 64), InstanceId("b" * 64)]
MODELS = [ModelId("digits"), ModelId("letters")]
MANIFESTS = [Digest("sha256:" + "1" * 64), Digest("sha256:" + "2" * 64)]
POLICIES = [Digest("sha256:" + "3" * 64), Digest("sha256:" + "4" * 64)]


def test_every_part_of_a_release_is_in_its_context() -> None:
    """Another custodian, instance, model, manifest or policy is another context, in which the key does not open."""
    parts = list(itertools.product(CUSTODIANS, INSTANCES, MODELS, MANIFESTS, POLICIES))
    assert len({release_context(*each) for each in parts}) == len(parts)


def test_a_deposit_is_never_a_release() -> None:
    """What a sealer wraps for its custodian has a context of its own, one per custodian and manifest."""
    deposits = {deposit_context(*each) for each in itertools.product(CUSTODIANS, MANIFESTS)}
    releases = {
        release_context(*each) for each in itertools.product(CUSTODIANS, INSTANCES, MODELS, MANIFESTS, POLICIES)
    }
    assert len(deposits) == 4
    assert not deposits & releases


def test_the_release_context_is_as_specified() -> None:
    """A second implementation can make the same bytes."""
    assert release_context(CUSTODIANS[0], INSTANCES[0], MODELS[0], MANIFESTS[0], POLICIES[0]) == (
        b'{"label":"aigovtool model key v2","custodian":"%b","instance":"%b","model":"digits","manifest":"sha256:%b",'
        b'"policy":"sha256:%b"}' % (b"c" * 64, b"a" * 64, b"1" * 64, b"3" * 64)
    )


def test_evidence_for_one_audience_is_not_for_another() -> None:
    """Boot evidence names its custodian and session evidence its consumer, in words that cannot coincide."""
    assert boot_audience(CUSTODIANS[0]) == f"custodian:{CUSTODIANS[0]}"
    assert session_audience("anna") == "consumer:anna"
    assert session_audience(CUSTODIANS[0]) != boot_audience(CUSTODIANS[0])


@pytest.mark.parametrize(
    "models", [[], ["digits"] * (MAX_MODELS + 1), ["Digits"], ["../digits"], "digits"], ids=range(5)
)
def test_a_boot_names_some_models_and_not_too_many(models: object) -> None:
    """No model, more than 64, and what is no name are refused before anything is looked up."""
    assert decode(encode({"borrower": "north", "models": ["digits"]}), ChallengeRequest).models == ["digits"]
    with pytest.raises(InvalidValueError):
        decode(encode({"borrower": "north", "models": models}), ChallengeRequest)


def test_messages_without_keys_to_activate_are_what_they_were() -> None:
    """A platform whose key is certified sends and gets the bytes of the versions before there was activation."""
    assert encode(ChallengeRequest(borrower=BorrowerId("north"), models=[ModelId("digits")])) == (
        b'{"borrower":"north","models":["digits"]}'
    )
    challenge = Challenge(
        custodian=CUSTODIANS[0],
        nonce=Nonce("0" * 64),
        borrower=BorrowerId("north"),
        appraisal_policy=MANIFESTS[0],
        expires_at_ms=2,
        server_time_ms=1,
    )
    assert encode(challenge).endswith(b'"expires_at_ms":2,"server_time_ms":1}')


@pytest.mark.parametrize(
    ("certificate", "key"), [(0, 1), (16 << 10 | 1, 1), (1, 0), (1, 2049)], ids=["none", "large", "no key", "large key"]
)
def test_keys_to_activate_are_bounded(certificate: int, key: int) -> None:
    """A certificate has at most 16 KiB and a public area 2 KiB, and neither is empty; nor are credentials larger."""
    fine = ActivationKeys(ek_certificate=bytes(16 << 10), ak_public=bytes(2048))
    assert decode(encode(fine), ActivationKeys) == fine
    with pytest.raises(InvalidValueError):
        decode(encode(ActivationKeys(ek_certificate=bytes(certificate), ak_public=bytes(key))), ActivationKeys)
    with pytest.raises(InvalidValueError):
        decode(encode(ActivationCredential(blob=bytes(1025), secret=b"")), ActivationCredential)
