"""Runs that are computed as one: what comes of each is what comes of it alone, or it is computed alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper
from tests.enclave.engines.grouped import one_by_one, run

from aigovtool.enclave.engines.ipc import Limit, TensorHeader, pack_tensors, unpack_tensors
from aigovtool.enclave.engines.process import EngineProcess, LoadedModel
from aigovtool.enclave.engines.together import divided, joined
from aigovtool.package.manifest import Datatype as ManifestDatatype
from aigovtool.package.manifest import Dimension
from aigovtool.protocol.tensor import Datatype, Tensor

Array = npt.NDArray[np.generic]
DTYPES = {
    Datatype.FP32: "<f4",
    Datatype.FP64: "<f8",
    Datatype.INT64: "<i8",
    Datatype.UINT8: "<u1",
    Datatype.FP16: "<f2",
}
KINDS = {
    Datatype.FP32: TensorProto.FLOAT,
    Datatype.FP64: TensorProto.DOUBLE,
    Datatype.INT64: TensorProto.INT64,
    Datatype.UINT8: TensorProto.UINT8,
    Datatype.BOOL: TensorProto.BOOL,
}


def tensor(name: str, datatype: Datatype, array: Array) -> Tensor:
    return Tensor(name, datatype, array.shape, array.tobytes())


# --- Laid together and divided again -----------------------------------------------------------

Part = tuple[Datatype, tuple[int, ...]]


@st.composite
def parts_of_a_request(draw: st.DrawFn) -> list[Part]:
    """Up to three tensors of as many rows, of any width and type."""
    rows = draw(st.integers(1, 3))
    widths = st.lists(st.integers(1, 3), max_size=2).map(lambda found: (rows, *found))
    return draw(st.lists(st.tuples(st.sampled_from(list(DTYPES)), widths), min_size=1, max_size=3))


PARTS = parts_of_a_request()


def requests(count: int, parts: Sequence[Part], names: Sequence[str] = ("t0", "t1", "t2")) -> list[list[Tensor]]:
    chance = np.random.default_rng(7)
    return [
        [
            tensor(name, datatype, chance.integers(0, 100, shape).astype(DTYPES[datatype]))
            for name, (datatype, shape) in zip(names, parts, strict=False)
        ]
        for _ in range(count)
    ]


def bytes_of(tensors: Sequence[Tensor]) -> bytes:
    return b"".join(bytes(part) for part in pack_tensors(tensors)[1])


@given(st.integers(1, 5), PARTS)
def test_what_is_joined_is_each_input_of_all_requests_in_their_order(count: int, parts: list[Part]) -> None:
    """As numpy concatenates them along the first axis, whatever their types and however many there are."""
    asked = requests(count, parts)
    headers, _ = pack_tensors(asked[0])
    found = joined(headers, memoryview(b"".join(map(bytes_of, asked))), count)
    assert found is not None
    for place, (datatype, shape) in enumerate(parts):
        one = found[place]
        assert (one.name, one.datatype, one.shape) == (f"t{place}", datatype, (count * shape[0], *shape[1:]))
        assert bytes(one.data) == b"".join(bytes(each[place].data) for each in asked)


@given(st.integers(1, 5), PARTS)
def test_what_is_divided_is_what_was_joined(count: int, parts: list[Part]) -> None:
    """A model that gives its inputs gives each request its own."""
    asked = requests(count, parts)
    headers, _ = pack_tensors(asked[0])
    whole = joined(headers, memoryview(b"".join(map(bytes_of, asked))), count)
    assert whole is not None
    found = divided(whole, count, asked[0][0].shape[0])
    assert found is not None
    firsts, data = found
    assert pack_tensors(firsts)[0] == headers
    size = len(data) // count
    for number, each in enumerate(asked):
        own = unpack_tensors(headers, data[number * size : (number + 1) * size])
        assert [bytes(one.data) for one in own] == [bytes(one.data) for one in each]


@pytest.mark.parametrize(
    "headers",
    [
        (TensorHeader("x", Datatype.FP32, (), 4),),
        (TensorHeader("x", Datatype.FP32, (1, 2), 8), TensorHeader("s", Datatype.FP32, (), 4)),
        (TensorHeader("x", Datatype.BYTES, (1,), 6),),
        (TensorHeader("x", Datatype.FP32, (1, 2), 8), TensorHeader("t", Datatype.BYTES, (1,), 6)),
        (TensorHeader("x", Datatype.FP32, (2, 1), 8), TensorHeader("w", Datatype.FP32, (1, 1), 4)),
        (TensorHeader("x", Datatype.FP32, (1, 2), 8), TensorHeader("none", Datatype.FP32, (1, 0), 0)),
    ],
)
def test_what_has_not_as_many_rows_as_the_rest_is_not_joined(headers: tuple[TensorHeader, ...]) -> None:
    """Numbers without an axis, texts, one row that may be meant for all of another input, and inputs of nothing."""
    assert joined(headers, memoryview(bytes(3 * sum(one.size_bytes for one in headers))), 3) is None


@pytest.mark.parametrize(
    "outputs",
    [
        [Tensor("y", Datatype.FP32, (), bytes(4))],
        [Tensor("y", Datatype.FP32, (4,), bytes(16))],
        [Tensor("y", Datatype.FP32, (6,), bytes(24))],
        [Tensor("y", Datatype.FP32, (1, 6), bytes(24))],
        [Tensor("y", Datatype.FP32, (3,), bytes(12)), Tensor("z", Datatype.FP32, (2, 3), bytes(24))],
        [Tensor("y", Datatype.BYTES, (3,), b"\0\0\0\0" * 3)],
        [Tensor("y", Datatype.FP32, (0, 2), b"")],
        [Tensor("z", Datatype.FP32, (3,), bytes(12)), Tensor("y", Datatype.FP32, (3, 0), b"")],
    ],
)
def test_what_is_not_as_long_as_all_requests_is_not_divided(outputs: list[Tensor]) -> None:
    """Not one of several outputs, and no text, whose elements are of any length."""
    assert divided(outputs, 3, 1) is None


# --- In the child ------------------------------------------------------------------------------

Named = tuple[str, Datatype, Sequence[Dimension]]
F32 = Datatype.FP32
ROWS = ("rows", F32, ["n"])


@dataclass
class Bench:
    """Loads models into a child."""

    kit: Any
    process: EngineProcess
    path: Path

    async def load(
        self,
        nodes: Sequence[NodeProto],
        inputs: Sequence[Named],
        outputs: Sequence[Named],
        constants: Sequence[TensorProto] = (),
    ) -> LoadedModel:
        kit, graphs, manifests = self.kit, [], []
        for named in (inputs, outputs):
            graphs.append([kit.value(name, list(shape), KINDS[datatype]) for name, datatype, shape in named])
            manifests.append([kit.spec(name, shape, ManifestDatatype(kind.value)) for name, kind, shape in named])
        graph = kit.model_bytes(nodes, *graphs, constants)
        loaded: LoadedModel = await kit.seal(self.path / "m", [("model.onnx", graph)], *manifests).load(self.process)
        return loaded

    async def telling(
        self,
        nodes: Sequence[NodeProto],
        inputs: Sequence[Named],
        outputs: Sequence[Named],
        constants: Sequence[TensorProto] = (),
    ) -> LoadedModel:
        """Load a model that says with each row of its first input how many there were: so its rows do depend."""
        first = inputs[0][0]
        constants = [*constants, helper.make_tensor("zero", TensorProto.INT64, [], [0])]
        counting = [
            helper.make_node("Shape", [first], ["shape"]),
            helper.make_node("Gather", ["shape", "zero"], ["count"]),
            helper.make_node("Cast", ["count"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Gather", ["shape", "first"], ["times"]),
            helper.make_node("Expand", ["number", "times"], ["rows"]),
        ]
        constants.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
        return await self.load([*nodes, *counting], inputs, [*outputs, ROWS], constants)


@pytest.fixture
def bench(kit: Any, process: EngineProcess, tmp_path: Path) -> Bench:
    return Bench(kit, process, tmp_path)


async def rows_of(bench: Bench, model: LoadedModel, runs: Sequence[Sequence[Tensor]], **form: Any) -> list[list[float]]:
    """Return what each run of a group was told of how many rows there were; nothing where nothing came of it."""
    ran = await run(bench.process, model, runs, together=form.pop("together", True), **form)
    return [bench.kit.numbers(outputs[-1]) if outputs else [] for outputs in ran.outputs]


async def test_runs_of_a_group_are_computed_as_one(bench: Bench) -> None:
    """Shown by a model whose terms should not say that it may: each of three requests of two rows is told of six."""
    model = await bench.telling([helper.make_node("Neg", ["x"], ["y"])], [("x", F32, ["n"])], [("y", F32, ["n"])])
    runs = [[tensor("x", F32, np.full(2, number, np.float32))] for number in range(3)]
    assert await rows_of(bench, model, runs) == [[6, 6]] * 3
    assert await rows_of(bench, model, runs, outputs=("rows",)) == [[6, 6]] * 3
    assert await rows_of(bench, model, runs, finite=True) == [[6, 6]] * 3
    assert await rows_of(bench, model, runs[:1]) == [[2, 2]]
    assert await rows_of(bench, model, runs, together=False) == [[2, 2]] * 3
    assert await rows_of(bench, model, runs, limits=(Limit("y", None, False, 1),)) == [[2, 2]] * 3


@pytest.mark.parametrize("datatype", [Datatype.FP32, Datatype.FP64, Datatype.INT64, Datatype.UINT8])
@pytest.mark.parametrize(("count", "rows"), [(2, 1), (3, 4), (64, 2)])
async def test_each_request_has_the_outputs_of_its_own_rows(
    bench: Bench, datatype: Datatype, count: int, rows: int
) -> None:
    """Several inputs and outputs of different widths and types: bit for bit, and in shape, those of single runs."""
    model = await bench.load(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Less", ["b", "a"], ["less"])],
        [("a", datatype, ["n", 3, 2]), ("b", datatype, ["n", 1, 2])],
        [("sum", datatype, ["n", 3, 2]), ("less", Datatype.BOOL, ["n", 3, 2])],
    )
    runs = requests(count, [(datatype, (rows, 3, 2)), (datatype, (rows, 1, 2))], "ab")
    ran = await run(bench.process, model, runs, together=True)
    assert ran.data == await one_by_one(bench.process, model, runs)
    for outputs in ran.outputs:
        assert outputs is not None
        assert [(one.name, one.datatype, one.shape) for one in outputs] == [
            ("sum", datatype, (rows, 3, 2)),
            ("less", Datatype.BOOL, (rows, 3, 2)),
        ]
    assert [one.runs for one in ran.pieces] == [count]
    assert len(set(ran.times)) == 1


async def test_matrices_are_multiplied_row_by_row(bench: Bench) -> None:
    """Whole numbers, of which sums are exact in any order, bit for bit; fractions as near as their format is."""
    weights = np.arange(12, dtype=np.float32).reshape(4, 3) - 5
    model = await bench.load(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", F32, ["n", 4])],
        [("y", F32, ["n", 3])],
        [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    for scale in (1.0, 1 / 3):
        whole = np.frombuffer(bytes_of([each for (each,) in requests(32, [(F32, (1, 4))], "x")]), np.float32)
        runs = [[tensor("x", F32, row.reshape(1, 4))] for row in (whole * np.float32(scale)).reshape(32, 4)]
        ran = await run(bench.process, model, runs, together=True)
        alone = await one_by_one(bench.process, model, runs)
        assert [one.runs for one in ran.pieces] == [32]
        assert scale != 1.0 or ran.data == alone
        for (found,), (right,) in zip(ran.data, alone, strict=True):
            np.testing.assert_allclose(
                np.frombuffer(found, np.float32), np.frombuffer(right, np.float32), rtol=1e-5, atol=1e-4
            )


async def test_a_request_that_the_model_refuses_fails_alone(bench: Bench) -> None:
    """The one run of all fails for it; then each is run by itself, and the others have their answers."""
    model = await bench.telling(
        [helper.make_node("Gather", ["table", "index"], ["y"])],
        [("index", Datatype.INT64, ["n"])],
        [("y", F32, ["n"])],
        [helper.make_tensor("table", TensorProto.FLOAT, [3], [10.0, 11.0, 12.0])],
    )

    def indices(*values: int) -> list[list[Tensor]]:
        return [[tensor("index", Datatype.INT64, np.array([value]))] for value in values]

    assert await rows_of(bench, model, indices(0, 1, 2)) == [[3]] * 3
    for values in ([0, 99, 2], [99, 0, 1], [0, 1, 99]):
        ran = await run(bench.process, model, indices(*values), together=True)
        assert ran.answered == [value < 3 for value in values]
        for value, outputs in zip(values, ran.outputs, strict=True):
            assert [bench.kit.numbers(one) for one in outputs or []] == ([[10 + value], [1]] if value < 3 else [])


async def test_what_is_no_number_is_looked_for_in_all_and_refuses_one(bench: Bench) -> None:
    """With a NaN in one of three each is run by itself; without the demand it is a number like others."""
    model = await bench.telling([helper.make_node("Neg", ["x"], ["y"])], [("x", F32, ["n"])], [("y", F32, ["n"])])
    runs = [[tensor("x", F32, np.array([value], np.float32))] for value in (1, math.nan, 3)]
    assert await rows_of(bench, model, runs, finite=True) == [[1], [], [1]]
    assert await rows_of(bench, model, runs) == [[3], [3], [3]]


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (helper.make_node("Transpose", ["x"], ["y"]), [2, "n"]),
        (helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0), []),
        (helper.make_node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=1), [1, 2]),
    ],
)
async def test_outputs_that_are_not_as_long_as_all_requests_are_computed_one_by_one(
    bench: Bench, node: NodeProto, shape: list[Dimension]
) -> None:
    """One output of two has another first axis: nothing of the one run is given to anybody."""
    model = await bench.telling([node], [("x", F32, ["n", 2])], [("y", F32, shape)])
    runs = requests(3, [(F32, (1, 2))], "x")
    ran = await run(bench.process, model, runs, together=True)
    assert ran.data == await one_by_one(bench.process, model, runs)


async def test_a_model_of_one_row_computes_one_by_one(bench: Bench) -> None:
    """Three of them are not what it takes; it refuses the one run, and then none."""
    model = await bench.telling([helper.make_node("Neg", ["x"], ["y"])], [("x", F32, [1, 2])], [("y", F32, [1, 2])])
    runs = requests(3, [(F32, (1, 2))], "x")
    assert await rows_of(bench, model, runs) == [[1]] * 3


async def test_an_input_or_an_output_of_nothing_ends_nobody(bench: Bench) -> None:
    """Attack: empty tensors, which Python does not take for pieces of memory, would end the process for everybody."""
    none = [tensor("none", F32, np.zeros((1, 0), np.float32))]
    model = await bench.load(
        [helper.make_node("Concat", ["x", "none"], ["y"], axis=1)],
        [("x", F32, ["n", "k"]), ("none", F32, ["n", "l"])],
        [("y", F32, ["n", "m"])],
    )
    runs = [[*each, *none] for each in requests(3, [(F32, (1, 2))], "x")]
    ran = await run(bench.process, model, runs, together=True)
    assert ran.data == await one_by_one(bench.process, model, runs)
    model = await bench.load(
        [helper.make_node("Compress", ["x", "which"], ["y"], axis=0)],
        [("x", F32, ["n", 2]), ("which", Datatype.BOOL, ["n"])],
        [("y", F32, ["k", 2])],
    )
    runs = [[*each, Tensor("which", Datatype.BOOL, (1,), b"\0")] for each in requests(3, [(F32, (1, 2))], "x")]
    ran = await run(bench.process, model, runs, together=True)
    assert ran.data == [[b""]] * 3
    assert not bench.process.died.is_set()


async def test_an_output_whose_first_axis_is_not_that_of_the_inputs_is_not_divided(
    kit: Any, process: EngineProcess, tmp_path: Path
) -> None:
    """A table that is turned over has two rows, however many requests there are: each is computed on its own."""
    graph = kit.model_bytes(
        [helper.make_node("Transpose", ["x"], ["y"])], [kit.value("x", ["n", 2])], [kit.value("y", [2, "n"])]
    )
    sealed = kit.seal(tmp_path / "m", [("model.onnx", graph)], [kit.spec("x", ["n", 2])], [kit.spec("y", [2, "n"])])
    model = await sealed.load(process)
    runs = [[kit.fp32("x", [n, 10 + n], [n, 20 + n])] for n in range(2)]
    single = await one_by_one(process, model, runs)
    assert (await run(process, model, runs, together=True)).data == single
    assert not process.died.is_set()


async def test_rows_that_a_model_leaves_out_are_not_made_up_by_those_of_others(
    kit: Any, process: EngineProcess, tmp_path: Path
) -> None:
    """It keeps both rows of one request and none of another: two rows for two requests, and none is dealt out."""
    graph = kit.model_bytes(
        [helper.make_node("Compress", ["x", "which"], ["y"], axis=0)],
        [kit.value("x", ["n", 2]), kit.value("which", ["n"], TensorProto.BOOL)],
        [kit.value("y", ["n", 2])],
    )
    specs = [kit.spec("x", ["n", 2]), kit.spec("which", ["n"], ManifestDatatype.BOOL)]
    sealed = kit.seal(tmp_path / "m", [("model.onnx", graph)], specs, [kit.spec("y", ["n", 2])])
    model = await sealed.load(process)
    runs = [
        [kit.fp32("x", [n, 2], [n, 3]), Tensor("which", Datatype.BOOL, (2,), which)]
        for n, which in ((1, b"\1\1"), (2, b"\0\0"))
    ]
    single = await one_by_one(process, model, runs)
    assert (await run(process, model, runs, together=True)).data == single
