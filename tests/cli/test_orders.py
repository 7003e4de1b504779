"""What two operators order, on real custodians whose ledgers were put back to an older copy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from tests.cli.conftest import Place
from tests.cli.site import BUDGET, Site, do, make_site
from tests.custodian.conftest import BORROWER, Enclave, want

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.cli import orders
from aigovtool.cli.custodian.gap import gap_of
from aigovtool.codec import decode, encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, SigningKey, VerifyKey, seal
from aigovtool.crypto.wrap import WrapKey
from aigovtool.custodian.service import boot, views
from aigovtool.ids import ModelId, OperatorId
from aigovtool.ledger.budget import RowKey, Scope, Window
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.policy import GRACE_MS
from aigovtool.ledger.units import Dimension
from aigovtool.protocol.commands import COMMAND, Command, RowCharge, SetAppraisalPolicy, Stop
from aigovtool.protocol.party import Invitation, OperatorFile
from aigovtool.protocol.release import BOOT_AGAIN
from aigovtool.protocol.trust import KEY_SET, open_key_set
from aigovtool.protocol.views import BudgetView, GapView
from aigovtool.transport.server import bind_loopback


@pytest.fixture
def site(tmp_path: Path, ledger: str | None) -> Iterator[Site]:
    """A custodian with two operators and one enclave, on each store."""
    with bind_loopback() as listener:
        made = make_site(tmp_path, listener, ledger)
        yield made
        made.bench.custodian.database.close()


@pytest.fixture
def on_file(tmp_path: Path) -> Iterator[Site]:
    """The same, on SQLite alone."""
    with bind_loopback() as listener:
        made = make_site(tmp_path, listener, None)
        yield made
        made.bench.custodian.database.close()


def settle(place: Place, *choice: str, save: str = "order.json") -> Result:
    if "--charge-all" in choice:
        assert place.run("stop", "--all", "--wait", "0", "--reason", "restored").exit_code == 0
    return place.run("custodian", "settle", *choice, "--reason", "disk lost", "--save", place.file(save))


def cosign(place: Place, *more: str, who: str = "bob.json", file: str = "order.json") -> Result:
    return place.run("cosign", place.file(file), *more, "--operator", place.file(who))


def rows(place: Place) -> list[Any]:
    found: list[Any] = place.document("budget", "show")["budgets"]
    return found


# --- The gap ------------------------------------------------------------------------------------------


def test_a_ledger_that_remembers_has_no_gap_to_settle(on_file: Site) -> None:
    """Said in words and to programs; an order to settle it is refused before it is saved."""
    with on_file.served() as place:
        shown = place.run("custodian", "gap")
        assert (shown.exit_code, "remembers" in shown.stdout) == (0, True)
        assert place.document("custodian", "gap")["forgotten"] is False
        refused = settle(place, "--charge-all")
    assert (refused.exit_code, "no_gap" in refused.stderr) == (3, True)
    assert not Path(on_file.file("order.json")).exists()


def test_two_operators_put_a_restored_ledger_back_into_service(site: Site) -> None:
    """Loud until then; one signs and saves, the other reads, signs and sends; all that remained is charged."""
    site.forget(5)
    with site.served() as place:
        gap = place.run("custodian", "gap")
        assert "THE LEDGER HAS FORGOTTEN SOMETHING" in gap.stderr
        assert "at least 1 entries" in gap.stdout
        found = place.document("custodian", "gap")
        assert (found["forgotten"], found["entries_lost_min"]) == (True, found["signed_size"] - found["size"])
        saved = settle(place, "--charge-all")
        assert saved.exit_code == 0, saved.output
        assert "nothing can be used twice" in saved.stdout
        assert "aigovtool cosign" in saved.stdout
        assert rows(place)[0]["posted"] == 0
        unanswered = cosign(place)
        assert (unanswered.exit_code, "not_confirmed" in unanswered.stderr) == (3, True)
        assert "Operator alice orders: settle gap" in unanswered.stdout
        assert "disk lost" in unanswered.stdout
        done = cosign(place, "--yes")
        assert done.exit_code == 0, done.output
        (row,) = rows(place)
        assert (row["posted"], row["room"]) == (BUDGET, 0)
        after = place.document("custodian", "gap")
        assert (after["forgotten"], after["generation"]) == (False, 1)
        assert after["quiet_until_ms"] >= site.bench.now_ms + GRACE_MS
        assert "nothing is granted before" in place.run("custodian", "gap").stdout
        told = place.document("audit", "list", "--kind", "restored", "--kind", "charged")["entries"]
        assert [(one["kind"], one["who"]) for one in told] == [
            ("restored", "operators alice and bob"),
            ("charged", "operators alice and bob"),
        ]
        again = cosign(place, "--yes")
        assert (again.exit_code, "no_gap" in again.stderr) == (3, True)


@pytest.mark.parametrize(
    ("signed", "size", "least"), [(25, 20, 5), (25, 24, 1), (25, 25, 1), (25, 90, 1), (None, 9, 0)]
)
def test_how_much_is_forgotten_is_a_lower_bound(signed: int | None, size: int, least: int) -> None:
    """A ledger that has grown past what it signed has still forgotten something."""
    view = GapView(
        generation=0,
        size=size,
        quiet_until_ms=0,
        checkpoint=None if signed is None else "note",
        lost_size=signed,
        lost_generation=None if signed is None else 0,
        found_at_ms=None if signed is None else 1,
    )
    assert gap_of(view, 1).entries_lost_min == least


def test_one_must_say_what_was_used(on_file: Site) -> None:
    """There is no default: nothing, all, or so much of which budget; and each says what it means."""
    on_file.forget(5)
    with on_file.served() as place:
        place.run("budget", "set", "7", "--model", "sorter", "--window", "day")
        for choice in ([], ["--charge-all", "--charge-nothing"], ["--charge", "sorter=5", "--charge-all"]):
            refused = settle(place, *choice)
            assert (refused.exit_code, "no_choice" in refused.stderr) == (3, True)
        nothing = settle(place, "--charge-nothing", save="nothing.json")
        assert "can be used again" in nothing.stdout
        some = settle(place, "--charge", "sorter=5", save="some.json")
        assert "as much as is missing here can be used again" in some.stdout
        done = cosign(place, "--yes", "--json", file="some.json")
        assert done.exit_code == 0, done.output
        document = json.loads(done.stdout)
        assert (document["operator"], document["cosigned_by"], document["final"]) == ("alice", "bob", False)
        (charged,) = document["charges"]
        assert (charged["budget"], charged["charged"], charged["left_then"]) == ("sorter", 5, BUDGET - 5)
        assert rows(place)[0]["posted"] == 5


@pytest.mark.parametrize(
    ("charge", "reason"),
    [
        ("sorter", "bad_charge"),
        ("sorter=", "bad_charge"),
        ("sorter=0", "bad_charge"),
        ("sorter=-5", "bad_charge"),
        ("sorter=5.5", "bad_charge"),
        ("=5", "bad_charge"),
        ("sorter/=5", "bad_charge"),
        ("sorter/a/b/c=5", "bad_charge"),
        ("sorter:week=5", "bad_charge"),
        ("sorted=5", "no_budget_row"),
        ("sorter/hospital=5", "no_budget_row"),
        ("sorter/hospital/ward7=5", "no_budget_row"),
        ("sorter:day=5", "no_budget_row"),
    ],
)
def test_a_charge_names_a_budget_that_is_there(on_file: Site, charge: str, reason: str) -> None:
    """A misspelt name must not become a settlement that charges nothing."""
    on_file.forget(5)
    with on_file.served() as place:
        refused = settle(place, "--charge", charge)
    assert (refused.exit_code, reason in refused.stderr) == (3, True), refused.output
    assert not Path(on_file.file("order.json")).exists()


def test_a_budget_of_any_level_and_window_can_be_charged_once(on_file: Site) -> None:
    """By model, borrower and consumer, and per window: the bucket of today."""
    with on_file.served() as place:
        for words in (["--consumer", "ward7"], ["--borrower", "hospital", "--window", "day"]):
            assert place.run("budget", "set", "50", "--model", "sorter", *words).exit_code == 0
    on_file.forget(5)
    with on_file.served() as place:
        twice = settle(place, "--charge", "sorter=1", "--charge", "sorter:lifetime=2")
        assert (twice.exit_code, "charged twice" in twice.stderr) == (3, True)
        chosen = ["sorter=4", "sorter/hospital/ward7=3", "sorter/hospital:day=2"]
        assert settle(place, *(word for one in chosen for word in ("--charge", one))).exit_code == 0
        assert cosign(place, "--yes").exit_code == 0
        assert sorted(row["posted"] for row in rows(place)) == [2, 3, 4]


def test_all_that_remains_is_charged_in_every_window(on_file: Site) -> None:
    """What was used this hour is forgotten too, and could be used again: nothing is left until the hour is over."""
    most = str(10**12)  # of one grant
    with on_file.served() as place:
        for words in (["set", "50", "--window", "hour"], *[["grant", most, "--consumer", "ward7"]] * 2):
            assert place.run("budget", *words, "--model", "sorter").exit_code == 0
    on_file.forget(5)
    with on_file.served() as place:
        saved = settle(place, "--charge-all")
        assert (saved.exit_code, "its hour, day or month is over" in saved.stdout) == (0, True)
        assert cosign(place, "--yes").exit_code == 0
        assert sorted((row["posted"], row["room"]) for row in rows(place)) == [(50, 0), (BUDGET, 0), (2 * 10**12, 0)]


def test_a_final_order_says_so_and_holds_whatever_is_shown(on_file: Site) -> None:
    """Both operators read what it charges and what else may be forgotten; what is shown later is told, and no more."""
    copy = on_file.copy()
    on_file.draw(3)
    older = on_file.enclave.checkpoint_seen
    on_file.draw(4)
    newer = on_file.enclave.checkpoint_seen
    copy.restore()
    on_file.enclave.checkpoint_seen = older
    on_file.show()
    with on_file.served() as place:
        reason = ["--reason", "disk lost", "--save", place.file("order.json")]
        refused = place.run("custodian", "settle", "--charge-all", *reason)
        assert (refused.exit_code, "not_stopped" in refused.stderr) == (3, True)
        assert not Path(place.file("order.json")).exists()
        saved = settle(place, "--charge-all")
        read = cosign(place)
        for shown in (saved.stdout, read.stdout):
            words = " ".join(shown.split())
            assert all(text in words for text in (orders.ALL_CHARGED, orders.FINAL, orders.FORGOTTEN_TOO)), shown
            assert all(what in words for what, _ in orders.MAY_BE_FORGOTTEN)
        on_file.enclave.checkpoint_seen = newer
        on_file.show()
        done = cosign(place, "--yes", "--json")
        assert (done.exit_code, json.loads(done.stdout)["final"]) == (0, True)
        assert place.document("custodian", "gap")["shown_since"] is None


def test_what_is_shown_after_a_final_settlement_is_told(on_file: Site) -> None:
    """The custodian goes on, and operators see that more is lost than they knew."""
    copy = on_file.copy()
    on_file.draw(3)
    older = on_file.enclave.checkpoint_seen
    on_file.draw(4)
    newer = on_file.enclave.checkpoint_seen
    copy.restore()
    on_file.enclave.checkpoint_seen = older
    on_file.show()
    with on_file.served() as place:
        assert settle(place, "--charge-all").exit_code == 0
        assert place.run("resume", "--all", "--yes", "--save", place.file("early.json")).exit_code == 0
        assert cosign(place, "--yes").exit_code == 0
        early = cosign(place, "--yes", file="early.json")
        assert (early.exit_code, "stop_changed" in early.stderr) == (3, True)
        Path(place.file("old.txt")).write_text(newer)
        compared = place.run("audit", "compare", place.file("old.txt"), "--party", place.file("ward7.json"))
        assert (compared.exit_code, "lost" in compared.output) == (5, True)
        found = place.document("custodian", "gap")
        assert (found["forgotten"], found["shown_since"]) == (False, int(newer.split("\n")[1]))
        assert "more is lost than was known then" in " ".join(place.run("custodian", "gap").stdout.split())
        (told,) = place.document("audit", "list", "--kind", "restored")["entries"]
        assert "no larger checkpoint of them is a new gap" in told["what"]


def test_an_order_that_is_not_final_says_so(on_file: Site) -> None:
    """Also when it names all that remains now: what old leases give back can be granted, and more may be shown."""
    on_file.forget(5)
    with on_file.served() as place:
        saved = settle(place, "--charge", f"sorter={BUDGET}")
        words = " ".join(saved.stdout.split())
        assert all(text in words for text in (orders.EACH_CHARGED, orders.NOT_FINAL))


def test_an_order_is_void_once_more_is_known_to_be_lost(on_file: Site) -> None:
    """The two operators judged something else: the second is told, and nothing is sent."""
    copy = on_file.copy()
    on_file.draw(3)
    older = on_file.enclave.checkpoint_seen
    on_file.draw(4)
    newer = on_file.enclave.checkpoint_seen
    copy.restore()
    on_file.enclave.checkpoint_seen = older
    on_file.show()
    with on_file.served() as place:
        assert settle(place, "--charge", "sorter=3").exit_code == 0
        on_file.enclave.checkpoint_seen = newer
        on_file.show()
        refused = cosign(place, "--yes")
        assert (refused.exit_code, "gap_changed" in refused.stderr) == (3, True), refused.output
        assert place.document("custodian", "gap")["forgotten"] is True


def resigned(place: Place, order: Path, *, signer: str = "alice.json", **changes: Any) -> None:
    """Replace an order by another one that is well signed."""
    envelope = decode(order.read_bytes(), Envelope)
    command = msgspec.structs.replace(decode(envelope.payload, Command), **changes)
    key = SigningKey.from_secret(Secret(decode(Path(place.file(signer)).read_bytes(), OperatorFile).key))
    order.write_bytes(encode(seal(COMMAND, command, key)))


# --- The order on file --------------------------------------------------------------------------------


def test_only_another_operators_fresh_order_is_cosigned(on_file: Site) -> None:
    """Not one's own, not a third time, not for another custodian, not one for one operator, not after a day."""
    on_file.forget(5)
    with on_file.served() as place:
        assert settle(place, "--charge-all").exit_code == 0
        order = Path(place.file("order.json"))
        good, now_ms = order.read_bytes(), on_file.bench.now_ms
        assert "own_order" in cosign(place, "--yes", who="alice.json").stderr
        stop = Stop(target=StopTarget.ALL, value="", reason="x")
        changes: list[tuple[dict[str, Any], str, int]] = [
            ({"custodian": "0" * 64}, "other_custodian", 3),
            ({"act": stop}, "needs_one", 3),
            ({"issued_at_ms": now_ms - 86_500_000}, "stale_command", 5),
            ({"issued_at_ms": now_ms + 900_000}, "stale_command", 5),
            ({"operator": OperatorId("carol")}, "wrong_key", 5),
            ({"operator": OperatorId("bob"), "signer": "bob.json"}, "own_order", 3),
            ({"signer": "bob.json"}, "own_order", 3),
        ]
        for change, reason, code in changes:
            order.write_bytes(good)
            resigned(place, order, **change)
            refused = cosign(place, "--yes")
            assert (refused.exit_code, reason in refused.stderr) == (code, True), (change, refused.output)
        assert place.document("custodian", "gap")["forgotten"] is True
        order.write_bytes(good)
        assert cosign(place, "--yes").exit_code == 0


