import json
import stat
from pathlib import Path

import msgspec
import pytest
from tests.cli.conftest import Place, make_model

from aigovtool.cli.audit.entries import _SENTENCES
from aigovtool.cli.audit.listing import KINDS
from aigovtool.cli.budget import asks
from aigovtool.codec import decode
from aigovtool.ids import BorrowerId, MessageId, ModelId
from aigovtool.ledger.budget import Scope, Window
from aigovtool.ledger.entry import EntryBody, PartyRole
from aigovtool.protocol.commands import AskState
from aigovtool.protocol.party import BorrowerFile, ConsumerFile, OperatorFile, PartyFile
from aigovtool.protocol.views import Budgets
from aigovtool.transport.server import bind_loopback


def read(path: str) -> PartyFile:
    kinds: type[PartyFile] = BorrowerFile | ConsumerFile | OperatorFile  # type: ignore[assignment]
    return decode(Path(path).read_bytes(), kinds)


# --- Custodian ------------------------------------------------------------------------------------


def test_a_custodian_is_made_with_its_first_operator(place: Place) -> None:
    """Private files, and a reminder to take the root key away; a second one in the same place is refused."""
    home = place.file("second")
    result = place.run("custodian", "init", home, "--url", "https://second.example:1")
    assert result.exit_code == 0, result.output
    assert "offline" in result.stdout
    assert "SIMULATED" not in result.output
    operator = read(f"{home}/operator.json")
    assert operator.custodian.url == "https://second.example:1"
    assert stat.S_IMODE(Path(home).stat().st_mode) == 0o700
    again = place.run("custodian", "init", home)
    assert again.exit_code in {2, 3}
    assert "Traceback" not in again.output


def test_a_custodian_listens_on_the_port_that_its_parties_were_told(place: Place) -> None:
    """Without --listen; a port that is taken shows which one it wanted."""
    with bind_loopback() as taken:
        port = taken.getsockname()[1]
        assert place.run("custodian", "init", place.file("own"), "--url", f"https://localhost:{port}").exit_code == 0
        result = place.run("custodian", "serve", place.file("own"))
    assert result.exit_code != 0
    assert f"cannot listen on 127.0.0.1 port {port}" in result.output


def test_a_custodian_that_accepts_simulated_tees_says_so_in_a_banner(place: Place) -> None:
    """Dangerous things look dangerous."""
    result = place.run("custodian", "init", place.file("third"), "--allow-simulated")
    assert result.exit_code == 0
    assert "SIMULATED TEE" in result.stderr


# --- Parties --------------------------------------------------------------------------------------


def test_party_files_are_private_and_hold_a_key_that_only_they_know(lent: Place) -> None:
    """Mode 0600; the custodian got the public half and shows its identifier."""
    for name, kind in (("st-mary.json", BorrowerFile), ("radiology.json", ConsumerFile)):
        assert isinstance(read(lent.file(name)), kind)
        assert stat.S_IMODE(Path(lent.file(name)).stat().st_mode) == 0o600
    [radiology] = [party for party in lent.document("consumer", "list")["parties"] if party["name"] == "radiology"]
    assert radiology["borrower"] == "st-mary"
    assert {party["role"] for party in lent.document("borrower", "list")["parties"]} == {"borrower"}


def test_a_consumer_accepts_simulated_tees_only_when_it_was_said(lent: Place) -> None:
    """The custodian's policy allows them here; a consumer file does only with the option, and then with a banner."""
    quiet = lent.run("consumer", "add", "ward", "--borrower", "st-mary", "-o", lent.file("ward.json"))
    assert quiet.exit_code == 0
    assert "SIMULATED" not in quiet.output
    ward, radiology = read(lent.file("ward.json")), read(lent.file("radiology.json"))
    assert isinstance(ward, ConsumerFile)
    assert isinstance(radiology, ConsumerFile)
    assert (ward.policy.allow_simulated, radiology.policy.allow_simulated) == (False, True)
    assert ward.policy.accepted == radiology.policy.accepted


