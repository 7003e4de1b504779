"""What a request to a model costs is said where the model is sealed, lent and shown: budgets are sized by it."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tests.cli.conftest import Place

Axis = int | str


def make_scaled(path: Path, image: list[Axis], scale: list[Axis]) -> str:
    """Write a model with two inputs of these shapes."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", image), ("scale", scale))
    ]
    outputs = [helper.make_tensor_value_info("scaled", TensorProto.FLOAT, None)]
    graph = helper.make_graph([helper.make_node("Mul", ["image", "scale"], ["scaled"])], "scaled", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return str(path)


@pytest.mark.parametrize(
    ("name", "shapes", "words", "told"),
    [
        ("batches", (["n", 4], ["n", 1]), "1 inference for each row", ("row", ["image", "scale"])),
        ("thresholds", (["n", 4], [1]), "1 inference, however much it holds in image", ("request", ["image"])),
        ("singles", ([1, 4], [1]), "1 inference: all inputs have a fixed size", ("request", [])),
    ],
)
def test_what_a_request_costs_is_said_where_a_model_is_lent(
    lent: Place, name: str, shapes: tuple[list[Axis], list[Axis]], words: str, told: tuple[str, list[str]]
) -> None:
    """In the words of each verb, and for programs; what to do where a request may hold anything for one inference."""
    source, package = make_scaled(lent.directory / f"{name}.onnx", *shapes), lent.file(f"{name}.aigov")
    sealed = lent.run("model", "seal", source, "--name", name, "-o", package)
    added = lent.run("model", "add", package, "--borrower", "st-mary")
    shown = lent.run("model", "show", name)
    for result in (sealed, added, shown):
        assert result.exit_code == 0, result.output
        assert "a request costs" in result.stdout
        assert words in result.stdout
    assert ("give every input a first axis" in added.stdout) is (name == "thresholds")
    found = lent.document("model", "show", name)
    assert (found["charged_per"], found["of_any_size"]) == told
    assert lent.document("model", "withdraw", name, "--yes")["model"] == name
