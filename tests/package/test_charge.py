"""What a request costs of a model's inferences, by the first axes of its inputs."""

import pytest

from aigovtool.enclave.gateway.asked import rows_of
from aigovtool.package.charge import ChargedPer, charged_per, of_any_size, takes_batches
from aigovtool.package.manifest import Datatype, TensorSpec
from aigovtool.protocol import tensor
from aigovtool.protocol.oip import InferRequest

ROW, REQUEST = ChargedPer.ROW, ChargedPer.REQUEST
Shape = tuple[int | str, ...]


@pytest.mark.parametrize(
    ("shapes", "per", "grow"),
    [
        ([(-1, 4)], ROW, ["i0"]),
        ([("batch",)], ROW, ["i0"]),
        ([("batch", 4), (-1,)], ROW, ["i0", "i1"]),
        ([(1, 4)], REQUEST, []),
        ([(8, 4)], REQUEST, []),
        ([()], REQUEST, []),
        ([(1, "length")], REQUEST, ["i0"]),
        ([("batch", 4), (1,)], REQUEST, ["i0"]),
        ([(1,), ("batch", 4)], REQUEST, ["i1"]),
        ([("batch", 4), ()], REQUEST, ["i0"]),
        ([(0, 4)], REQUEST, []),
    ],
)
def test_rows_are_charged_where_the_first_axis_of_every_input_takes_any_size(
    shapes: list[Shape], per: ChargedPer, grow: list[str]
) -> None:
    """One fixed first axis, and a whole request costs one, whatever the other inputs hold: these are named."""
    specs = [TensorSpec(name=f"i{at}", datatype=Datatype.FP32, shape=shape) for at, shape in enumerate(shapes)]
    assert charged_per(specs) is per
    assert of_any_size(specs) == grow
    given = [tuple(7 if isinstance(axis, str) or axis < 0 else axis for axis in shape) for shape in shapes]
    tensors = tuple(tensor.Tensor(f"i{at}", tensor.Datatype.FP32, shape, b"") for at, shape in enumerate(given))
    assert rows_of(specs, InferRequest(tensors)) == (7 if per is ROW else 1)


def test_a_batch_costs_its_longest_first_axis_and_at_least_one() -> None:
    """Also where the inputs disagree, and where there is nothing in them."""
    specs = [TensorSpec(name=name, datatype=Datatype.FP32, shape=(-1, 4)) for name in ("a", "b")]
    for rows, cost in (((3, 9), 9), ((9, 3), 9), ((0, 0), 1)):
        tensors = tuple(
            tensor.Tensor(n, tensor.Datatype.FP32, (size, 4), b"") for n, size in zip("ab", rows, strict=True)
        )
        assert rows_of(specs, InferRequest(tensors)) == cost


@pytest.mark.parametrize(
    ("inputs", "outputs", "takes"),
    [
        ([("batch", 4)], [("batch", 2)], True),
        ([(-1, 4), ("n",)], [(-1,), ("n", 2)], True),
        ([("n", 4)], [("m", 2)], False),
        ([("n", 4), ("m", 4)], [(-1, 2)], False),
        ([("batch", 4)], [(1, 2)], False),
        ([("batch", 4), (4,)], [("batch",)], False),
        ([("batch", 4)], [()], False),
        ([("batch", 4)], [None], False),
    ],
)
def test_a_model_takes_batches_if_every_tensor_has_a_first_axis_of_any_size(
    inputs: list[Shape], outputs: list[Shape | None], *, takes: bool
) -> None:
    """Also every output: from one that is not as long as the inputs nobody could tell whose row is whose."""

    def specs(shapes: list[Shape] | list[Shape | None], datatype: Datatype) -> list[TensorSpec]:
        return [TensorSpec(name=f"t{at}", datatype=datatype, shape=shape) for at, shape in enumerate(shapes)]

    given, got = specs(inputs, Datatype.FP32), specs(outputs, Datatype.FP32)
    assert takes_batches(given, got) is takes
    assert not takes_batches(specs(inputs, Datatype.BYTES), got)
    assert not takes_batches(given, specs(outputs, Datatype.BYTES))