def test_an_existing_file_is_found_before_a_party_is_enrolled(lent: Place) -> None:
    """Otherwise the party would exist and its only key would be lost."""
    before = lent.document("borrower", "list")
    result = lent.run("borrower", "add", "late", "-o", lent.file("st-mary.json"))
    assert result.exit_code == 2
    assert "file_exists" in result.stderr
    missing = lent.run("borrower", "add", "late", "-o", lent.file("nowhere/late.json"))
    assert missing.exit_code == 2
    assert lent.document("borrower", "list") == before


@pytest.mark.parametrize("name", ["Bad", "a/b", "", "x" * 64])
def test_a_bad_name_is_refused_before_anything_is_sent(place: Place, name: str) -> None:
    """Names are parsed at the edge."""
    result = place.run("borrower", "add", name, "-o", place.file("never.json"))
    assert result.exit_code == 3
    assert "bad_name" in result.stderr
    assert not Path(place.file("never.json")).exists()


def test_a_name_that_no_file_can_have_is_refused_before_anything_is_done(place: Place) -> None:
    """It is told apart from a bug, and nobody is enrolled."""
    result = place.run("borrower", "add", "nobody-else", "-o", place.file("x" * 300))
    assert (result.exit_code, "bad_path" in result.stderr) == (2, True)
    assert "nobody-else" not in place.run("borrower", "list").stdout


def test_another_operator_works_until_it_is_revoked(place: Place) -> None:
    """Its own file, its own commands, and then no more."""
    file = place.enrol_operator("eve")
    assert place.run("usage", "--operator", file).exit_code == 0
    assert place.run("operator", "revoke", "eve", "--yes").exit_code == 0
    refused = place.run("usage", "--operator", file)
    assert refused.exit_code == 4
    [eve] = [party for party in place.document("operator", "list")["parties"] if party["name"] == "eve"]
    assert eve["revoked"]


# --- Models ---------------------------------------------------------------------------------------


def test_a_sealed_model_shows_neither_weights_nor_key(lent: Place) -> None:
    """The package does not contain the graph; the file beside it is a wrapped key, for this custodian."""
    package, key = Path(lent.file("xray.aigov")), Path(lent.file("xray.aigov.key"))
    assert b"Sigmoid" in Path(lent.file("xray.onnx")).read_bytes()
    assert b"Sigmoid" not in package.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert set(json.loads(key.read_bytes())) == {"custodian", "manifest", "wrapped_key"}


def test_a_lent_model_is_listed_and_shown(lent: Place) -> None:
    """With the inputs, the digest and what the dial means."""
    [model] = [found for found in lent.document("model", "list")["models"] if found["model"] == "xray"]
    assert (model["inputs"], model["borrowers"], model["withdrawn"]) == (["image FP32[1,4]"], ["st-mary"], False)
    shown = lent.run("model", "show", "xray")
    assert model["manifest"] in shown.stdout
    assert "balanced" in shown.stdout
    unknown = lent.run("model", "show", "nothing")
    assert (unknown.exit_code, "no_model" in unknown.stderr) == (3, True)


def test_consequences_of_the_dial_are_said_when_it_is_set(lent: Place) -> None:
    """Units lost on a crash, outage survived, stop bound: where the decision is made."""
    make_model(lent.directory / "ct.onnx")
    assert lent.run("model", "seal", lent.file("ct.onnx"), "--name", "ct", "-o", lent.file("ct.aigov")).exit_code == 0
    arguments = ["model", "add", lent.file("ct.aigov"), "--borrower", "st-mary", "--dial", "strict", "--ttl", "10"]
    result = lent.run(*arguments)
    assert result.exit_code == 0, result.output
    for words in ("10 s", "crash", "withhold a stop", "10.005 s", "1,000 units"):
        assert words in result.stdout
    assert lent.document("model", "withdraw", "ct", "--yes")["model"] == "ct"
    assert lent.run("model", "add", lent.file("ct.aigov"), "--borrower", "st-mary").exit_code == 3