def test_an_order_that_was_changed_on_its_way_is_refused(on_file: Site) -> None:
    """The custodian verifies both signatures over the bytes that both saw."""
    on_file.forget(5)
    with on_file.served() as place:
        assert settle(place, "--charge", "sorter=5").exit_code == 0
        order = Path(place.file("order.json"))
        envelope = decode(order.read_bytes(), Envelope)
        assert b'"units":5' in envelope.payload
        forged = msgspec.structs.replace(envelope, payload=envelope.payload.replace(b'"units":5', b'"units":1'))
        order.write_bytes(encode(forged))
        refused = cosign(place, "--yes")
        assert refused.exit_code == 5, refused.output
        assert place.document("custodian", "gap")["forgotten"] is True


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"payload":"","payloadType":"x","signatures":[]}'])
def test_what_is_no_order_is_refused(place: Place, content: bytes) -> None:
    """A party file, a receipt, anything."""
    path = Path(place.file("no-order.json"))
    path.write_bytes(content)
    refused = place.run("cosign", str(path), "--yes")
    assert (refused.exit_code, "bad_order" in refused.stderr) == (2, True)
    assert place.run("cosign", place.file("nowhere.json"), "--yes").exit_code == 2


def test_an_order_is_never_saved_over_a_file(on_file: Site) -> None:
    """Nor where there is no directory; found before anything is asked."""
    on_file.forget(5)
    taken = Path(on_file.file("taken"))
    taken.touch()
    with on_file.served() as place:
        for name in ("taken", "no/where"):
            refused = settle(place, "--charge-all", save=name)
            assert (refused.exit_code, "--save" in refused.stderr or "mkdir" in refused.stderr) == (2, True)
    assert taken.read_bytes() == b""


