"""The campaign of malformed models: it makes what it says, finds nothing, and would find what is wrong."""

from collections.abc import Awaitable
from pathlib import Path
from random import Random

import pytest
from assurance.campaigns import models
from assurance.campaigns.models import CAMPAIGN, MODELS
from assurance.models import own_graphs
from assurance.models.edits import malformed
from assurance.models.engine import Trial
from assurance.models.sealing import Sealed
from onnx import ModelProto
from tests.observations import Observed

from aigovtool.enclave.engines.process import EngineProcess, LoadedModel
from aigovtool.errors import EngineError


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """A place where models are tried."""
    return Trial(tmp_path)


def _good() -> ModelProto:
    return own_graphs.own_graphs()[0]


@pytest.mark.attack(25)
@pytest.mark.fault(38)
def test_a_seed_of_malformed_models_finds_nothing(observed: Observed) -> None:
    """Some of them are refused, some load: the edits neither destroy everything nor change nothing."""
    (figures,) = CAMPAIGN.run([0], float("inf"))
    assert (figures.violations, figures.count("models")) == ([], MODELS)
    came = {name: number for name, number in figures.counts.items() if name.startswith("came: ")}
    assert sum(came.values()) == MODELS
    assert sum(number for name, number in came.items() if "loaded" in name) > 0
    assert sum(number for name, number in came.items() if "refused: model_refused" in name) > 0
    assert CAMPAIGN.broken(figures) == []
    observed.figure("malformed models", MODELS)
    assert f"{MODELS} malformed models: " in CAMPAIGN.figure(figures)


def test_the_same_seed_makes_the_same_models() -> None:
    """What was wrong once can be looked at again."""
    for number, graph in enumerate(own_graphs.own_graphs()):
        assert malformed(graph, Random(number)) == malformed(graph, Random(number))
    made = {malformed(_good(), Random(number))[0] for number in range(60)}
    assert len(made) > 40


async def test_our_own_graphs_load_as_they_are(trial: Trial) -> None:
    """Edits begin with something that is served."""
    for graph in own_graphs.own_graphs():
        outcome = await trial.judge(bytes(graph.SerializeToString()), graph)
        assert (outcome.came, outcome.wrong) == ("loaded and answered", None)
    await trial.end()


async def test_a_child_that_is_killed_is_a_death_and_no_fault(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a signal, as a crash is; the next model gets another child."""
    load = Sealed.load

    async def killed(sealed: Sealed, engine: EngineProcess, timeout_ms: int) -> LoadedModel:
        if sealed.path.name == "malformed":
            engine.kill()
        return await load(sealed, engine, timeout_ms)

    monkeypatch.setattr(Sealed, "load", killed)
    outcome = await trial.judge(b"", _good())
    assert (outcome.came, outcome.wrong) == ("died: SIGKILL", None)
    monkeypatch.setattr(Sealed, "load", load)
    assert (await trial.judge(bytes(_good().SerializeToString()), _good())).came == "loaded and answered"
    await trial.end()


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (ValueError("a bug"), "not a typed error"),
        (EngineError("the engine child is gone: it broke the protocol", reason="engine_died"), "broke the protocol"),
    ],
)
async def test_what_should_not_be_is_told(
    error: Exception, wrong: str, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error without a type, and a child that says what it should not."""

    async def failing(_trial: Trial, loading: Awaitable[LoadedModel]) -> str:
        await loading
        trial._living().kill()
        raise error

    monkeypatch.setattr(Trial, "_use", failing)
    outcome = await trial.judge(bytes(_good().SerializeToString()), _good())
    assert wrong in (outcome.wrong or "")


def test_descriptors_that_a_parent_keeps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than before the first model is one too many."""
    counted = iter((7, 8))
    monkeypatch.setattr(models, "descriptors", lambda: next(counted))
    (figures,) = CAMPAIGN.run([0], float("inf"))
    assert "holds 8 descriptors and not 7" in figures.violations[0].what