def test_a_ttl_that_the_dial_does_not_allow_is_refused_before_the_upload(lent: Place) -> None:
    """Hours are for the island dial."""
    result = lent.run("model", "add", lent.file("xray.aigov"), "--borrower", "st-mary", "--ttl", "3600")
    assert (result.exit_code, "bad_ttl" in result.stderr) == (3, True)


def test_a_refused_model_leaves_no_package(lent: Place) -> None:
    """Neither a broken graph nor a missing file leaves anything that looks like a package."""
    broken = lent.directory / "broken.onnx"
    broken.write_bytes(b"\xff" * 100)
    for source, code in ((broken, 5), (lent.directory / "nothing.onnx", 2)):
        result = lent.run("model", "seal", str(source), "--name", "broken", "-o", lent.file("broken.aigov"))
        assert result.exit_code == code, result.output
    sound = make_model(lent.directory / "sound.onnx")
    arguments = ["--name", "broken", "-o", lent.file("broken.aigov"), "--external-data", "nothing.bin"]
    assert lent.run("model", "seal", sound, *arguments).exit_code == 5
    assert not [found.name for found in lent.directory.iterdir() if "broken.aigov" in found.name]


def test_a_package_of_another_operator_is_refused(lent: Place) -> None:
    """Who adds a model sealed it."""
    file = lent.enrol_operator("mallory")
    result = lent.run("model", "add", lent.file("xray.aigov"), "--borrower", "st-mary", "--operator", file)
    assert result.exit_code == 5


def test_the_key_of_another_package_is_refused_before_the_upload(lent: Place) -> None:
    """The error names the key file."""
    make_model(lent.directory / "mr.onnx")
    assert lent.run("model", "seal", lent.file("mr.onnx"), "--name", "mr", "-o", lent.file("mr.aigov")).exit_code == 0
    key = lent.file("xray.aigov.key")
    result = lent.run("model", "add", lent.file("mr.aigov"), "--key", key, "--borrower", "st-mary")
    assert (result.exit_code, "wrong_deposit" in result.stderr, key in result.stderr) == (2, True, True)


# --- Budgets --------------------------------------------------------------------------------------


def rows(place: Place) -> dict[tuple[str | None, str], int | None]:
    found = place.document("budget", "show", "--model", "xray")["budgets"]
    return {(row["key"]["scope"]["consumer"], row["key"]["window"]): row["limit"] for row in found}


def test_budgets_are_granted_set_and_lifted(lent: Place) -> None:
    """Granting adds, setting replaces, and no limit is a word, never an absence."""
    start = rows(lent).get((None, "month")) or 0
    for _ in range(2):
        assert lent.run("budget", "grant", "--model", "xray", "--window", "month", "40").exit_code == 0
    assert rows(lent)[None, "month"] == start + 80
    assert (
        lent.run("budget", "set", "--model", "xray", "--consumer", "radiology", "--window", "hour", "7").exit_code == 0
    )
    assert rows(lent)["radiology", "hour"] == 7
    assert lent.run("budget", "set", "--model", "xray", "--window", "hour", "unlimited").exit_code == 0
    assert rows(lent)[None, "hour"] is None
    shown = lent.run("budget", "show")
    assert "unlimited" in shown.stdout
    assert "xray / st-mary / radiology" in shown.stdout


def test_a_budget_that_its_model_does_not_count_is_refused(lent: Place) -> None:
    """It would limit nothing, and look like a limit; who means it says so."""
    for verb in ("grant", "set"):
        arguments = ["budget", verb, "--model", "xray", "--dimension", "compute_ms", "--window", "day", "5"]
        refused = lent.run(*arguments)
        assert (refused.exit_code, "not_counted" in refused.stderr) == (3, True)
        assert "xray counts inferences" in refused.stderr
        assert lent.run(*arguments, "--force").exit_code == 0


def test_budgets_of_a_model_that_is_not_there_are_an_error(lent: Place) -> None:
    """Not an empty table: nobody should believe that a misspelt model has no budget."""
    for arguments in (["budget", "show"], ["budget", "grant", "5"], ["budget", "set", "5"]):
        result = lent.run(*arguments, "--model", "xrai")
        assert (result.exit_code, "no_model" in result.stderr) == (3, True)