# --- An enclave that is lost --------------------------------------------------------------------------


def test_two_operators_write_a_lost_enclave_off(site: Site) -> None:
    """Its expired leases no longer count as outstanding, and stay charged; live ones are not touched."""
    lease = site.draw(5)
    bench, enclave = site.bench, site.enclave.instance
    with site.served() as place:

        def write_off(prefix: str, *more: str) -> Result:
            words = ("--reason", "host lost", "--save", place.file("order.json"), *more)
            return place.run("enclaves", "write-off", prefix, *words)

        early = write_off(enclave[:8])
        assert (early.exit_code, "nothing_expired" in early.stderr) == (3, True)
        assert "live ones hold 5" in early.stderr
        bench.now_ms += bench.policy.ttl_ms + GRACE_MS + 1
        for unknown in ("", "zz"):
            assert "no_enclave" in write_off(unknown).stderr
        saved = write_off(enclave[:8])
        assert saved.exit_code == 0, saved.output
        assert "no longer count as outstanding, and stay charged: 5" in saved.stdout
        assert lease[:12] in saved.stdout
        # The custodian's clock was set forward, and so the order looks old to it.
        bench.now_ms -= bench.policy.ttl_ms + GRACE_MS + 1
        (before,) = place.document("enclaves")["enclaves"]
        done = cosign(place, "--yes")
        assert done.exit_code == 0, done.output
        assert lease[:12] in done.stdout
        (after,) = place.document("enclaves", "list")["enclaves"]
        assert (before["outstanding"], after["outstanding"]) == ({"inferences": 5}, {})
        assert rows(place)[0]["posted"] == 5
        again = write_off(enclave, "--save", place.file("second.json"))
        assert (again.exit_code, "nothing_expired" in again.stderr) == (3, True)


