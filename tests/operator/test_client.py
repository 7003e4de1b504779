from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from tests.operator.conftest import FakeCustodian, ok, refused

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import Envelope, SigningKey, open_envelope, seal
from aigovtool.errors import (
    BudgetExhaustedError,
    ConfigurationError,
    FaultError,
    ForbiddenError,
    LogError,
    SignatureInvalidError,
    UnreachableError,
)
from aigovtool.ids import Digest, LeaseId, MessageId, ModelId
from aigovtool.ledger.budget import Scope
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.entry import Entry, LeaseExpired, PartyRole, StopTarget
from aigovtool.operator.client import OperatorClient
from aigovtool.operator.party_client import PartyClient
from aigovtool.protocol.commands import COMMAND, AskRequest, AskState, Command, CommandResult, Stop
from aigovtool.protocol.trust import KEY_SET, KeySet
from aigovtool.protocol.views import Health, LogFound, LogHead, LogPage, PackageStored, Parties, Usage

STOP = Stop(target=StopTarget.ALL, value="", reason="drill")
NO_USAGE = Usage(usage=[])


def sent(custodian: FakeCustodian, client: OperatorClient) -> Command:
    envelope = decode(custodian.script.asked[-1].body, Envelope)
    return open_envelope(envelope, COMMAND, Command, [client.key.public])


def answered(custodian: FakeCustodian, client: OperatorClient, *answers: bytes | None) -> UnreachableError:
    custodian.script.answers = list(answers)
    with pytest.raises(UnreachableError) as failed:
        client.command(STOP)
    return failed.value


def test_a_command_is_signed_by_its_operator_for_one_custodian_and_moment(
    custodian: FakeCustodian, client: OperatorClient
) -> None:
    """Whoever finds the command in the log can tell who ordered what, where and when."""
    custodian.script.answers = [ok(CommandResult(command_id=MessageId("0" * 32), entry=3))]
    with pytest.raises(FaultError) as failed:
        client.command(STOP)
    assert failed.value.reason == "bad_answer"
    command = sent(custodian, client)
    assert (command.custodian, command.operator) == (custodian.root.public.key_id, "alice")
    assert (command.issued_at_ms, command.act) == (42_000, STOP)
    [request] = custodian.script.asked
    assert (request.method, request.path, request.headers["content-type"]) == (
        "POST",
        "/v1/commands",
        "application/json",
    )
    assert request.peer is not None


def test_a_lost_answer_is_asked_for_again_with_the_very_same_command(
    custodian: FakeCustodian, client: OperatorClient, pauses: list[float]
) -> None:
    """A repeated delivery must not become a second command, so not one byte of it may change."""
    failure = answered(custodian, client, None, None, None, None)
    assert failure.reason == "no_answer"
    assert failure.fix
    bodies = {request.body for request in custodian.script.asked}
    assert (len(custodian.script.asked), len(bodies)) == (4, 1)
    assert pauses == sorted(pauses)
    assert len(pauses) == 3


def test_two_commands_have_two_ids(custodian: FakeCustodian, client: OperatorClient) -> None:
    """Only a repetition is the same command; the same order given again is another one."""
    ids = set()
    for _ in range(2):
        answered(custodian, client, None, None, None, None)
        ids.add(sent(custodian, client).command_id)
    assert len(ids) == 2


def test_an_answer_after_failures_of_the_transport_is_taken(custodian: FakeCustodian, client: OperatorClient) -> None:
    """Two broken connections, then an answer."""
    custodian.script.answers = [None, None, ok(NO_USAGE)]
    assert client.usage() == NO_USAGE


def test_a_refusal_is_the_error_that_it_was_and_is_not_repeated(
    custodian: FakeCustodian, client: OperatorClient, pauses: list[float]
) -> None:
    """What governance refused once is not asked for again behind the operator's back."""
    error = BudgetExhaustedError("no units are left", reason="pool_empty", fix="grant more", retry_after_s=9)
    custodian.script.answers = [refused(error)]
    with pytest.raises(BudgetExhaustedError) as failed:
        client.command(STOP)
    got = failed.value
    assert (got.message, got.reason, got.fix, got.retry_after_s) == ("no units are left", "pool_empty", "grant more", 9)
    assert (pauses, len(custodian.script.asked)) == ([], 1)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"{}", b'{"usage":[],"more":1}', b'{"usage":[],"usage":[]}', b"\xff", b'{"usage":{}}'],
)
def test_an_answer_of_another_shape_is_a_fault(custodian: FakeCustodian, client: OperatorClient, body: bytes) -> None:
    """Answers are parsed as strictly as anything else from outside."""
    custodian.script.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body]
    with pytest.raises(FaultError) as failed:
        client.usage()
    assert failed.value.reason == "bad_answer"


