"""The custodian's own keys are rotated and revoked while it is used: nobody is refused, and a thief's copies are void.

Real processes, and the verbs as an operator types them. A thief has a copy of all private keys from before.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import numpy as np
import pytest
from tests.attacks.rotation import ROLES, THIEF, Site, Traffic, rotating
from tests.e2e.commandline import aigovtool
from tests.e2e.model import one_digit
from tests.e2e.world import CONSUMER, MODEL, Connection, free_port, wait_for
from tests.observations import Observed

from aigovtool.codec import decode, encode
from aigovtool.consumer.client import Client
from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.keyfile import read_secret_file, read_signing_key
from aigovtool.crypto.sign import Envelope, SigningKey
from aigovtool.crypto.wrap import WrapKey
from aigovtool.crypto.x509 import from_pem, issue_client_certificate
from aigovtool.custodian.store.records import Model
from aigovtool.errors import SignatureInvalidError
from aigovtool.ledger.checkpoint import parse_checkpoint, sign_checkpoint
from aigovtool.ledger.entry import Entry, KeySetPublished
from aigovtool.operator.audit_file import AuditHeader
from aigovtool.protocol.release import deposit_context
from aigovtool.protocol.trust import KeySet
from aigovtool.transport.tls import client_context, unverified_context_for_attestation_only

pytestmark = [pytest.mark.fault(28)]
#: TLS 1.3 lets a client believe that it is connected, until it reads that its certificate was refused, or the end.
NO_HANDSHAKE = r"(?i)unknown ca|alert|reset|EOF|closed connection"


@dataclass
class Rotated:
    """A deployment in which every key was rotated and the old one revoked, and what was kept from before."""

    site: Site
    stolen: Path
    #: The consumer's file, with a certificate of the old authority.
    consumer: Path
    receipt: Path
    checkpoint: Path
    export: Path
    failures: list[str] = field(default_factory=list)
    answered: int = 0
    attested: int = 0
    instances: tuple[str, str] = ("", "")
    #: What a certificate got that the thief made, before the rotation.
    forged_before: int = 0


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotated]:
    """Rotate all keys under traffic: announced, then used, then the old ones revoked."""
    with rotating(tmp_path_factory.mktemp("rotation")) as site:
        made = before(site)
        traffic = Traffic(site, one_digit())
        try:
            rotate_all(made, traffic)
            traffic.go_on(40)
        finally:
            traffic.end()
        made.failures, made.answered, made.attested = traffic.failures, traffic.answered, traffic.attested
        made.instances = (made.instances[0], site.world.instance())
        yield made


def before(site: Site) -> Rotated:
    """Keep what is to be good afterwards, and steal what is not to be."""
    place = site.world.directory
    aigovtool("custodian", "backup", place / "then.db", operator=site.operator)
    made = Rotated(
        site=site,
        stolen=site.steal("stolen", place / "then.db"),
        consumer=place / "before.json",
        receipt=place / "before.receipt",
        checkpoint=place / "before.note",
        export=place / "before.jsonl",
        instances=(site.world.instance(), ""),
    )
    with Client.connect(site.url, site.consumer, allow_simulated=True) as client:
        client.infer(MODEL, {"X": np.zeros((1, 64), np.float32)}).save_receipt(made.receipt)
    aigovtool("audit", "checkpoint", "-o", made.checkpoint, "--party", site.operator)
    aigovtool("audit", "export", "-o", made.export, operator=site.operator)
    shutil.copy2(site.consumer, made.consumer)
    connection = forged(made)
    made.forged_before = connection.infer(one_digit()).status
    connection.close()
    return made


def rotate_all(made: Rotated, traffic: Traffic) -> None:
    """Announce, use and revoke a key of every role."""
    site = made.site
    old = site.in_use()
    versions = [site.keys("rotate", "--key", role)["version"] for role in ROLES]
    site.wait_until_enclave_knows(versions[-1])
    for role in ROLES:
        site.keys("use", "--key", role)
    wait_for(lambda: not (site.custodian / "keys" / "keystore.old.key").exists(), "model keys are wrapped anew")
    site.renew_files()
    traffic.use_renewed()
    traffic.go_on(40)
    versions = [site.keys("revoke", old[role])["version"] for role in ROLES if role != "keystore"]
    site.wait_until_enclave_knows(versions[-1])


def stolen_key(made: Rotated, role: str) -> SigningKey:
    """Return a private key as the thief has it."""
    return read_signing_key(made.stolen / "keys" / f"{role}.key")


def forged_credential(made: Rotated) -> tuple[bytes, SigningKey]:
    """Return a certificate of the consumer's name for the thief's own key, by the stolen authority."""
    key, world = SigningKey.generate(), made.site.world
    envelope = decode((made.stolen / "keys" / "key-set.json").read_bytes(), Envelope)
    genuine = 1_700_000_000_000
    certificate = issue_client_certificate(
        stolen_key(made, "credentials"),
        decode(envelope.payload, KeySet).credentials[0],
        key.public,
        IdentityKind.CONSUMER,
        CONSUMER,
        not_before_ms=genuine,
        not_after_ms=genuine + 10**12,
    )
    assert world.consumer_key.public != key.public
    return certificate, key


def forged(made: Rotated) -> Connection:
    """Return a connection to the enclave under the forged certificate."""
    certificate, key = forged_credential(made)
    context = unverified_context_for_attestation_only(credential=[certificate], key=key)
    return Connection(made.site.world.enclave_port, context)


def test_every_key_is_rotated_under_traffic_and_no_request_fails(rotated: Rotated, observed: Observed) -> None:
    """Consumers, on old connections and attesting anew, and an operator notice nothing; no enclave booted again."""
    assert rotated.failures == []
    assert rotated.answered > 100
    assert rotated.attested > 20
    assert rotated.instances[0] == rotated.instances[1]
    entries = [decode(raw, Entry).body for raw in rotated.site.world.log_entries()]
    published = [body.version for body in entries if isinstance(body, KeySetPublished)]
    assert published[:1] == [1]
    assert published == sorted(set(published))
    assert published[-1] >= 1 + len(ROLES) + len(ROLES) - 1
    observed.figure("requests answered while five keys were rotated", rotated.answered)
    observed.figure("attestations meanwhile", rotated.attested)
    observed.figure("failed requests", len(rotated.failures))
    observed.entry("key_set_published")


def test_what_was_kept_before_is_good_after(rotated: Rotated) -> None:
    """A receipt, an export and a checkpoint of the old log key, which the log of the new one extends."""
    site, place = rotated.site, rotated.site.world.directory
    aigovtool("receipt", "verify", rotated.receipt, "--credential", site.consumer, "--allow-simulated")
    aigovtool("audit", "verify", rotated.export, operator=site.operator)
    aigovtool("audit", "compare", rotated.checkpoint, "--party", site.operator)
    now = place / "after.jsonl"
    aigovtool("audit", "export", "-o", now, operator=site.operator)
    aigovtool("audit", "verify", now, "--seen", rotated.checkpoint, operator=site.operator)
    now.unlink()


def test_a_stolen_log_key_signs_no_log(rotated: Rotated, observed: Observed) -> None:
    """A log that ends earlier, signed with the old key: refused under the new key set, and the old set with it."""
    site, place = rotated.site, rotated.site.world.directory
    copy, forgery = place / "copy.jsonl", place / "forgery.jsonl"
    aigovtool("audit", "export", "-o", copy, operator=site.operator)
    header, *lines = copy.read_bytes().splitlines(keepends=True)
    told = decode(header, AuditHeader)
    note = sign_checkpoint(parse_checkpoint(told.checkpoint), stolen_key(rotated, "log"))
    forgery.write_bytes(
        encode(AuditHeader(format=told.format, checkpoint=note, key_set=told.key_set)) + b"\n" + b"".join(lines)
    )
    assert "why:   checkpoint" in aigovtool("audit", "verify", forgery, operator=site.operator, code=5).stderr
    version = site.keys("list")["version"]
    given = ("audit", "verify", rotated.export, "--key-set", version)
    refused = aigovtool(*given, operator=site.operator, code=5)
    assert "key_set_rollback" in refused.stderr
    observed.refusal({"code": "log_invalid", "reason": "checkpoint"})
    observed.refusal({"code": "bad_signature", "reason": "key_set_rollback"})


def test_a_stolen_credentials_key_opens_no_door(rotated: Rotated, observed: Observed) -> None:
    """A certificate in a consumer's name was taken by the enclave before; now nobody shakes hands."""
    assert rotated.forged_before == 200
    connection = forged(rotated)
    with pytest.raises(OSError, match=NO_HANDSHAKE):
        connection.infer(one_digit())
    connection.close()
    certificate, key = forged_credential(rotated)
    custodian = rotated.site.world.operator.custodian
    context = client_context(from_pem(custodian.tls_ca.encode()), credential=[certificate], key=key)
    connection = Connection(rotated.site.world.custodian_port, context)
    with pytest.raises(OSError, match=NO_HANDSHAKE):
        connection.request("GET", "/v1/self")
    connection.close()
    observed.figure("forged certificates that got a connection afterwards", 0)


