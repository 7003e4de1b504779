"""The terms of a model, changed from the command line, on a custodian with an enclave that draws leases."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from tests.cli.conftest import Place
from tests.cli.site import BUDGET, Site, do, make_site
from tests.custodian.conftest import BORROWER, MODEL, want

from aigovtool.cli.model.dial import DIALS, EXAMPLE, budget_meant, compute_meant, meaning, terms_facts
from aigovtool.ids import BorrowerId, ModelId
from aigovtool.ledger.answers import AnswerTerms
from aigovtool.ledger.budget import RowKey, Scope, Window
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol.messages import Grant
from aigovtool.protocol.views import BudgetView
from aigovtool.transport.server import bind_loopback


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A custodian with two operators, a model with a budget, and one enclave."""
    with bind_loopback() as listener:
        made = make_site(tmp_path, listener, None)
        yield made
        made.bench.custodian.database.close()


def terms(place: Place, *arguments: str) -> Result:
    return place.run("model", "terms", MODEL, *arguments)


def lease(site: Site) -> Grant:
    """Have the enclave draw as much as the dial allows."""
    (result,) = do(site.enclave.renew(want(100))).results
    assert isinstance(result, Grant)
    return result


# --- One operator -------------------------------------------------------------------------------------


def test_present_terms_are_shown_with_what_they_mean(site: Site) -> None:
    """Without options: the three consequences, for the budget that the model has now; nothing is changed."""
    with site.served() as place:
        site.draw(10)
        shown = terms(place)
        assert shown.exit_code == 0, shown.output
        for words in ("990 units left", "balanced", "at most 18 units", "30 s", "30.015 s", BORROWER):
            assert words in shown.stdout
        document = place.document("model", "terms", MODEL)
        assert (document["now"]["version"], document["then"]) == (1, None)
        assert (document["budget"]["room"], document["budget"]["limit"]) == (BUDGET - 10, BUDGET)


def test_new_terms_are_shown_beside_the_old_and_hold_from_the_next_lease(site: Site) -> None:
    """Asked first, with both in words and numbers; then the next lease is cut to them."""
    with site.served() as place:
        unanswered = terms(place, "--dial", "strict", "--ttl", "10")
        assert (unanswered.exit_code, "not_confirmed" in unanswered.stderr) == (3, True)
        for words in ("balanced", "strict", "at most 20 units", "at most 2 units", "30.015 s", "10.005 s"):
            assert words in unanswered.stdout
        assert place.document("model", "terms", MODEL)["now"]["dial"] == "balanced"
        done = terms(place, "--dial", "strict", "--ttl", "10", "--yes")
        assert done.exit_code == 0, done.output
        assert "lent on these terms now" in done.stdout
        assert place.document("model", "terms", MODEL)["now"]["version"] == 2
        granted = lease(site)
        assert (granted.units.inferences, granted.ttl_ms) == (1, 10_000)


def test_what_no_option_names_stays(site: Site) -> None:
    """A new ttl keeps the dial, a new borrower keeps both, and a new dial brings its own ttl."""
    with site.served() as place:
        assert terms(place, "--ttl", "10", "--yes").exit_code == 0
        place.run("borrower", "add", "clinic", "-o", place.file("clinic.json"))
        assert terms(place, "--borrower", "clinic", "--borrower", BORROWER, "--yes").exit_code == 0
        now = place.document("model", "terms", MODEL)["now"]
        assert (now["dial"], now["ttl_ms"], now["version"]) == ("balanced", 10_000, 3)
        assert now["borrowers"] == ["clinic", BORROWER]
        done = place.document("model", "terms", MODEL, "--dial", "strict", "--yes")
        assert (done["then"]["ttl_ms"], done["then"]["borrowers"]) == (30_000, ["clinic", BORROWER])
        gone = terms(place, "--borrower", "clinic", "--yes")
        assert f"Enclaves of {BORROWER} get no lease" in gone.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--ttl", "3600"], "bad_ttl"),
        (["--dial", "balanced"], "same_terms"),
        (["--any-number", "--max-run-ms", "0"], "same_terms"),
        (["--borrower", "Not A Name"], "bad_name"),
        (["--dial", "strict", "--save", "order.json"], "needs_one"),
        (["--dial", "island"], "needs_second"),
        (["--compute-ms", "500"], "not_counted"),
    ],
)
def test_terms_that_make_no_sense_are_refused_before_anything_is_asked(
    arguments: list[str], reason: str, site: Site
) -> None:
    """A ttl that the dial does not allow, what is so already, one operator where two are needed, and the reverse."""
    with site.served() as place:
        words = [place.file(word) if word.endswith(".json") else word for word in arguments]
        refused = terms(place, *words)
        assert (refused.exit_code, reason in refused.stderr) == (3, True), refused.output
        assert refused.stdout == ""
        assert place.document("model", "terms", MODEL)["now"]["version"] == 1


