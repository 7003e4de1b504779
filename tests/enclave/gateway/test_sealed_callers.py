"""Who a sealed request is from: certificates, signatures, time, and that each is taken once."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest
from msgspec import structs

from aigovtool import limits
from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.crypto.sign import Envelope, SigningKey, seal
from aigovtool.crypto.x509 import issue_client_certificate, new_authority
from aigovtool.enclave.boot import Instance
from aigovtool.enclave.gateway.sealed_callers import SealedCallers
from aigovtool.errors import AIGovToolError, StoppedError
from aigovtool.ids import ConsumerId, InstanceId, Nonce
from aigovtool.limits import RESULT_RETENTION_MS
from aigovtool.protocol import sealed
from aigovtool.protocol.sealed import SealedChallenge, SealedRequest, StatedChallenge

NOW_MS = time.time_ns() // 1_000_000
DAY_MS = 86_400_000
HERE = InstanceId("11" * 32)
AUTHORITY_KEY = SigningKey.generate()
AUTHORITY = new_authority(AUTHORITY_KEY, "credentials", not_before_ms=0, not_after_ms=NOW_MS + 99 * DAY_MS)
#: Of the same name, as anybody can make one.
FALSE_KEY = SigningKey.generate()
FALSE = new_authority(FALSE_KEY, "credentials", not_before_ms=0, not_after_ms=NOW_MS + 99 * DAY_MS)


@dataclass
class Party:
    """Somebody with a key and a certificate for it."""

    name: str = "ward7"
    kind: IdentityKind = IdentityKind.CONSUMER
    issuer: tuple[SigningKey, bytes] = (AUTHORITY_KEY, AUTHORITY)
    from_ms: int = NOW_MS - DAY_MS
    until_ms: int = NOW_MS + DAY_MS
    key: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def certificate(self) -> bytes:
        """Return a certificate in DER."""
        return issue_client_certificate(
            *self.issuer, self.key.public, self.kind, self.name, not_before_ms=self.from_ms, not_after_ms=self.until_ms
        )

    def request(self, at_ms: int = NOW_MS, instance: InstanceId = HERE, kind: str = sealed.REQUEST) -> Envelope:
        """Return a signed request."""
        asked = SealedRequest(
            instance=instance, secret=bytes(32), method="GET", path="/v2", headers=[], body_bytes=0, at_ms=at_ms
        )
        return seal(kind, asked, self.key)

    def challenge(self, name: str | None = None, at_ms: int = NOW_MS) -> SealedChallenge:
        """Return a signed challenge."""
        stated = StatedChallenge(consumer=ConsumerId(name or self.name), nonce=Nonce("22" * 32), at_ms=at_ms)
        return SealedChallenge(credential=self.certificate, challenge=seal(sealed.CHALLENGE, stated, self.key))


@dataclass
class Here:
    """An instance whose clock, authorities and memory a test sets."""

    now_ms: int = NOW_MS
    authorities: list[bytes] = field(default_factory=lambda: [AUTHORITY])
    refused: AIGovToolError | None = None
    most: int = 100

    def callers(self) -> SealedCallers:
        """Return what this instance knows of callers."""
        clock = SimpleNamespace(now_ms=lambda: self.now_ms)
        key_set = SimpleNamespace(credentials=self.authorities)
        instance = SimpleNamespace(instance=HERE, clock=clock, key_set=key_set, custodian_time_ms=lambda: self.now_ms)
        return SealedCallers(cast("Instance", instance), self.authorize, self.most)

    def authorize(self, _identity: Identity) -> None:
        """Refuse if the test says so."""
        if self.refused is not None:
            raise self.refused


@pytest.fixture
def here() -> Here:
    """An instance at the custodian's time."""
    return Here()


def reason_of(act: Callable[[], object]) -> str | None:
    """Return why something is refused."""
    with pytest.raises(AIGovToolError) as caught:
        act()
    return caught.value.reason


def test_a_consumer_is_known_by_certificate_and_signature(here: Here) -> None:
    """Both ways of asking."""
    party, callers = Party(), here.callers()
    identity = callers.of_request(party.certificate, party.request(), b"\x01" * 32)
    assert (identity.kind, identity.name, identity.public_key) == (IdentityKind.CONSUMER, "ward7", party.key.public)
    assert callers.of_challenge(party.challenge()).nonce == "22" * 32