def test_each_expired_lease_of_an_enclave_is_listed_and_no_other(on_file: Site) -> None:
    """What was closed, what is still open and what others hold is none of it."""
    first = on_file.draw(3)
    on_file.close(on_file.draw(2), [], used=2)
    bench = on_file.bench
    bench.now_ms += bench.policy.ttl_ms + GRACE_MS + 1
    second = on_file.draw(4)
    other = Enclave(bench)
    do(other.boot())
    do(other.renew(want(1)))
    with on_file.served() as place:
        words = ["--reason", "x", "--save", place.file("order.json")]
        document = place.document("enclaves", "write-off", on_file.enclave.instance, *words)
    leases = document["enclave"]["leases"]
    assert [(lease["lease"], lease["units"]) for lease in leases] == [(first, {"inferences": 3})]
    assert document["enclave"]["still_open"] == {"inferences": 4}
    assert second
    assert document["order"]["operator"] == "alice"


def test_what_an_enclave_drew_before_it_attested_again_is_listed_too(on_file: Site) -> None:
    """Attack: the order gives up all that expired, and who signs it was shown what came after the last attestation."""
    drawn, bench, enclave = [on_file.draw(3)], on_file.bench, on_file.enclave
    bench.now_ms += bench.policy.ttl_ms + GRACE_MS + 1
    for number in (2, 4):
        claims = enclave.claims(do(enclave.challenge()))
        request = seal(BOOT_AGAIN, enclave.request(claims), bench.enrolment[BORROWER], enclave.identity)
        do(boot.admit_again(bench.custodian, request))
        drawn.append(on_file.draw(number))
        bench.now_ms += bench.policy.ttl_ms + GRACE_MS + 1
    with on_file.served() as place:
        words = ["--reason", "x", "--save", place.file("order.json")]
        document = place.document("enclaves", "write-off", enclave.instance, *words)
    leases = document["enclave"]["leases"]
    assert [lease["units"] for lease in leases] == [{"inferences": 3}, {"inferences": 2}, {"inferences": 4}]
    assert [lease["lease"] for lease in leases] == drawn
    assert document["enclave"]["units"] == {"inferences": 9}