def test_bounds_of_runs_and_inputs_are_terms_of_one_operator(site: Site) -> None:
    """Set and lifted, told in words beside the old ones, and kept by an order that does not name them."""
    with site.served() as place:
        done = terms(place, "--max-run-ms", "2000", "--finite", "--yes")
        assert done.exit_code == 0, done.output
        for words in ("until its request's deadline", "at most 2 s", "any number, also NaN", "numbers only"):
            assert words in done.stdout
        assert terms(place, "--ttl", "10", "--yes").exit_code == 0
        now = place.document("model", "terms", MODEL)["now"]
        assert (now["max_run_ms"], now["finite_inputs"], now["version"]) == (2_000, True, 3)
        assert "at most 2 s" in place.run("model", "show", MODEL).stdout
        assert do(site.enclave.renew()).terms[0].max_run_ms == 2_000
        then = place.document("model", "terms", MODEL, "--max-run-ms", "0", "--any-number", "--yes")["then"]
        assert (then["max_run_ms"], then["finite_inputs"], then["ttl_ms"]) == (None, False, 10_000)


def test_batches_are_terms_of_one_operator(site: Site) -> None:
    """Set and lifted, told in words beside the old ones, and kept by an order that does not name them."""
    with site.served() as place:
        done = terms(place, "--batch", "--yes")
        assert done.exit_code == 0, done.output
        for words in ("computed one by one", "computed as the rows of one"):
            assert words in done.stdout
        assert terms(place, "--finite", "--yes").exit_code == 0
        now = place.document("model", "terms", MODEL)["now"]
        assert (now["batch"], now["finite_inputs"], now["version"]) == (True, True, 3)
        assert "as the rows of one" in place.run("model", "show", MODEL).stdout
        assert do(site.enclave.renew()).terms[0].inputs == InputTerms(finite=True, batch=True)
        then = place.document("model", "terms", MODEL, "--one-by-one", "--yes")["then"]
        assert (then["batch"], then["finite_inputs"]) == (False, True)


def test_a_withdrawn_model_has_no_terms_to_change(site: Site) -> None:
    """It is said before anything is sent; what its terms were can still be seen."""
    with site.served() as place:
        assert place.run("model", "withdraw", MODEL, "--yes", "--wait", "0").exit_code in {0, 7}
        assert terms(place).exit_code == 0
        refused = terms(place, "--dial", "strict", "--yes")
        assert (refused.exit_code, "already_withdrawn" in refused.stderr) == (3, True)


# --- Two operators ------------------------------------------------------------------------------------


def cosign(place: Place, *more: str, file: str = "order.json") -> Result:
    return place.run("cosign", place.file(file), *more, "--operator", place.file("bob.json"))


def test_island_is_set_by_two_operators_who_see_the_same(site: Site) -> None:
    """The first saves the order, the second reads old and new terms from it, and only then they hold."""
    with site.served() as place:
        saved = terms(place, "--dial", "island", "--save", place.file("order.json"))
        assert saved.exit_code == 0, saved.output
        assert "aigovtool cosign" in saved.stdout
        assert lease(site).ttl_ms == 30_000
        unanswered = cosign(place)
        assert (unanswered.exit_code, "not_confirmed" in unanswered.stderr) == (3, True)
        for words in ("Operator alice orders: set model terms", "balanced", "island", "4 h", "at most"):
            assert words in unanswered.stdout
        assert "reason" not in unanswered.stdout
        done = cosign(place, "--yes")
        assert done.exit_code == 0, done.output
        granted = lease(site)
        assert (granted.ttl_ms, granted.units.inferences) == (4 * 3_600_000, 99)
        (told,) = place.document("audit", "list", "--kind", "model_terms_set")["entries"]
        assert told["who"] == "operators alice and bob"


def test_an_order_for_terms_is_refused_when_they_were_changed_since(site: Site) -> None:
    """The two operators judged something else: said before the second signs."""
    with site.served() as place:
        assert terms(place, "--dial", "island", "--save", place.file("order.json")).exit_code == 0
        assert terms(place, "--dial", "strict", "--yes").exit_code == 0
        refused = cosign(place, "--yes")
        assert (refused.exit_code, "terms_changed" in refused.stderr) == (3, True)
        assert place.document("model", "terms", MODEL)["now"]["dial"] == "strict"


def test_a_model_is_lent_under_island_by_two_operators(lent: Place) -> None:
    """`model add` uploads it and saves the order; the second sees to whom and what the dial means."""
    bob, order = lent.enrol_operator("bob2"), lent.file("island.json")
    sealed = lent.file("island.aigov")
    assert lent.run("model", "seal", lent.file("xray.onnx"), "--name", "island", "-o", sealed).exit_code == 0
    add = ["model", "add", sealed, "--borrower", "st-mary", "--dial", "island"]
    refused = lent.run(*add)
    assert (refused.exit_code, "needs_second" in refused.stderr) == (3, True)
    assert "add --save order.json" in refused.stderr  # said here, before the upload, and not by the custodian
    saved = lent.run(*add, "--save", order)
    assert saved.exit_code == 0, saved.output
    for words in ("not lent yet", "at most 200 units", "budget of 1,000 units", "4 h"):
        assert words in saved.stdout
    assert "island" not in [found["model"] for found in lent.document("model", "list")["models"]]
    cosigned = lent.run("cosign", order, "--operator", bob, "--yes")
    assert cosigned.exit_code == 0, cosigned.output
    for words in ("lends a model", "st-mary", "at most 200 units", "4 h"):
        assert words in cosigned.stdout
    assert "island" in [found["model"] for found in lent.document("model", "list")["models"]]