@pytest.mark.parametrize(
    ("party", "reason"),
    [
        (Party(issuer=(FALSE_KEY, FALSE)), "foreign_credential"),
        (Party(issuer=(FALSE_KEY, AUTHORITY)), "foreign_credential"),
        (Party(kind=IdentityKind.OPERATOR), "wrong_role"),
        (Party(kind=IdentityKind.BORROWER), "wrong_role"),
        (Party(until_ms=NOW_MS - 5_000), "credential_expired"),
        (Party(from_ms=NOW_MS + 5_000), "credential_not_yet_valid"),
    ],
    ids=["an authority of that name", "signed by another", "operator", "borrower", "expired", "not yet valid"],
)
def test_what_a_handshake_would_refuse_is_refused(party: Party, reason: str, here: Here) -> None:
    """A self-made authority of the right name above all."""
    callers = here.callers()
    assert reason_of(lambda: callers.of_request(party.certificate, party.request(), b"\x01" * 32)) == reason
    assert reason_of(lambda: callers.of_challenge(party.challenge())) == reason


@pytest.mark.parametrize("certificate", [b"", b"\x30\x00", AUTHORITY, bytes(2_000)])
def test_what_is_no_clients_certificate_is_refused(certificate: bytes, here: Here) -> None:
    """Also the authority's own."""
    reason = reason_of(lambda: here.callers().of_request(certificate, Party().request(), b"\x01" * 32))
    assert reason in {"foreign_credential", "bad_credential"}


def test_a_certificate_is_judged_anew_each_time_and_by_the_authorities_of_now(here: Here) -> None:
    """It is looked at once, but it expires, and its authority may be taken back."""
    party, callers = Party(), here.callers()
    callers.of_request(party.certificate, party.request(), b"\x01" * 32)
    here.authorities[:] = [FALSE]
    ask = lambda: callers.of_request(party.certificate, party.request(here.now_ms), b"\x02" * 32)  # noqa: E731
    assert reason_of(ask) == "foreign_credential"
    here.authorities[:] = [FALSE, AUTHORITY]
    callers.of_request(party.certificate, party.request(), b"\x03" * 32)
    here.now_ms = party.until_ms + 5_000
    assert reason_of(ask) == "credential_expired"