def test_a_stolen_keystore_key_opens_nothing_that_is_kept_now(rotated: Rotated) -> None:
    """The ledger holds model keys under the new keystore key alone, and the old private key is gone."""
    site = rotated.site
    backup = site.world.directory / "backup.db"
    aigovtool("custodian", "backup", backup, operator=site.operator)
    with closing(sqlite3.connect(backup)) as ledger:
        (body,) = ledger.execute("SELECT body FROM models").fetchone()
    backup.unlink()
    model = decode(body, Model)
    context = deposit_context(site.world.custodian_id, model.manifest_digest)
    old = WrapKey.from_secret(read_secret_file(rotated.stolen / "keys" / "keystore.key"))
    with pytest.raises(SignatureInvalidError):
        old.unwrap(model.wrapped_key, context)
    now = WrapKey.from_secret(read_secret_file(site.custodian / "keys" / "keystore.key"))
    now.unwrap(model.wrapped_key, context).wipe()
    kept = [path.read_bytes() for path in (site.custodian / "keys").iterdir()]
    for role in ROLES:
        assert (rotated.stolen / "keys" / f"{role}.key").read_bytes() not in kept


def test_a_thief_of_all_keys_rules_no_enclave(rotated: Rotated, observed: Observed) -> None:
    """In the custodian's place, with its address, TLS key and ledger: a running enclave refuses what it signs."""
    site, world = rotated.site, rotated.site.world
    thief = world.directory / "thief"
    since = len(site.lines("enclave", "renew_failed"))
    world.kill("custodian")
    shutil.copytree(rotated.stolen, thief)
    for path in site.custodian.glob("ledger.db*"):
        shutil.copy2(path, thief / path.name)
    try:
        site.serve(thief, THIEF)
        wait_for(lambda: ("bad_signature", "wrong_key") in why(site, since), "the thief's answer is refused")
        assert why(site, since) <= {("bad_signature", "wrong_key"), ("unreachable", "custodian")}
        observed.refusal({"code": "bad_signature", "reason": "wrong_key"})
    finally:
        world.kill("custodian")
        shutil.rmtree(thief)
        site.serve(site.custodian)
    # It may have lost its authority meanwhile: nobody renewed it. What it gets from its own custodian it takes again.
    wait_for(lambda: is_answered(site), "the enclave serves on, for its own custodian")