def test_a_redirect_is_not_followed(custodian: FakeCustodian, client: OperatorClient) -> None:
    """The custodian's address is the one in the party file."""
    custodian.script.answers = [b"HTTP/1.1 307 No\r\nlocation: https://localhost:1/\r\ncontent-length: 0\r\n\r\n"]
    with pytest.raises(FaultError):
        client.usage()
    assert len(custodian.script.asked) == 1


def test_a_custodian_under_another_authority_is_not_believed(custodian: FakeCustodian) -> None:
    """Nothing is sent to a server that does not prove to be the one in the party file."""
    other = FakeCustodian()
    try:
        address = msgspec.structs.replace(custodian.address, url=other.address.url)
        file = msgspec.structs.replace(custodian.operator_file(), custodian=address)
        with OperatorClient(file, pause=lambda _: None) as client, pytest.raises(UnreachableError) as failed:
            client.health()
        assert failed.value.reason == "tls_refused"
        assert other.script.asked == []
    finally:
        other.close()


def test_views_are_asked_for_where_they_are(custodian: FakeCustodian, client: OperatorClient) -> None:
    """Each getter reads its own path into its own type, as this operator."""
    health = Health(status="serving", version="1", custodian=custodian.root.public.key_id, generation=0, epoch=4)
    custodian.script.answers = [ok(health), ok(Parties(parties=[])), refused(ForbiddenError("not for you"))]
    assert client.health() == health
    assert client.parties().parties == []
    with pytest.raises(ForbiddenError):
        client.models()
    assert [request.path for request in custodian.script.asked] == ["/v1/health", "/v1/parties", "/v1/models"]


# --- Uploads --------------------------------------------------------------------------------------


def test_an_upload_is_streamed_under_its_digest_and_started_again_after_a_failure(
    custodian: FakeCustodian, client: OperatorClient, tmp_path: Path
) -> None:
    """The whole file, with its length, each time; the progress ends at the total."""
    path, data = tmp_path / "x.aigov", bytes(range(256)) * 8200
    path.write_bytes(data)
    digest = Digest("sha256:" + sha256(data).hexdigest())
    custodian.script.answers = [None, ok(PackageStored(package=digest, package_bytes=len(data)))]
    seen: list[tuple[int, int]] = []
    assert client.upload_package(path, lambda done, total: seen.append((done, total))).package == digest
    assert [(r.method, r.path) for r in custodian.script.asked] == [("PUT", f"/v1/packages/{digest}")] * 2
    assert {r.body for r in custodian.script.asked} == {data}
    assert seen[-1] == (len(data), len(data))
    assert "transfer-encoding" not in custodian.script.asked[-1].headers


def test_an_upload_that_was_stored_as_something_else_is_a_fault(
    custodian: FakeCustodian, client: OperatorClient, tmp_path: Path
) -> None:
    """The custodian must name the digest that was announced."""
    path = tmp_path / "x.aigov"
    path.write_bytes(b"x")
    custodian.script.answers = [ok(PackageStored(package=Digest("sha256:" + "0" * 64), package_bytes=1))]
    with pytest.raises(FaultError):
        client.upload_package(path)


def test_a_missing_package_is_a_configuration_error(client: OperatorClient, tmp_path: Path) -> None:
    """It is found before anything is sent."""
    with pytest.raises(ConfigurationError) as failed:
        client.upload_package(tmp_path / "nothing.aigov")
    assert failed.value.reason == "unreadable_package"


# --- The audit log --------------------------------------------------------------------------------


def test_the_log_is_read_page_by_page_to_its_end(custodian: FakeCustodian, client: OperatorClient) -> None:
    """Pages follow each other without gap, and an empty one ends the log."""
    pages = [LogPage(start=5, entries=[b"a", b"b"]), LogPage(start=7, entries=[b"c"]), LogPage(start=8, entries=[])]
    custodian.script.answers = [ok(page) for page in pages]
    assert list(client.log_entries(5)) == [b"a", b"b", b"c"]
    starts = [request.path.partition("start=")[2] for request in custodian.script.asked]
    assert starts == ["5&limit=1000", "7&limit=1000", "8&limit=1000"]