def test_enclaves_alone_is_their_list(place: Place) -> None:
    """As it was before it had verbs; with options, too."""
    assert place.run("enclaves").stdout == place.run("enclaves", "list").stdout
    assert place.document("enclaves")["enclaves"] == place.document("enclaves", "list")["enclaves"] == []
    assert "write-off" in place.run("enclaves", "--help").stdout


# --- A third operator -----------------------------------------------------------------------------------


def requested(place: Place, name: str = "carol", file: str = "carol.json") -> str:
    """Have a newcomer make a key, and return its public half."""
    invitation = place.file(f"invitation-{file}")
    assert place.run("operator", "invitation", "-o", invitation).exit_code == 0
    made = place.document("operator", "request", name, "--invitation", invitation, "-o", place.file(file))
    key: str = made["key"]
    return key


def finished(place: Place, file: str, name: str = "carol") -> Result:
    """Fetch the certificate of an operator, and put it into a file."""
    certificate = place.file(f"certificate-of-{file}")
    fetched = place.run("operator", "certificate", name, "-o", certificate)
    if fetched.exit_code:
        return fetched
    return place.run("operator", "finish", place.file(file), certificate)


def test_an_invitation_with_somebody_elses_keystore_key_is_refused(on_file: Site) -> None:
    """Whoever compared its root key by telephone has compared the key to which models are deposited as well."""
    path = Path(on_file.file("invitation.json"))
    with on_file.served() as place:
        assert place.run("operator", "invitation", "-o", str(path)).exit_code == 0
        genuine = decode(path.read_bytes(), Invitation)
        key_set = open_key_set(genuine.key_set, VerifyKey(genuine.custodian.root))
        changed = msgspec.structs.replace(key_set, keystore=WrapKey.generate().public)
        forged = msgspec.structs.replace(genuine, key_set=seal(KEY_SET, changed, SigningKey.generate()))
        path.write_bytes(encode(forged))
        refused = place.run("operator", "request", "carol", "--invitation", str(path), "-o", place.file("carol.json"))
        assert (refused.exit_code, "wrong_key" in refused.stderr) == (5, True), refused.output
        assert not Path(place.file("carol.json")).exists()
        path.write_bytes(encode(genuine))
        place.document("operator", "request", "carol", "--invitation", str(path), "-o", place.file("carol.json"))
        made = decode(Path(place.file("carol.json")).read_bytes(), OperatorFile)
        assert (made.keystore, made.key_set) == (key_set.keystore, key_set.version)