def is_answered(site: Site) -> bool:
    """Return whether the consumer gets an answer on a new connection."""
    try:
        return site.world.connect().infer(one_digit()).status == 200
    except (OSError, HTTPException):
        return False


def why(site: Site, since: int) -> set[tuple[str, str]]:
    """Return why renewals of the enclave failed, code and reason."""
    return {(line["code"], line["reason"]) for line in site.lines("enclave", "renew_failed")[since:]}


def test_an_enclave_that_believes_stolen_keys_is_refused_by_who_has_seen_the_new_set(
    rotated: Rotated, observed: Observed
) -> None:
    """The thief lends the model as it was when he stole: an enclave that boots from nothing believes him."""
    site, known = rotated.site, rotated.site.keys("list")["version"]
    with site.lent_by_thief(rotated.stolen, rotated.consumer) as url:
        with Client.connect(url, rotated.consumer, allow_simulated=True) as client:
            assert client.key_set_version == 1
        with pytest.raises(SignatureInvalidError) as caught:
            Client.connect(url, rotated.consumer, allow_simulated=True, key_set_at_least=known)
    assert caught.value.reason == "key_set_rollback"
    observed.refusal(caught.value)


def test_older_keys_are_not_served_again(rotated: Rotated, observed: Observed) -> None:
    """Somebody puts the keys of before back, beside the ledger of now: no custodian starts with them."""
    site = rotated.site
    old = rotated.site.world.directory / "older"
    shutil.copytree(site.custodian, old)
    try:
        shutil.rmtree(old / "keys")
        shutil.copytree(rotated.stolen / "keys", old / "keys")
        refused = aigovtool("custodian", "serve", old, "--listen", f"127.0.0.1:{free_port()}", code=2)
        assert "key_set_rollback" in refused.stderr
        observed.refusal({"code": "configuration", "reason": "key_set_rollback"})
    finally:
        shutil.rmtree(old)


def test_a_stolen_key_in_use_is_revoked_at_once_and_no_request_fails(rotated: Rotated) -> None:
    """One order: a new key, a set without the old one, and everybody who uses the deployment goes on."""
    site = rotated.site
    before_ = site.world.instance()
    traffic = Traffic(site, one_digit())
    try:
        traffic.go_on(10)
        stolen = site.in_use()
        versions = [site.keys("revoke", stolen[role])["version"] for role in ("commands", "log", "attestation")]
        site.wait_until_enclave_knows(versions[-1])
        traffic.go_on(60)
    finally:
        traffic.end()
    assert traffic.failures == []
    assert traffic.answered >= 70
    assert site.world.instance() == before_
    assert {one["state"] for one in site.keys("list")["keys"] if one["role"] == "commands"} == {"in_use"}