@pytest.mark.parametrize("units", ["-1", "1.5", "ten", "10000000000000", "\u0661"])
def test_only_whole_units_or_unlimited_are_a_limit(lent: Place, units: str) -> None:
    """Nothing is guessed."""
    assert lent.run("budget", "set", "--model", "xray", "--", units).exit_code == 3


def test_a_budget_for_a_consumer_that_is_not_there_is_refused(lent: Place) -> None:
    """A misspelt name must not make a row that never counts."""
    result = lent.run("budget", "grant", "--model", "xray", "--consumer", "radiologie", "5")
    assert (result.exit_code, "no_party" in result.stderr) == (3, True)


def wide_windows(place: Place, hour: int = 10**9) -> None:
    """Have no window in the way, or that of an hour only."""
    for words in (["--window", "month", str(10**9)], ["--consumer", "radiology", "--window", "hour", str(hour)]):
        assert place.run("budget", "set", "--model", "xray", *words).exit_code == 0


def test_what_still_keeps_approved_units_from_being_used_is_said(lent: Place) -> None:
    """An approval raises lifetime budgets; a window that leaves less than was approved is named beside it."""
    wide_windows(lent, hour=7)
    own = ["--model", "xray", "--consumer", "radiology"]
    assert lent.run("budget", "set", *own, "0").exit_code == 0
    asking = ["--model", "xray", "--reason", "r", "--credential", lent.file("radiology.json")]
    ask = lent.document("budget", "request", "20", *asking)["ask_id"]
    approved = lent.run("budget", "approve", ask)
    assert approved.exit_code == 0
    here = "xray / st-mary / radiology"
    assert f"the lifetime budget of {here} is 20 now" in approved.stdout
    assert approved.stdout.splitlines()[-1] == f"the hour budget of {here} leaves 7 of them for now"
    again = lent.document("budget", "request", "10", *asking)["ask_id"]
    refused = lent.run("budget", "approve", again)
    assert (refused.exit_code, "window_exhausted" in refused.stderr) == (3, True)
    wide_windows(lent, hour=15)
    granted = lent.run("budget", "approve", again)
    assert granted.stdout.splitlines()[1:] == ["nothing had to be raised: so many can be granted as it is"]
    assert lent.run("budget", "set", *own, "unlimited").exit_code == 0


def test_a_budget_that_has_ended_is_named_beside_an_approval(lent: Place) -> None:
    """Nothing is granted on its path, whatever was approved."""
    wide_windows(lent)
    view = decode(json.dumps(lent.document("budget", "show", "--model", "xray")).encode(), Budgets)
    row = next(one for one in view.budgets if one.key.window is Window.MONTH)
    ended = msgspec.structs.replace(row, room=0, not_after_ms=1_000)
    ask = AskState(
        ask_id=MessageId("0" * 32),
        role=PartyRole.BORROWER,
        name="st-mary",
        scope=Scope(model=ModelId("xray"), borrower=BorrowerId("st-mary")),
        units=5,
        reason="r",
        at_ms=1,
        state="open",
    )
    (found,) = asks.held_back([ended], ask, 5, now_ms=1_000)
    assert (found.budget, found.window, found.left, found.ended_ms) == ("xray", "month", 0, 1_000)
    assert found.words() == (
        "the month budget of xray has ended (1970-01-01 00:00:01Z): nothing is granted until it is set with another end"
    )
    assert asks.held_back([msgspec.structs.replace(ended, room=5)], ask, 5, now_ms=1_000) == []
    elsewhere = msgspec.structs.replace(ended.key, scope=Scope(model=ModelId("xray"), borrower=BorrowerId("other")))
    assert asks.held_back([msgspec.structs.replace(ended, key=elsewhere)], ask, 5, now_ms=1_000) == []