def test_two_operators_enrol_a_third_who_made_the_key(site: Site) -> None:
    """Neither of them ever has it: what travels is public. Her file is of use when all three have done their part."""
    with site.served() as place:
        carol, order = Path(place.file("carol.json")), place.file("order.json")
        key = requested(place)
        add = ("operator", "add", "carol", "--key", key)
        alone = place.run(*add)
        assert (alone.exit_code, "needs_second" in alone.stderr, "--save" in alone.stderr) == (3, True, True)
        saved = place.run(*add, "--save", order)
        assert saved.exit_code == 0, saved.output
        assert "aigovtool operator certificate carol" in saved.stdout
        early = place.run("usage", "--operator", str(carol))
        assert (early.exit_code, "no_certificate" in early.stderr) == (2, True)
        early = finished(place, "carol.json")
        assert (early.exit_code, "not_enrolled" in early.stderr) == (4, True)
        done = cosign(place, "--yes")
        assert done.exit_code == 0, done.output
        assert "enrols operator carol" in done.stdout
        assert key in done.stdout
        assert finished(place, "carol.json").exit_code == 0
        assert carol.stat().st_mode & 0o777 == 0o600
        assert place.run("usage", "--operator", str(carol)).exit_code == 0
        again = place.run("operator", "finish", str(carol), place.file("certificate-of-carol.json"))
        assert (again.exit_code, "finished_before" in again.stderr) == (2, True)