# --- Words --------------------------------------------------------------------------------------------


def row(room: int | None, limit: int | None, window: Window = Window.LIFETIME, **scope: BorrowerId) -> BudgetView:
    key = RowKey(
        scope=Scope(model=MODEL, **scope),  # type: ignore[arg-type]
        dimension=Dimension.INFERENCES,
        window=window,
        bucket_ms=0,
    )
    return BudgetView(key=key, limit=limit, posted=0, pending=0, room=room, consequences=None)


def test_consequences_are_for_the_tightest_budget_of_the_whole_model() -> None:
    """Not for a borrower's part, nor for one without a limit; an example where there is none."""
    policy = default_policy(Dial.BALANCED)
    rows = [row(900, 1_000), row(50, 60, Window.DAY), row(None, None, Window.HOUR), row(1, 5, borrower=BORROWER)]
    found = budget_meant(rows, MODEL, policy)
    assert (found.room, found.limit, found.window, found.example) == (50, 60, "day", False)
    assert found.words() == "with 50 units left of the day budget of 60"
    assert budget_meant(rows, ModelId("another"), policy) is EXAMPLE
    assert budget_meant(rows[2:], MODEL, policy) is EXAMPLE


def test_compute_is_told_for_its_own_budget() -> None:
    """Where it has none with a limit, for one with enough for as many requests; in bound mode, for each request."""
    policy = default_policy(Dial.BALANCED, compute_ms=10_000)
    key = RowKey(scope=Scope(model=MODEL), dimension=Dimension.COMPUTE_MS, window=Window.LIFETIME, bucket_ms=0)
    tight = BudgetView(key=key, limit=30_000, posted=0, pending=0, room=25_000, consequences=None)
    budget, lost = budget_meant([tight], MODEL, policy), "a crash of an enclave loses"
    each_consumer = "for each consumer that it serves (more for larger batches)"
    assert budget is EXAMPLE
    facts = [
        dict(terms_facts(meaning(policy, [], budget, compute_meant(rows, MODEL, policy)))) for rows in ([], [tight])
    ]
    assert [each[lost] for each in facts] == [
        f"at most 20 units and 3 min 20 s of compute {each_consumer}",
        f"at most 20 units and 25 s of compute {each_consumer}",
    ]
    bound = dict(terms_facts(meaning(default_policy(Dial.BOUND, compute_ms=10_000), [], EXAMPLE)))
    assert bound[lost].startswith("at most 1 unit and 10 s of compute for each request")
    assert bound["custodian may be away for"] == "no time: each request is asked for"
    assert bound["a request is ended after computing for"] == "10 s"


def test_every_dial_is_an_option_with_consequences() -> None:
    """A dial that is added to the protocol needs no change here."""
    assert set(DIALS) == {dial.value for dial in Dial}
    for dial in Dial:
        told = dict(terms_facts(meaning(default_policy(dial), ["hospital"], EXAMPLE)))
        assert told["dial"] == dial
        assert told["a crash of an enclave loses"].startswith("at most ")


def test_every_term_of_a_policy_is_in_what_a_second_operator_reads() -> None:
    """An order may be made by another program than this one: each field that it changes changes a line."""
    policy = default_policy(Dial.ISLAND, compute_ms=100)
    changed = {
        "version": 2,
        "dial": Dial.BALANCED,
        "ttl_ms": policy.ttl_ms - 3_600_000,
        "wipe_after_ms": policy.wipe_after_ms + 3_600_000,
        "required": [],
        "max_unclosed_percent_per_instance": 100,
        "max_unclosed_percent_per_borrower": 100,
        "max_lease_units": 10**12,
        "max_attestation_age_ms": policy.max_attestation_age_ms + 3_600_000,
        "request_max": msgspec.structs.replace(policy.request_max, compute_ms=200),
        "answers": AnswerTerms(pad_bytes=1024),
        "max_run_ms": 10_000,
        "inputs": InputTerms(finite=True),
    }
    # What a model is metered in never changes.
    assert {*changed, "dimension", "also"} == set(ServingPolicy.__struct_fields__)
    before = terms_facts(meaning(policy, ["st-mary"], EXAMPLE))
    assert terms_facts(
        meaning(msgspec.structs.replace(policy, inputs=InputTerms(batch=True)), ["st-mary"], EXAMPLE)
    ) != (before)
    for name, value in changed.items():
        after = terms_facts(meaning(msgspec.structs.replace(policy, **{name: value}), ["st-mary"], EXAMPLE))
        assert len(after) == len(before), name
        assert after != before, name
    assert terms_facts(meaning(policy, ["elsewhere"], EXAMPLE)) != before