def test_a_request_for_more_is_seen_and_decided(lent: Place) -> None:
    """From a consumer to an operator and back; a request is named by its first characters, and decided once."""
    wide_windows(lent)
    assert lent.run("budget", "grant", "--model", "xray", "10").exit_code == 0
    before = rows(lent)[None, "lifetime"]
    assert before is not None
    asked = [
        lent.document(
            "budget",
            "request",
            str(units),
            "--model",
            "xray",
            "--reason",
            "r",
            "--credential",
            lent.file("radiology.json"),
        )
        for units in (30, 31)
    ]
    first, second = (ask["ask_id"] for ask in asked)
    assert {first, second} <= {ask["ask_id"] for ask in lent.document("budget", "requests")["asks"]}
    approved = lent.run("budget", "approve", first[:6], "--units", "20")
    assert approved.exit_code == 0
    assert approved.stdout.splitlines()[1:] == [f"the lifetime budget of xray is {before + 20:,} now"]
    assert rows(lent)[None, "lifetime"] == before + 20
    denied = lent.document("budget", "deny", second, "--reason", "no")
    assert (denied["units"], denied["raised"]) == (0, [])
    states = {ask["ask_id"]: ask["state"] for ask in lent.document("budget", "requests", "--all")["asks"]}
    assert (states[first], states[second]) == ("approved", "denied")
    assert not {first, second} & {ask["ask_id"] for ask in lent.document("budget", "requests")["asks"]}
    assert lent.run("budget", "approve", first).exit_code == 3
    for unknown in ("zzzzzz", second[:5], "z", ""):
        refused = lent.run("budget", "approve", unknown)
        assert (refused.exit_code, "no_ask" in refused.stderr) == (3, True)


def test_a_consumer_sees_what_became_of_its_requests(lent: Place) -> None:
    """Without an operator's file: what is left, and each request with who decided it; others' are not shown."""
    own = ["--credential", lent.file("radiology.json")]
    ask = lent.document("budget", "request", "7", "--model", "xray", "--reason", "night shift", *own)["ask_id"]
    others = lent.document(
        "budget", "request", "9", "--model", "xray", "--reason", "host", "--credential", lent.file("st-mary.json")
    )["ask_id"]
    assert lent.run("budget", "deny", ask, "--reason", "not tonight").exit_code == 0
    view = lent.document("budget", "own", *own)
    assert [one["model"] for one in view["budgets"] if one["model"] == "xray"] == ["xray"]
    states = {one["ask_id"]: (one["state"], one["decided_by"]) for one in view["asks"]}
    assert states[ask] == ("denied", "operator")
    assert others not in states
    shown = lent.run("budget", "own", *own, AIGOVTOOL_OPERATOR="")
    assert "denied by operator (not tonight)" in shown.stdout
    assert "night shift" in shown.stdout


def test_an_operator_file_cannot_ask_for_more(lent: Place) -> None:
    """Who decides does not ask."""
    result = lent.run("budget", "request", "5", "--model", "xray", "--reason", "r", "--credential", str(lent.operator))
    assert (result.exit_code, "wrong_party_file" in result.stderr) == (2, True)


def test_nothing_used_and_no_enclave_are_sentences(lent: Place) -> None:
    """Not an empty table; for programs, an empty list."""
    assert "nothing was used" in lent.run("usage").stdout
    assert "no enclave" in lent.run("enclaves").stdout
    assert lent.document("usage") == {"usage": []}


# --- The audit log --------------------------------------------------------------------------------


def test_the_log_of_a_real_custodian_verifies_offline(lent: Place) -> None:
    """Exported, then verified with nothing but the file and the root key."""
    file = lent.file("log.jsonl")
    exported = lent.document("audit", "export", "-o", file)
    operator = read(str(lent.operator))
    verified = lent.document("audit", "verify", file, "--root", operator.custodian.root.hex())
    assert (verified["entries"], verified["root"]) == (exported["entries"], exported["root"])
    assert verified == lent.document("audit", "verify", file)
    people = lent.run("audit", "verify", file)
    assert "verifies" in people.stdout
    assert lent.run("audit", "export", "-o", file).exit_code == 2


