"""What a gateway stands on ends while it runs, or has ended before: its credential, a result, a policy, keys."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.attacks.rotation import ROLES, Site, rotating
from tests.e2e.commandline import aigovtool
from tests.e2e.gateways import Gateway, connecting, told
from tests.e2e.party_files import private
from tests.e2e.twins import ANOTHER_BUILD, Replaceable, replaceable
from tests.e2e.world import BORROWER, MODEL, wait_for

from aigovtool.codec import encode
from aigovtool.consumer import Client
from aigovtool.consumer.connect.evidence_log import Event
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import UnauthenticatedError
from aigovtool.ids import ConsumerId
from aigovtool.ledger.entry import PartyRole
from aigovtool.protocol import commands
from aigovtool.protocol.party import ConsumerFile
from aigovtool.testing.fault_proxy import fault_proxy
from aigovtool.testing.simulated_tee.attester import measure
from aigovtool.testing.simulated_tee.verify import simulated_policy
from aigovtool.testing.simulated_tee.wiring import development_policy

BRIEF_MS = 12_000
OFTEN = ("--allow-simulated", "--verify-every", 5)
SELDOM = ("--allow-simulated", "--verify-every", 3600)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, digits_model: bytes) -> Iterator[Replaceable]:
    """A deployment behind an address that can be cut off."""
    with replaceable(tmp_path_factory.mktemp("lender") / "world", digits_model) as made:
        yield made


def consumer(site: Replaceable, name: str, *, valid_for_ms: int = 86_400_000) -> Path:
    """Enrol a consumer for so long, and return its file."""
    key = SigningKey.generate()
    added = site.world.command(
        commands.AddParty(
            role=PartyRole.CONSUMER, name=name, key=key.public.raw, borrower=BORROWER, valid_for_ms=valid_for_ms
        )
    )
    file = ConsumerFile(
        consumer=ConsumerId(name),
        borrower=BORROWER,
        custodian=site.world.operator.custodian,
        certificate=added.certificate or "",
        key=key.to_secret().reveal(),
        policy=development_policy(),
    )
    return private(site.world.directory / f"{name}.json", file)


def start(site: Replaceable, credential: Path, home: Path, *options: object, code: int) -> str:
    """Start a gateway that cannot start, and return what it says."""
    words = ("connect", "--enclave", site.url, "--credential", credential, "--home", home, "--listen", "127.0.0.1:0")
    return aigovtool(*words, "--allow-simulated", *options, code=code, timeout_s=60).stderr


def test_a_credential_that_ends_is_told_with_its_end_and_what_to_do(
    site: Replaceable, tmp_path: Path, body: bytes
) -> None:
    """While it runs and at a start, through the gateway and the library; the gateway does not say that it is ready."""
    credential = consumer(site, "brief", valid_for_ms=BRIEF_MS)
    picture = np.array(json.loads(body)["inputs"][0]["data"], np.float32).reshape(1, 64)
    client = Client.connect(site.url, credential, allow_simulated=True)
    with client, connecting(tmp_path, credential, site.url, options=SELDOM) as gateway:
        assert gateway.infer(body).status_code == 200
        wait_for(lambda: gateway.infer(body).status_code != 200, "the credential ends")
        ended = gateway.infer(body)
        assert (ended.status_code, ended.json()["reason"]) == (401, "credential_expired")
        assert "the certificate in your consumer file ended on 20" in ended.json()["fix"]
        assert not gateway.is_ready()
        gateway.wait_for_event(Event.UNREACHABLE, "credential_expired")
        assert "new consumer file" in gateway.enclave()["fix"]
        answered = len(gateway.receipts())
        with pytest.raises(UnauthenticatedError) as caught:
            client.infer(MODEL, picture)
        assert caught.value.reason == "credential_expired"
        assert "new consumer file" in (caught.value.fix or "")
    refused = start(site, credential, tmp_path / "another", code=4)
    for words in ("credential_expired", "the certificate in your consumer file ended on 20"):
        assert words in refused
    (row,) = [one for one in site.world.view("/v1/budgets")["budgets"] if one["key"]["scope"]["consumer"] is None]
    assert row["posted"] + row["pending"] >= answered


def test_a_result_that_gets_old_is_renewed_unnoticed_or_nothing_is_sent(
    site: Replaceable, tmp_path: Path, body: bytes
) -> None:
    """The policy lets a result be two seconds old: programs notice nothing, until what comes is not accepted."""
    credential, policy = consumer(site, "careful"), tmp_path / "policy.json"
    policy.write_bytes(encode(simulated_policy(measure(), version=3, max_attestation_age_ms=2_000)))
    with connecting(tmp_path, credential, site.url, options=(*SELDOM, "--policy", policy)) as gateway:
        first = gateway.enclave()["verified_at_ms"]
        assert gateway.infer(body).status_code == 200
        wait_for(lambda: not is_valid(gateway.enclave()), "the result is too old")
        assert gateway.infer(body).status_code == 200
        assert gateway.enclave()["verified_at_ms"] >= first + 2_000
        assert [line.event for line in gateway.told()] == [Event.VERIFIED]
        wait_for(lambda: not is_valid(gateway.enclave()), "the result is too old again")
        # The enclave would answer on the connection that is open; what it proves now is not accepted.
        site.world.measured.write_text(ANOTHER_BUILD)
        refused = gateway.infer(body)
        assert (refused.status_code, refused.json()["reason"]) == (403, "measurements")
        assert len(gateway.receipts()) == 2
        site.world.measured.write_text(measure())
        wait_for(lambda: gateway.infer(body).status_code == 200, "it serves again")


def is_valid(enclave: dict[str, int]) -> bool:
    """Return whether a result is still valid by the gateway's own words."""
    return time.time() * 1000 < enclave["valid_until_ms"]


