"""Which models an enclave sets aside, for whose failures, and for how long."""

from dataclasses import dataclass, field

import pytest

from aigovtool.enclave.roster import (
    DEATHS,
    DEATHS_WITHIN_S,
    LEAST_S,
    MOST_S,
    TRIES,
    Roster,
    error_of,
    is_of_one,
)
from aigovtool.errors import (
    AIGovToolError,
    ClockLeaptError,
    ConfigurationError,
    EngineError,
    ForbiddenError,
    LedgerRollbackError,
    ModelError,
    NotFoundError,
    NotServedError,
    OverloadedError,
    PackageError,
    ReattestRequiredError,
    SignatureInvalidError,
    StoppedError,
    StorageError,
    UnauthenticatedError,
    UnreachableError,
)
from aigovtool.ids import ModelId
from aigovtool.protocol.release import NotServed

A, B, C = ModelId("a"), ModelId("b"), ModelId("c")
DIED = EngineError("gone", reason="engine_died")


@dataclass
class Stand:
    """A roster at a time that a test sets."""

    models: tuple[ModelId, ...] = (A, B)
    now_s: float = 1_000.0
    roster: Roster = field(init=False)

    def __post_init__(self) -> None:
        self.roster = Roster(list(self.models), lambda: self.now_s)

    def wanted(self) -> list[ModelId]:
        return self.roster.wanted()

    def die(self, *running: ModelId, times: int = 1, apart_s: float = 1.0) -> None:
        for _ in range(times):
            self.now_s += apart_s
            self.roster.engine_died(running)

    def set_aside(self, model: ModelId = A, error: AIGovToolError = DIED) -> None:
        while model in self.wanted():
            assert self.roster.failed(model, error)


# --- Failures of a boot ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "of_one"),
    [
        (UnreachableError("", reason="custodian"), False),
        (UnreachableError("", reason="download_stuck"), True),
        (OverloadedError("", reason="boots"), False),
        (StoppedError(""), False),
        (ReattestRequiredError(""), False),
        (UnauthenticatedError("", reason="credential_expired"), False),
        (LedgerRollbackError(""), False),
        (ClockLeaptError(""), False),
        (StorageError(""), False),
        (StorageError("", reason="package_unreadable"), True),
        (PackageError("", reason="download_digest"), True),
        (NotFoundError("", reason="no_package"), True),
        (ForbiddenError("", reason="not_lent"), True),
        (SignatureInvalidError(""), True),
        (ConfigurationError("", reason="load_too_long"), True),
        (ConfigurationError("", reason="cache"), True),
        (EngineError("", reason="out_of_memory"), True),
        (ModelError(""), True),
        (DIED, True),
    ],
    ids=lambda value: (
        value.code + (f": {value.reason}" if value.reason else "") if isinstance(value, AIGovToolError) else None
    ),
)
def test_what_says_nothing_of_a_model_is_not_that_models_failure(error: AIGovToolError, of_one: bool) -> None:  # noqa: FBT001
    """A custodian that is away, or refuses the instance, would have one model after the other set aside."""
    assert is_of_one(error) is of_one


def test_a_model_is_tried_once_more_before_it_is_set_aside() -> None:
    """The first failure may be chance, and what was damaged is fetched anew."""
    stand = Stand()
    for number in range(1, TRIES + 1):
        assert stand.wanted() == [A, B]
        assert stand.roster.failed(A, DIED)
        assert (A in stand.wanted()) is (number < TRIES)
    assert stand.roster.aside() == (NotServed(model=A, code="engine_failed", reason="engine_died"),)


@pytest.mark.parametrize(
    "error",
    [
        ModelError("", reason="engine_refused"),
        ConfigurationError("", reason="load_too_long"),
        UnreachableError("", reason="download_stuck"),
    ],
)
def test_what_would_come_out_the_same_counts_at_once(error: AIGovToolError) -> None:
    """The others do not wait for a second refusal of the same bytes, nor twice for a load that takes too long.

    A download that does not come any further was tried several times before.
    """
    stand = Stand()
    assert stand.roster.failed(A, error)
    assert stand.wanted() == [B]


def test_failures_that_are_not_in_a_row_set_nothing_aside() -> None:
    """A boot in which a model was loaded shows that it can be."""
    stand = Stand()
    for _ in range(5):
        assert stand.roster.failed(A, DIED)
        stand.roster.booted([A, B], 1.0)
    assert stand.wanted() == [A, B]


@pytest.mark.parametrize("models", [(A,), (B, A)])
def test_the_last_model_is_never_set_aside(models: tuple[ModelId, ...]) -> None:
    """Then the enclave fails as one for a single model does, with the reason."""
    stand = Stand(models)
    for other in models[:-1]:
        stand.set_aside(other)
    for error in (DIED, ModelError("", reason="engine_refused")):
        assert not stand.roster.failed(A, error)
    stand.die(A, times=20)
    assert stand.wanted() == [A]


# --- Tried again -------------------------------------------------------------------------------


def test_what_was_set_aside_is_tried_again_later_and_ever_later() -> None:
    """One failure is enough then; each time it is left out for longer, up to a week."""
    stand = Stand()
    stand.set_aside()
    stand.roster.booted([B], 1.0)
    waited = list[float]()
    for _ in range(8):
        due_s = stand.roster.due_s()
        assert due_s is not None
        waited.append(due_s)
        stand.now_s += due_s - 1
        assert stand.wanted() == [B]
        stand.now_s += 1
        assert stand.wanted() == [A, B]
        assert stand.roster.failed(A, DIED)
        assert stand.wanted() == [B]
    assert waited == [min(MOST_S, LEAST_S * 4**number) for number in range(8)]