@pytest.mark.fault(13)
def test_a_changed_log_is_refused_and_the_entry_is_named(lent: Place) -> None:
    """Exit code 5, for the program that runs it every night."""
    file = Path(lent.file("changed.jsonl"))
    assert lent.run("audit", "export", "-o", str(file)).exit_code == 0
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"index":2', b'"index":3')
    file.write_bytes(b"".join(lines))
    result = lent.run("audit", "verify", str(file))
    assert (result.exit_code, "entry 2: " in result.stderr) == (5, True)


def test_the_log_is_read_by_people_from_its_end(lent: Place) -> None:
    """Who did what, and when; the newest, of the kinds that were asked for, in the order of the log."""
    everything = lent.document("audit", "list", "--last", "1000")
    assert [entry["index"] for entry in everything["entries"]] == list(range(everything["size"]))
    added = lent.document("audit", "list", "--kind", "party_added", "--kind", "model_added", "--last", "3")["entries"]
    wanted = [entry for entry in everything["entries"] if entry["kind"] in {"party_added", "model_added"}]
    assert added == wanted[-3:]
    assert len(wanted) > 3
    text = lent.run("audit", "list", "--last", "1000").stdout
    assert "operator operator" in text
    assert "enrolled consumer radiology" in text
    assert "lent model xray" in text


def test_every_kind_of_entry_can_be_read_and_chosen() -> None:
    """A new kind brings its sentence and its name on the command line."""
    kinds = {kind.__struct_config__.tag for kind in EntryBody.__args__}
    assert set(KINDS) == kinds
    assert set(_SENTENCES) == set(EntryBody.__args__)


def test_the_root_key_is_shown_from_the_custodian_and_from_any_party_file(lent: Place) -> None:
    """Whoever verifies a log is given it; it is the one that verifies."""
    shown = lent.document("custodian", "show", lent.file("custodian"))
    operator = read(str(lent.operator))
    assert (shown["root"], shown["url"]) == (operator.custodian.root.hex(), operator.custodian.url)
    assert shown["certificate_until_ms"]  # which only the directory tells
    assert lent.document("custodian", "show", lent.file("st-mary.json")) == {**shown, "certificate_until_ms": None}
    file = lent.file("proof.jsonl")
    assert lent.run("audit", "export", "-o", file).exit_code == 0
    assert lent.run("audit", "verify", file, "--root", shown["root"]).exit_code == 0
    other = lent.run("audit", "verify", file, "--root", "00" * 32)
    assert (other.exit_code, "custodian show" in other.stderr) == (5, True)


@pytest.mark.parametrize("root", ["", "00", "zz" * 32, "AAAA"])
def test_a_root_key_is_32_bytes(place: Place, root: str) -> None:
    """A typing error must not become a log by another custodian."""
    result = place.run("audit", "verify", "log.jsonl", "--root", root)
    assert (result.exit_code, "bad_root" in result.stderr) == (2, True)


# --- Everything that needs nobody -----------------------------------------------------------------


def test_a_measurement_of_the_simulated_tee_is_red(place: Place) -> None:
    """It is a reference value, and worth nothing as protection."""
    result = place.run("enclave", "measure", "--json")
    assert result.exit_code == 0
    assert "SIMULATED TEE" in result.stderr
    found = json.loads(result.stdout)
    assert (found["simulated"], len(found["measurement"])) == (True, 96)


def test_the_simulated_tee_is_never_chosen_by_auto(lent: Place) -> None:
    """And asked for by name it still needs the second word."""
    common = [
        "enclave",
        "serve",
        "--borrower-file",
        lent.file("st-mary.json"),
        "--model",
        "xray",
        "--listen",
        "127.0.0.1:0",
    ]
    for more, reason in (([], "attester_none_found"), (["--tee", "simulated"], "simulated_refused")):
        result = lent.run(*common, *more, "--cache", lent.file("cache"))
        assert (result.exit_code, reason in result.stderr) == (2, True), result.output


def test_the_version_is_an_option_too(place: Place) -> None:
    """Where people look for it first."""
    result = place.run("--version")
    assert (result.exit_code, result.stdout) == (0, f"aigovtool {place.document('version')['aigovtool']}\n")