def test_nobody_makes_the_key_of_a_third_operator(on_file: Site) -> None:
    """Whoever orders the enrolment would have two keys, and be two operators."""
    with on_file.served() as place:
        for more in ([], ["--save", place.file("order.json")]):
            refused = place.run("operator", "add", "carol", "-o", place.file("carol.json"), *more)
            assert (refused.exit_code, "needs_own_key" in refused.stderr) == (3, True)
        assert not [name for name in ("carol.json", "order.json") if Path(place.file(name)).exists()]


def test_a_file_is_finished_only_with_the_certificate_of_its_own_key(on_file: Site) -> None:
    """Two keys were made for one name, and the order of one was cosigned: the other file is left as it was."""
    with on_file.served() as place:
        key, _ = requested(place), requested(place, file="other.json")
        assert place.run("operator", "add", "carol", "--key", key, "--save", place.file("order.json")).exit_code == 0
        assert cosign(place, "--yes").exit_code == 0
        other = Path(place.file("other.json"))
        before = other.read_bytes()
        refused = finished(place, "other.json")
        assert (refused.exit_code, "other_key" in refused.stderr) == (3, True)
        assert other.read_bytes() == before
        assert finished(place, "carol.json").exit_code == 0


def test_a_name_that_was_given_out_is_refused_before_it_is_saved(on_file: Site) -> None:
    """The second operator would only learn of it when the custodian refuses."""
    with on_file.served() as place:
        order = place.file("order.json")
        refused = place.run("operator", "add", "bob", "--key", "ab" * 32, "--save", order)
    assert (refused.exit_code, "party_exists" in refused.stderr) == (3, True)
    assert not Path(order).exists()


@pytest.mark.parametrize("key", ["", "ab", "xy" * 32, "ab" * 33, "a b" * 22])
def test_a_key_that_is_none_is_refused(key: str, on_file: Site) -> None:
    """Before anything is signed."""
    with on_file.served() as place:
        refused = place.run("operator", "add", "carol", "--key", key, "--save", place.file("order.json"))
    assert (refused.exit_code, "bad_key" in refused.stderr) == (3, True)


def test_only_a_waiting_file_is_finished_and_only_with_a_certificate(on_file: Site) -> None:
    """Neither a borrower's file nor one in use is touched; what is no certificate is told from one."""
    with on_file.served() as place:
        requested(place)
        for name in ("ward7.json", "bob.json"):
            refused = place.run("operator", "finish", place.file(name), place.file("carol.json"))
            assert (refused.exit_code, "finished_before" in refused.stderr) == (2, True)
        for source, reason in ((place.file("invitation-carol.json"), "wrong_file"), ("nowhere", "unreadable_file")):
            refused = place.run("operator", "finish", place.file("carol.json"), source)
            assert (refused.exit_code, reason in refused.stderr) == (2, True)
            assert "fix:   give a certificate that `operator certificate` wrote" in refused.stderr


def test_the_second_operator_may_make_a_key_too(tmp_path: Path) -> None:
    """Then no order is saved: the first one enrols it alone."""
    with bind_loopback() as listener:
        site = make_site(tmp_path, listener, None, alone=True)
        with site.served() as place:
            key = requested(place, name="bob", file="bob.json")
            needless = place.run("operator", "add", "bob", "--key", key, "--save", place.file("order.json"))
            assert (needless.exit_code, "needs_one" in needless.stderr) == (3, True)
            added = place.run("operator", "add", "bob", "--key", key)
            assert (added.exit_code, "operator certificate bob" in added.stdout) == (0, True)
            assert finished(place, "bob.json", "bob").exit_code == 0
            assert place.run("usage", "--operator", place.file("bob.json")).exit_code == 0
        site.bench.custodian.database.close()


# --- Which enclaves are accepted ------------------------------------------------------------------------


