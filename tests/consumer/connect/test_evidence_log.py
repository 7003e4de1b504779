"""The log of what was seen: each change is told once, and no line changes or disappears unnoticed."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tests.consumer.conftest import FakeEnclave, World

from aigovtool.codec import encode
from aigovtool.consumer import Client
from aigovtool.consumer.attest import Session
from aigovtool.consumer.connect.evidence_log import NOTHING, Event, EvidenceLog, Line, read_log
from aigovtool.errors import AppraisalError, ConfigurationError, LogError, UnreachableError
from aigovtool.ids import digest_of

URL = "https://10.0.0.7:8443"
REFUSED = AppraisalError("not those of the policy", reason="measurement")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is."""
    return tmp_path / "evidence.jsonl"


@pytest.fixture
def log(path: Path, world: World) -> Iterator[EvidenceLog]:
    """A log that is open."""
    made = EvidenceLog(path, world.clock.clock())
    yield made
    made.close()


def session_of(client: Client) -> Session:
    """Return the session of a client that has attested an enclave."""
    return client._core.session()


def events(path: Path) -> list[Event]:
    """Return what the lines tell."""
    return [line.event for line, _ in read_log(path)]


def test_what_is_the_same_is_told_once(log: EvidenceLog, path: Path, client: Client) -> None:
    """Each attestation has a nonce of its own, and that alone is nothing new."""
    for _ in range(3):
        client.attest()
        log.verified(URL, session_of(client))
    assert events(path) == [Event.VERIFIED]


def test_each_change_is_told(log: EvidenceLog, path: Path, world: World, enclave: FakeEnclave) -> None:
    """Another instance, a newer key set, other models, a warning: each is a line that says all of it."""
    client = world.connect(enclave)
    log.verified(URL, session_of(client))
    for change in (
        enclave.reboot,
        lambda: setattr(enclave, "key_set", world.key_set(8)),
        lambda: enclave.manifests.update({"second": digest_of(b"second")}),  # type: ignore[dict-item]
        lambda: setattr(enclave, "warning", "something else"),
    ):
        change()
        client.attest()
        log.verified(URL, session_of(client))
    seen = [line.seen for line, _ in read_log(path)]
    assert len(seen) == 5
    assert all(before != after for before, after in pairwise(seen))


def test_a_refusal_is_told_once_and_what_follows_it(log: EvidenceLog, path: Path, client: Client) -> None:
    """As long as it is the same one; who is accepted again after it is told of again."""
    log.verified(URL, session_of(client))
    for _ in range(3):
        log.not_verified(URL, REFUSED, refused=True)
    log.not_verified(URL, UnreachableError("nobody", reason="connect"), refused=False)
    log.verified(URL, session_of(client))
    assert events(path) == [Event.VERIFIED, Event.REFUSED, Event.UNREACHABLE, Event.VERIFIED]
    line = [line for line, _ in read_log(path)][1]
    assert (line.enclave, line.code, line.reason, line.why) == (URL, REFUSED.code, "measurement", REFUSED.message)


def test_addresses_are_told_apart(log: EvidenceLog, path: Path, client: Client) -> None:
    """What is known of one says nothing of another."""
    log.verified(URL, session_of(client))
    log.verified(URL + "0", session_of(client))
    assert events(path) == [Event.VERIFIED] * 2


def test_each_line_is_bound_to_the_one_before(log: EvidenceLog, path: Path) -> None:
    """By its digest; the first one by a digest of nothing."""
    log.note(Event.STARTED, "one")
    log.note(Event.STOPPED)
    lines = path.read_bytes().splitlines()
    read = list(read_log(path))
    assert read[0][0].previous == NOTHING
    assert read[1][0].previous == digest_of(lines[0])
    assert read[1][1] == digest_of(lines[1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: [lines[0], lines[2]], "chain"),
        (lambda lines: [lines[0], lines[2], lines[1]], "chain"),
        (lambda lines: [lines[1], lines[2]], "chain"),
        (lambda lines: [lines[0].replace(b"one", b"two"), *lines[1:]], "chain"),
        (lambda lines: [*lines, lines[2]], "chain"),
        (lambda lines: [lines[0], b"{}", *lines[1:]], "bad_line"),
        (lambda lines: [lines[0].replace(b'{"', b'{ "'), *lines[1:]], "bad_line"),
    ],
    ids=["left out", "moved", "the first left out", "changed", "repeated", "another", "written otherwise"],
)
def test_a_log_that_was_changed_is_found_out(
    change: Callable[[list[bytes]], list[bytes]], reason: str, path: Path, world: World
) -> None:
    """Attack: a line that tells of a refusal is taken out, changed, moved or repeated; nobody goes on with it."""
    log = EvidenceLog(path, world.clock.clock())
    for why in ("one", "two", "three"):
        log.note(Event.STARTED, why)
    log.close()
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))
    with pytest.raises(LogError) as caught:
        list(read_log(path))
    assert caught.value.reason == reason
    for _ in range(2):  # nothing is left of the first try that keeps the second from saying why
        with pytest.raises(LogError):
            EvidenceLog(path, world.clock.clock())


def test_it_goes_on_where_it_ended(path: Path, world: World, client: Client) -> None:
    """Another run of the gateway adds to the same chain, and knows what was told."""
    for _ in range(2):
        log = EvidenceLog(path, world.clock.clock())
        log.note(Event.STARTED)
        log.verified(URL, session_of(client))
        log.close()
    assert events(path) == [Event.STARTED, Event.VERIFIED, Event.STARTED]


def test_a_line_that_was_cut_off_by_a_crash_is_dropped(path: Path, world: World) -> None:
    """The machine lost power while it was written: the log goes on behind the last whole line."""
    log = EvidenceLog(path, world.clock.clock())
    log.note(Event.STARTED)
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + encode(Line(at_ms=1, event=Event.STOPPED, previous=digest_of(whole[:-1])))[:-5])
    with pytest.raises(LogError):
        list(read_log(path))
    log = EvidenceLog(path, world.clock.clock())
    log.note(Event.STOPPED)
    log.close()
    assert events(path) == [Event.STARTED, Event.STOPPED]


def test_nobody_else_may_read_it(log: EvidenceLog, path: Path) -> None:
    """It says whom the consumer uses."""
    log.note(Event.STARTED)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_opened_is_said_to_be(tmp_path: Path, world: World) -> None:
    """A directory, a link to somewhere else, a path that is not there."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for path in (tmp_path, tmp_path / "link", tmp_path / "no" / "such"):
        with pytest.raises(ConfigurationError) as caught:
            EvidenceLog(path, world.clock.clock())
        assert caught.value.reason == "unwritable_log"
    with pytest.raises(ConfigurationError):
        list(read_log(tmp_path / "nothing"))
