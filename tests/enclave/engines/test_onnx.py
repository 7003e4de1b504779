"""Runs before one deadline: what the session is told, and that nobody watches over it afterwards."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.enclave.engines.onnx import OnnxModel
from aigovtool.enclave.engines.watchdog import Watchdog
from aigovtool.errors import DeadlineError, InvalidValueError
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol.tensor import Datatype, Tensor

FAR_NS = 60_000_000_000
InvalidArgument = type("InvalidArgument", (Exception,), {})


def spec(name: str) -> TensorSpec:
    return TensorSpec(name=name, datatype=ManifestDatatype.FP32, shape=(2,))


def numbers(first: float) -> list[Tensor]:
    return [Tensor("x", Datatype.FP32, (2,), np.array([first, 1], np.float32).tobytes())]


@dataclass
class Session:
    """Stands in for one of the library: doubles, and lets a test look on while it does."""

    asked: list[tuple[tuple[str, ...], float]] = field(default_factory=list)
    options: list[Any] = field(default_factory=list)
    during: Callable[[], None] = lambda: None

    def run(self, names: tuple[str, ...], feed: dict[str, Any], options: Any) -> list[Any]:
        """Compute, as the library does."""
        self.asked.append((names, float(feed["x"][0])))
        self.options.append(options)
        self.during()
        if feed["x"][0] < 0:
            raise InvalidArgument
        return [feed["x"] * 2 for _ in names]


@pytest.fixture
def watchdog() -> Watchdog:
    """One that was not started: it watches, and ends nothing."""
    return Watchdog()


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def model(session: Session, watchdog: Watchdog) -> OnnxModel:
    return OnnxModel(session, ModelInterface((spec("x"),), (spec("y"), spec("z"))), watchdog)


def test_several_runs_are_what_single_ones_are(model: OnnxModel, session: Session, watchdog: Watchdog) -> None:
    """With all outputs or those that were asked for; they share what may end them, and it is let go at the end."""
    deadline_ns = time.monotonic_ns() + FAR_NS
    for outputs, names in (((), ("y", "z")), (("z",), ("z",))):
        session.asked.clear()
        session.options.clear()
        with model.until(outputs, deadline_ns) as run:
            (guard,) = watchdog._guards
            assert guard.deadline_ns == deadline_ns
            found = [run(numbers(value)) for value in (1, 2, 3)]
        assert watchdog._guards == set()
        assert {id(options) for options in session.options} == {id(guard.target)}
        assert session.asked == [(names, 1.0), (names, 2.0), (names, 3.0)]
        for value, tensors in zip((1, 2, 3), found, strict=True):
            alone = model.run(numbers(value), outputs, deadline_ns)
            assert [(one.name, bytes(one.data)) for one in tensors] == [(one.name, bytes(one.data)) for one in alone]


def test_a_run_that_is_refused_ends_no_other(model: OnnxModel, watchdog: Watchdog) -> None:
    """The next one goes on before the same deadline; and nothing is watched after an error that leaves."""
    with model.until((), time.monotonic_ns() + FAR_NS) as run:
        with pytest.raises(InvalidValueError):
            run(numbers(-1))
        assert len(run(numbers(1))) == 2
    with pytest.raises(InvalidValueError), model.until((), time.monotonic_ns() + FAR_NS) as run:
        run(numbers(-1))
    assert watchdog._guards == set()


@pytest.mark.parametrize("value", [1, -1])
def test_what_ends_after_the_deadline_is_late(
    model: OnnxModel, session: Session, watchdog: Watchdog, value: float
) -> None:
    """Whether it ends in order or not; so is all that is begun after it, and what was done before is not."""
    with model.until((), time.monotonic_ns() + FAR_NS) as run:
        (guard,) = watchdog._guards
        assert run(numbers(1))
        session.during = lambda: setattr(guard, "expired", True)
        for _ in range(2):
            with pytest.raises(DeadlineError):
                run(numbers(value))


def test_a_failure_after_the_deadline_is_the_deadlines(model: OnnxModel) -> None:
    """Also where the watchdog has not come to it yet: the fault is not said to be the input's."""
    with model.until((), time.monotonic_ns() - 1) as run, pytest.raises(DeadlineError):
        run(numbers(-1))