def test_a_policy_that_was_withdrawn_does_not_come_back(site: Replaceable, tmp_path: Path) -> None:
    """A policy has no end of its own: a newer one ends it, for this home. The refusal says what to use."""
    credential, policy = consumer(site, "orderly"), tmp_path / "policy.json"
    newer = msgspec.structs.replace(development_policy(), version=5)
    policy.write_bytes(encode(newer))
    with connecting(tmp_path, credential, site.url, options=(*SELDOM, "--policy", policy)) as gateway:
        assert gateway.is_ready()
    assert [line.event for line in told(gateway.home)] == [Event.VERIFIED]
    refused = start(site, credential, gateway.home, code=5)
    for words in ("policy_rollback", "version 5 was seen already", "ask for it"):
        assert words in refused


# -- The custodian's keys -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    """A deployment whose keys will be rotated, and what a thief has of it: all private keys of before."""
    with rotating(tmp_path_factory.mktemp("rotation")) as site:
        backup = site.world.directory / "then.db"
        aigovtool("custodian", "backup", backup, operator=site.operator)
        yield site, site.steal("stolen", backup)


def test_an_older_key_set_is_not_believed_by_who_has_seen_a_newer_one(
    rotated: tuple[Site, Path], tmp_path: Path, body: bytes
) -> None:
    """Attack: a thief of keys that were revoked lends an enclave the model. Refused while it serves, and at a start.

    Between the two the gateway is ended: what it has seen is in its home.
    """
    site, stolen = rotated
    with fault_proxy("127.0.0.1", site.world.enclave_port) as proxy:
        url = f"https://127.0.0.1:{proxy.port}"
        with site.lent_by_thief(stolen, site.consumer) as thief:
            with connecting(tmp_path, site.consumer, url, options=OFTEN) as gateway:
                first = gateway.told()[-1].seen
                assert first is not None
                revoked = rotate(site)
                assert gateway.infer(body).status_code == 200
                wait_for(lambda: newest_key_set(gateway) == revoked > first.key_set, "the new keys are seen")
                proxy.lead_to(int(thief.rpartition(":")[2]))
                proxy.cut()
                refused = gateway.infer(body)
                assert (refused.status_code, refused.json()["code"]) == (403, "bad_signature")
                assert refused.json()["reason"] == "key_set_rollback"
                assert "revoked" in refused.json()["fix"]
                gateway.wait_for_event(Event.REFUSED, "key_set_rollback")
                assert not gateway.is_ready()
            words = ("connect", "--enclave", url, "--credential", site.consumer, "--listen", "127.0.0.1:0")
            again = aigovtool(*words, "--home", gateway.home, "--allow-simulated", code=5, timeout_s=60)
            assert "key_set_rollback" in again.stderr
        proxy.lead_to(site.world.enclave_port)
        with connecting(tmp_path, site.consumer, url, options=OFTEN) as gateway:
            assert gateway.infer(body).status_code == 200


def rotate(site: Site) -> int:
    """Have a new key for commands be used, and revoke the old one; return the version of the key set then."""
    old = site.in_use()
    site.wait_until_enclave_knows(site.keys("rotate", "--key", ROLES[0])["version"])
    site.keys("use", "--key", ROLES[0])
    version: int = site.keys("revoke", old[ROLES[0]])["version"]
    site.wait_until_enclave_knows(version)
    return version


def newest_key_set(gateway: Gateway) -> int:
    """Return the newest key set in the log."""
    return max(line.seen.key_set for line in gateway.told() if line.seen is not None)