def test_only_so_many_certificates_are_remembered(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that are not are looked at once more."""
    monkeypatch.setattr(limits, "MAX_KNOWN_CREDENTIALS", 2)
    callers, parties = here.callers(), [Party(f"c{number}") for number in range(4)]
    certificates = [party.certificate for party in parties]
    for number in range(8):
        party, certificate = parties[number % 4], certificates[number % 4]
        assert callers.of_request(certificate, party.request(), bytes([number]) * 32).name == party.name
        assert len(callers._known) <= 2


def test_a_signature_is_the_certificates_and_of_its_kind(here: Here) -> None:
    """Not of another key, and not made for something else."""
    party, other, callers = Party(), Party(), here.callers()
    head = b"\x01" * 32
    assert reason_of(lambda: callers.of_request(party.certificate, other.request(), head)) == "wrong_key"
    kinds = party.request(kind=sealed.CHALLENGE)
    assert reason_of(lambda: callers.of_request(party.certificate, kinds, head)) == "wrong_kind"
    changed = structs.replace(party.request(), payload=party.request(at_ms=NOW_MS + 1).payload)
    assert reason_of(lambda: callers.of_request(party.certificate, changed, head)) is None
    elsewhere = party.request(instance=InstanceId("33" * 32))
    assert reason_of(lambda: callers.of_request(party.certificate, elsewhere, head)) == "sealed_for_another"
    assert reason_of(lambda: callers.of_challenge(party.challenge("ward8"))) == "wrong_consumer"


@pytest.mark.parametrize("off_ms", [-sealed.MAX_AGE_MS, 0, sealed.MAX_AGE_MS])
def test_a_clock_may_be_so_wrong(off_ms: int, here: Here) -> None:
    """And no more, in both directions."""
    party, callers = Party(), here.callers()
    callers.of_request(party.certificate, party.request(NOW_MS + off_ms), b"\x01" * 32)
    callers.of_challenge(party.challenge(at_ms=NOW_MS + off_ms))
    too_far = NOW_MS + (off_ms + 1 if off_ms > 0 else off_ms - sealed.MAX_AGE_MS - 1)
    ask = lambda: callers.of_request(party.certificate, party.request(too_far), b"\x02" * 32)  # noqa: E731
    assert reason_of(ask) == "sealed_at_another_time"
    assert reason_of(lambda: callers.of_challenge(party.challenge(at_ms=too_far))) == "sealed_at_another_time"


@pytest.mark.parametrize("off_ms", [-sealed.MAX_AGE_MS, sealed.MAX_AGE_MS])
def test_a_request_is_remembered_for_longer_than_it_is_taken(off_ms: int, here: Here) -> None:
    """However wrong the clock is of whoever signed it: there is no moment at which it is taken a second time."""
    party, callers = Party(), here.callers()
    signed = party.request(NOW_MS + off_ms)
    callers.of_request(party.certificate, signed, b"\x01" * 32)
    reasons = set()
    for minute in range(1 + RESULT_RETENTION_MS // 60_000):
        here.now_ms = NOW_MS + 60_000 * minute
        reasons.add(reason_of(lambda: callers.of_request(party.certificate, signed, b"\x01" * 32)))
    assert reasons == {"sealed_twice", "sealed_at_another_time"}


def test_memory_for_requests_is_bounded_and_nobody_has_it_all(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """One consumer may have half; when all is used up, those with few are served."""
    monkeypatch.setattr(limits, "REQUEST_IDS_OF_ANYBODY", 2)
    here.most = 10
    callers, heads = here.callers(), iter(bytes([number]) * 32 for number in range(256))
    parties = [Party("greedy"), Party("eager"), Party("modest")]

    def ask(party: Party) -> str | None:
        try:
            callers.of_request(party.certificate, party.request(here.now_ms), next(heads))
        except AIGovToolError as error:
            return error.reason
        return None

    assert [ask(parties[0]) for _ in range(6)] == [None] * 5 + ["sealed_requests"]
    assert [ask(parties[1]) for _ in range(6)] == [None] * 5 + ["sealed_requests"]
    assert [ask(parties[2]) for _ in range(3)] == [None, None, "sealed_requests"]
    here.now_ms += RESULT_RETENTION_MS + 120_000
    assert ask(parties[0]) is None


def test_whom_an_enclave_never_answers_gets_no_evidence(here: Here) -> None:
    """What refuses consumers on connections of their own refuses a challenge."""
    here.refused = StoppedError("the custodian has stopped this consumer", reason="consumer_stopped")
    assert reason_of(lambda: here.callers().of_challenge(Party().challenge())) == "consumer_stopped"


def test_a_challenge_is_taken_once(here: Here) -> None:
    """Quotes are made for whom it names, and connections counted as its: repeated, it would use those up."""
    party, callers = Party(), here.callers()
    challenge = party.challenge()
    callers.of_challenge(challenge)
    assert reason_of(lambda: callers.of_challenge(challenge)) == "sealed_twice"
    other_form = structs.replace(challenge, credential=party.certificate)
    assert reason_of(lambda: callers.of_challenge(other_form)) == "sealed_twice"


def test_whom_an_enclave_never_answers_has_no_share_of_the_memory(here: Here) -> None:
    """Stopped consumers, and those of other borrowers, would leave those that are served too little of it."""
    callers = here.callers()
    for number, party in enumerate([Party("stopped"), Party("foreign")] * 100):
        here.refused = StoppedError("the custodian has stopped this consumer", reason="consumer_stopped")
        ask = lambda: callers.of_request(party.certificate, party.request(), bytes([number]) * 32)  # noqa: B023, E731
        assert reason_of(ask) == "consumer_stopped"
    assert len(callers._taken) == 0


def test_what_was_taken_is_told_so_also_when_its_sender_is_not_answered_any_more(here: Here) -> None:
    """Else whoever passes it on a second time, after a stop, would have it pass for one that was never run."""
    party, callers = Party(), here.callers()
    signed = party.request()
    callers.of_request(party.certificate, signed, b"\x01" * 32)
    here.refused = StoppedError("the custodian has stopped this consumer", reason="consumer_stopped")
    assert reason_of(lambda: callers.of_request(party.certificate, signed, b"\x01" * 32)) == "sealed_twice"