def test_an_enclave_that_boots_slowly_is_not_booted_often_for_one_model() -> None:
    """Each try interrupts the others for as long as a boot takes."""
    stand = Stand()
    stand.roster.booted([A, B], 600.0)
    stand.set_aside()
    assert stand.roster.due_s() == 50 * 600.0


def test_what_the_engine_refuses_is_not_tried_again_by_itself() -> None:
    """Nor does it keep the enclave from trying others again."""
    stand = Stand((A, B, C))
    stand.set_aside(A, ModelError("", reason="engine_refused"))
    assert stand.roster.due_s() is None
    stand.now_s += 100 * MOST_S
    assert stand.wanted() == [B, C]
    stand.set_aside(B)
    assert stand.roster.due_s() == LEAST_S


def test_a_model_that_is_served_again_or_that_the_custodian_refuses_is_not_due() -> None:
    """Else the enclave would boot anew at once, for ever."""
    stand = Stand()
    stand.set_aside()
    stand.now_s += LEAST_S
    assert stand.roster.due_s() == 0
    stand.roster.booted([A, B], 1.0)
    assert stand.roster.due_s() is None
    assert stand.roster.aside() == ()


# --- Ends of the engine ------------------------------------------------------------------------


def test_a_model_that_ends_the_engine_again_and_again_is_set_aside() -> None:
    """It alone was run each time."""
    stand = Stand()
    stand.die(A, times=DEATHS - 1)
    assert stand.wanted() == [A, B]
    stand.die(A)
    assert stand.wanted() == [B]
    assert stand.roster.aside() == (NotServed(model=A, code="engine_failed", reason="engine_died"),)


def test_what_was_run_beside_it_now_and_then_is_not_blamed() -> None:
    """Of two that ran at the first end, the one counts that ran at all of them."""
    stand = Stand()
    stand.die(A, B)
    stand.die(A)
    stand.die(A, B)
    assert stand.wanted() == [B]


@pytest.mark.parametrize(
    "running",
    [
        [(A, B)] * 10,
        [(A,), (B,)] * 5,
        [(A,), (A,), ()] * 3,
        [()] * 10,
    ],
    ids=["both each time", "in turns", "once it was idle", "idle"],
)
def test_nobody_is_blamed_if_it_is_not_certain(running: list[tuple[ModelId, ...]]) -> None:
    """Two that always run together, an engine that ends by itself: then all are served again, as ever."""
    stand = Stand()
    for models in running:
        stand.die(*models)
    assert stand.wanted() == [A, B]


def test_what_happens_now_and_then_does_not_count() -> None:
    """A crash an hour is bad; leaving the model out is worse."""
    stand = Stand()
    stand.die(A, times=20, apart_s=DEATHS_WITHIN_S / (DEATHS - 1) + 1)
    assert stand.wanted() == [A, B]


def test_a_slow_boot_does_not_hide_who_ends_the_engine() -> None:
    """Where a boot takes five minutes, three ends of the engine never come within ten."""
    stand = Stand()
    stand.roster.booted([A, B], 300.0)
    stand.die(A, times=DEATHS, apart_s=400.0)
    assert stand.wanted() == [B]


def test_who_is_served_again_has_less_credit_for_a_while() -> None:
    """The first end of the engine by a model that was back for less than it had been away counts."""
    stand = Stand()
    stand.die(A, times=DEATHS)
    stand.now_s += LEAST_S
    stand.roster.booted([A, B], 1.0)
    stand.now_s += LEAST_S / 2
    stand.die(A, B)
    assert stand.wanted() == [A, B]
    stand.die(A)
    assert stand.wanted() == [B]
    assert stand.roster.due_s() == 4 * LEAST_S


def test_who_was_served_for_long_has_a_clean_slate() -> None:
    """As many ends as the first time, and as short a time away."""
    stand = Stand()
    stand.die(A, times=DEATHS)
    stand.now_s += LEAST_S
    stand.roster.booted([A, B], 1.0)
    stand.now_s += 10 * LEAST_S
    stand.die(A, times=DEATHS - 1)
    assert stand.wanted() == [A, B]
    stand.die(A)
    assert stand.wanted() == [B]
    assert stand.roster.due_s() == LEAST_S


# --- What is said ------------------------------------------------------------------------------


def test_whoever_asks_for_it_is_told_why() -> None:
    """A stop is told as a stop, as everywhere; anything else by its reason."""
    assert isinstance(error_of(NotServed(model=A, code="stopped")), StoppedError)
    for missing, reason in (
        (NotServed(model=A, code="engine_failed", reason="engine_died"), "engine_died"),
        (NotServed(model=A, code="model_refused"), "model_refused"),
    ):
        error = error_of(missing)
        assert isinstance(error, NotServedError)
        assert (error.status, error.reason) == (503, reason)


def test_setting_aside_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    """One line with the model, the error and when it is tried again."""
    Stand().set_aside()
    (line,) = [one for one in caplog.records if one.getMessage() == "model_set_aside"]
    assert line.levelname == "ERROR"
    said = {name: vars(line)[name] for name in ("model", "code", "reason", "tried_again_in_s")}
    assert said == {"model": A, "code": "engine_failed", "reason": "engine_died", "tried_again_in_s": 600}
