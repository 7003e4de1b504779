import pytest

from aigovtool.enclave.engines.interface import ModelInterface, check_answer, check_inputs, check_outputs
from aigovtool.errors import EngineError, InvalidValueError
from aigovtool.limits import MAX_BYTES_ELEMENTS
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.package.manifest import Dimension, TensorSpec
from aigovtool.protocol.tensor import Datatype, Tensor


def spec(name: str, shape: tuple[Dimension, ...] | None, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name=name, datatype=ManifestDatatype(datatype), shape=shape)


def tensor(name: str, shape: tuple[int, ...], datatype: Datatype = Datatype.FP32) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    return Tensor(name, datatype, shape, bytes(count * datatype.size_bytes))


INTERFACE = ModelInterface(
    inputs=(spec("a", ("batch", 3)), spec("b", ("batch", -1), "INT64")),
    outputs=(spec("y", ("batch", 2)), spec("z", None)),
)
A, B = tensor("a", (4, 3)), tensor("b", (4, 9), Datatype.INT64)


@pytest.mark.parametrize("tensors", [[A, B], [B, A], [A, tensor("b", (4, 0), Datatype.INT64)]])
def test_fitting_inputs_pass_in_any_order(tensors: list[Tensor]) -> None:
    """Names decide, not places; a named axis takes any size, -1 too: none as well, where it is not that of the rows."""
    check_inputs(INTERFACE, tensors)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ([A], "missing_input"),
        ([], "missing_input"),
        ([A, B, tensor("c", (1,))], "unknown_input"),
        ([A, A, B], "duplicate_input"),
        ([tensor("a", (4, 3), Datatype.FP64), B], "wrong_datatype"),
        ([tensor("a", (12,)), B], "wrong_rank"),
        ([tensor("a", (4, 3, 1)), B], "wrong_rank"),
        ([tensor("a", (4, 4)), B], "wrong_dimension"),
        ([tensor("a", (5, 3)), B], "axes_disagree"),
        ([tensor("a", (0, 3)), tensor("b", (0, 0), Datatype.INT64)], "empty_input"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tensors: list[Tensor], reason: str) -> None:
    """Each misfit has its own reason, and says what the model takes."""
    with pytest.raises(InvalidValueError) as caught:
        check_inputs(INTERFACE, tensors)
    assert caught.value.reason == reason
    assert caught.value.fix


@pytest.mark.parametrize("shape", [("time", "batch", 4), (1, "batch"), (-1,)])
def test_inputs_that_hold_nothing_at_all_are_refused(shape: tuple[Dimension, ...]) -> None:
    """Whichever of their axes has the size 0; a model that fixes a size at 0 itself has another input beside that."""
    sizes = tuple(one if isinstance(one, int) and one > 0 else 0 if one in {"batch", -1} else 3 for one in shape)
    with pytest.raises(InvalidValueError) as caught:
        check_inputs(ModelInterface((spec("x", shape),), ()), [tensor("x", sizes)])
    assert caught.value.reason == "empty_input"
    two = ModelInterface((spec("x", (0, 2)), spec("y", ("n",))), ())
    check_inputs(two, [tensor("x", (0, 2)), tensor("y", (1,))])


def test_one_axis_of_one_input_must_agree_with_itself() -> None:
    """A square matrix is square: the same name twice in one shape means the same size."""
    square = ModelInterface((spec("m", ("n", "n")),), ())
    check_inputs(square, [tensor("m", (2, 2))])
    with pytest.raises(InvalidValueError):
        check_inputs(square, [tensor("m", (2, 3))])


@pytest.mark.parametrize(("names", "reason"), [(["q"], "unknown_output"), (["y", "y"], "duplicate_output")])
def test_outputs_that_do_not_exist_are_refused(names: list[str], reason: str) -> None:
    """A request names existing outputs, each once; no name at all asks for all of them."""
    check_outputs(INTERFACE, [])
    check_outputs(INTERFACE, ["z", "y"])
    with pytest.raises(InvalidValueError) as caught:
        check_outputs(INTERFACE, names)
    assert caught.value.reason == reason


def test_a_fitting_answer_passes() -> None:
    """The outputs asked for, in the order in which they were asked for."""
    y, z = tensor("y", (4, 2)), tensor("z", (1, 2, 3))
    assert [t.name for t in check_answer(INTERFACE, [], [y, z])] == ["y", "z"]
    assert [t.name for t in check_answer(INTERFACE, ["z", "y"], [z, y])] == ["z", "y"]


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        ([], [tensor("y", (4, 2))]),
        (["y"], [tensor("z", (4, 2))]),
        (["y"], [tensor("y", (4, 3))]),
        (["y"], [tensor("y", (8,))]),
        (["y"], [tensor("y", (4, 2), Datatype.FP64)]),
        (["z"], [tensor("z", (4, 2), Datatype.FP64)]),
        (["y"], [Tensor("y", Datatype.FP32, (4, 2), bytes(31))]),
        (["y"], [Tensor("y", Datatype.FP32, (1 << 40, 2), b"")]),
    ],
)
def test_an_answer_that_does_not_fit_is_the_engines_fault(names: list[str], answer: list[Tensor]) -> None:
    """A child that answers other tensors, shapes or lengths is not passed on to a consumer."""
    with pytest.raises(EngineError) as caught:
        check_answer(INTERFACE, names, answer)
    assert caught.value.reason == "bad_answer"


def test_texts_of_an_answer_are_bounded_together() -> None:
    """A child that answers a million elements in each of its outputs does not make anybody walk them."""
    each = MAX_BYTES_ELEMENTS // 2 + 1
    specs = tuple(TensorSpec(name=name, datatype=ManifestDatatype.BYTES, shape=(-1,)) for name in "yz")
    answer = [Tensor(name, Datatype.BYTES, (each,), bytes(4 * each)) for name in "yz"]
    both, one = ModelInterface((), specs), ModelInterface((), specs[:1])
    assert len(check_answer(one, [], answer[:1])) == 1
    with pytest.raises(EngineError) as caught:
        check_answer(both, [], answer)
    assert caught.value.reason == "bad_answer"