def test_the_log_is_read_up_to_a_checkpoint_and_not_further(custodian: FakeCustodian, client: OperatorClient) -> None:
    """Entries that came after the checkpoint are not part of what it signs."""
    custodian.script.answers = [ok(LogPage(start=0, entries=[b"a", b"b"]))]
    assert list(client.log_entries(end=2)) == [b"a", b"b"]
    assert custodian.script.asked[0].path.endswith("start=0&limit=2")


@pytest.mark.parametrize("page", [LogPage(start=1, entries=[b"a"]), LogPage(start=0, entries=[b"a", b"b", b"c"])])
def test_another_page_than_asked_for_is_a_fault(
    custodian: FakeCustodian, client: OperatorClient, page: LogPage
) -> None:
    """A page from elsewhere, or longer than asked for, would hide a gap."""
    custodian.script.answers = [ok(page)]
    with pytest.raises(FaultError):
        list(client.log_entries(end=2))


def entry_bytes(index: int) -> bytes:
    return encode(Entry(index=index, at_ms=0, generation=0, body=LeaseExpired(lease_id=LeaseId("0" * 32))))


def test_entries_of_a_kind_are_read_from_the_newest_back(custodian: FakeCustodian, client: OperatorClient) -> None:
    """Page by page, each from before the last entry of the one before; a short page need not be the last."""
    newest = [entry_bytes(index) for index in range(3_000, 2_000, -1)]
    pages: list[list[bytes]] = [newest, [entry_bytes(7)], []]
    custodian.script.answers = [ok(LogFound(entries=entries)) for entries in pages]
    assert list(client.log_found("lease_expired", before=5_000)) == [*newest, entry_bytes(7)]
    asked = [request.path.partition("?")[2] for request in custodian.script.asked]
    assert asked == [f"kind=lease_expired&before={before}&limit=1000" for before in (5_000, 2_001, 7)]


def test_entries_in_another_order_are_a_fault(custodian: FakeCustodian, client: OperatorClient) -> None:
    """A custodian that repeats itself cannot keep an operator's command line running for ever."""
    custodian.script.answers = [ok(LogFound(entries=[entry_bytes(4), entry_bytes(4)]))]
    with pytest.raises(FaultError):
        list(client.log_found("lease_expired", before=5))


def head(custodian: FakeCustodian, root: SigningKey, log: SigningKey, signer: SigningKey) -> LogHead:
    key_set = KeySet(
        custodian=root.public.key_id,
        version=1,
        issued_at_ms=0,
        commands=[],
        log=[log.public.raw],
        credentials=[],
        keystore=custodian.keystore.public,
    )
    checkpoint = Checkpoint(custodian=root.public.key_id, size=0, root=bytes(32))
    return LogHead(checkpoint=sign_checkpoint(checkpoint, signer), key_set=seal(KEY_SET, key_set, root))


def test_a_checkpoint_counts_only_under_the_pinned_root(custodian: FakeCustodian, client: OperatorClient) -> None:
    """The root signs the key set, a key of the set signs the checkpoint: both links are checked."""
    log, stranger = SigningKey.generate(), SigningKey.generate()
    custodian.script.answers = [
        ok(head(custodian, custodian.root, log, log)),
        ok(head(custodian, stranger, log, log)),
        ok(head(custodian, custodian.root, log, stranger)),
    ]
    assert client.verified_head()[1].size == 0
    with pytest.raises(SignatureInvalidError):
        client.verified_head()
    with pytest.raises(LogError):
        client.verified_head()


def test_a_borrower_asks_for_more_with_its_own_credential(custodian: FakeCustodian) -> None:
    """A request for more budget carries its own id and is sent under the party's certificate."""
    file = custodian.borrower_file()
    scope = Scope(model=ModelId("xray"), borrower=file.borrower)
    state = AskState(
        ask_id=MessageId("1" * 32),
        role=PartyRole.BORROWER,
        name="st-mary",
        scope=scope,
        units=5,
        reason="new ward",
        at_ms=1,
        state="open",
    )
    custodian.script.answers = [None, ok(state)]
    with PartyClient(file, pause=lambda _: None) as client:
        assert client.ask(scope, 5, "new ward") == state
    first, second = custodian.script.asked
    assert first.body == second.body
    request = decode(second.body, AskRequest)
    assert (request.scope, request.units, request.reason) == (scope, 5, "new ward")
    assert b"urn:aigovtool:borrower:st-mary" in (second.peer or b"")
    assert encode(request) == second.body