def test_two_operators_lift_a_stop(on_file: Site) -> None:
    """One alone stops and lifts nothing; the second sees what is lifted, and it is lifted when both have signed."""
    with on_file.served() as place:
        order = place.file("order.json")
        assert place.run("stop", "--all", "--reason", "drill").exit_code == 0
        alone = place.run("resume", "--all", "--yes")
        assert (alone.exit_code, "needs_second" in alone.stderr, "--save" in alone.stderr) == (3, True, True)
        saved = place.document("resume", "--all", "--reason", "all clear", "--save", order)
        assert (saved["entry"], saved["epoch"], saved["order"]["act"], saved["order"]["reason"]) == (
            None,
            None,
            "resume",
            "all clear",
        )
        asked = cosign(place)
        assert (asked.exit_code, "in force: everything" in asked.stdout) == (3, True)
        assert "needs_second" in place.run("resume", "--all", "--yes").stderr
        done = cosign(place, "--yes")
        assert done.exit_code == 0, done.output
        again = cosign(place, "--yes")
        assert (again.exit_code, "not_stopped" in again.stderr) == (3, True)
        assert place.run("stop", "--all", "--reason", "another drill").exit_code == 0
        later = cosign(place, "--yes")
        assert (later.exit_code, "stop_changed" in later.stderr) == (3, True)
        in_force = do(views.show_stops(on_file.bench.custodian)).stops
        assert [stop.target for stop in in_force] == [StopTarget.ALL]


def test_two_operators_change_which_enclaves_are_accepted(on_file: Site) -> None:
    """One alone is refused; the second sees what it accepts more, and it is in force when both have signed."""
    with on_file.served() as place:
        policy = json.loads(place.run("appraisal", "show", "--json").stdout)
        file, order = Path(place.file("policy.json")), place.file("order.json")
        file.write_text(json.dumps({**policy, "version": 2, "memory_encryption_required": False}), encoding="utf-8")
        alone = place.run("appraisal", "set", str(file), "--yes")
        assert (alone.exit_code, "needs_second" in alone.stderr) == (3, True)
        saved = place.document("appraisal", "set", str(file), "--save", order)
        assert (saved["entry"], saved["order"]["act"]) == (None, "set_appraisal_policy")
        done = cosign(place, "--yes")
        assert done.exit_code == 0, done.output
        assert "SIMULATED" in done.stderr
        assert "This accepts more than now: memory encryption." in done.stdout
        assert json.loads(place.run("appraisal", "show", "--json").stdout)["version"] == 2
        again = cosign(place, "--yes")
        assert (again.exit_code, "same_policy" in again.stderr) == (3, True)


def test_an_order_that_leaves_a_version_out_is_neither_saved_nor_cosigned(on_file: Site) -> None:
    """It would stay usable after another change, which the second operator never saw."""
    with on_file.served() as place:
        policy = json.loads(place.run("appraisal", "show", "--json").stdout)
        file, order = Path(place.file("policy.json")), place.file("order.json")
        file.write_text(json.dumps({**policy, "version": 3, "memory_encryption_required": False}), encoding="utf-8")
        refused = place.run("appraisal", "set", str(file), "--save", order)
        assert (refused.exit_code, "not_next_version" in refused.stderr, Path(order).exists()) == (3, True, False)
        further = decode(file.read_bytes(), AppraisalPolicy)
        file.write_bytes(encode(msgspec.structs.replace(further, version=2)))
        assert place.run("appraisal", "set", str(file), "--save", order).exit_code == 0
        resigned(place, Path(order), act=SetAppraisalPolicy(policy=further))
        refused = cosign(place, "--yes")
        assert (refused.exit_code, "not_next_version" in refused.stderr) == (3, True)
        assert json.loads(place.run("appraisal", "show", "--json").stdout)["version"] == 1


def test_a_charge_to_a_window_that_is_over_says_which() -> None:
    """Attack: the first operator charges yesterday's, which nobody can use any more, in place of what is left today.

    Nor does a custodian make it the present one that says so.
    """
    day, scope = 86_400_000, Scope(model=ModelId("sorter"))
    today = RowKey(scope=scope, dimension=Dimension.INFERENCES, window=Window.DAY, bucket_ms=20_000 * day)
    yesterday = msgspec.structs.replace(today, bucket_ms=19_999 * day)
    now = BudgetView(key=today, limit=100, posted=0, pending=0, room=100, consequences=None)
    lines = orders.charge_lines([now], [RowCharge(row=yesterday, units=100)], now_ms=20_000 * day + 1)
    assert [(line.window, line.left, line.charged) for line in lines] == [
        ("day", 100, 0),
        ("day of 2024-10-03 00:00:00Z", None, 100),
    ]
    told = msgspec.structs.replace(now, key=yesterday)
    (line,) = orders.charge_lines([told], [RowCharge(row=yesterday, units=100)], now_ms=20_000 * day + 1)
    assert line.window == "day of 2024-10-03 00:00:00Z"
