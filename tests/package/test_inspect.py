"""The bounded ONNX reader: what it sees, what it refuses, and what no input can make it do."""

import io
import random
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import skl2onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from aigovtool.errors import AIGovToolError, ModelError
from aigovtool.limits import MAX_ONNX_BYTES, MAX_ONNX_DEPTH
from aigovtool.package.inspect import ExternalData, OnnxModel, check_external, inspect_onnx

MakeModel = Callable[..., bytes]
MakeTensor = Callable[..., onnx.ValueInfoProto]

PLAIN = numpy_helper.from_array(np.ones(2, np.float32), "w")


def inspect(data: bytes) -> OnnxModel:
    return inspect_onnx(io.BytesIO(data))


def refusal(data: bytes) -> ModelError:
    with pytest.raises(ModelError) as caught:
        inspect(data)
    return caught.value


def external(location: str, **entries: str) -> onnx.TensorProto:
    """Return a tensor `w` whose data lies in another file."""
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        made.external_data.add(key=key, value=value)
    return made


def subgraph(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "then", [], [helper.make_tensor_value_info("t", 1, None)])


def branch(then: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["c"], ["t"], then_branch=then, else_branch=subgraph(constant(PLAIN)))


def constant(value: onnx.TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["t"], value=value)


def logistic(*, zipmap: bool) -> bytes:
    classifier = LogisticRegression().fit([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1])
    made = skl2onnx.to_onnx(
        classifier, np.zeros((1, 2), np.float32), options={id(classifier): {"zipmap": zipmap}}, target_opset=17
    )
    data: bytes = made.SerializeToString()
    return data


# --- What it sees ------------------------------------------------------------------------------------


def test_inputs_and_outputs_are_read(make_model: MakeModel, make_tensor: MakeTensor) -> None:
    """Names, datatypes, fixed, symbolic and unknown axes, scalars, and an output of unknown rank."""
    data = make_model(
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs=[make_tensor("x", ("batch", 3, None)), make_tensor("s", (), TensorProto.STRING)],
        outputs=[make_tensor("y", (1,), TensorProto.BFLOAT16), helper.make_tensor_value_info("z", 7, None)],
        domains=["ai.onnx.ml"],
    )
    model = inspect(data)
    assert [(t.name, t.datatype, t.shape) for t in model.inputs] == [
        ("x", "FP32", ("batch", 3, -1)),
        ("s", "BYTES", ()),
    ]
    assert [(t.name, t.datatype, t.shape) for t in model.outputs] == [("y", "BF16", (1,)), ("z", "INT64", None)]
    assert [(o.domain, o.version) for o in model.opsets] == [("", 17), ("ai.onnx.ml", 1)]
    assert model.ir_version == 9


def test_every_datatype_of_the_protocol_is_known(make_model: MakeModel, make_tensor: MakeTensor) -> None:
    """The table agrees with numpy's and ONNX's own names."""
    names = {
        "BOOL": "BOOL",
        "FLOAT16": "FP16",
        "BFLOAT16": "BF16",
        "FLOAT": "FP32",
        "DOUBLE": "FP64",
        "STRING": "BYTES",
        **{f"{sign}INT{bits}": f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    }
    for onnx_name, oip_name in names.items():
        kind = TensorProto.DataType.Value(onnx_name)
        data = make_model([helper.make_node("Identity", ["x"], ["y"])], inputs=[make_tensor("x", (1,), kind)])
        assert inspect(data).inputs[0].datatype == oip_name


def test_initializers_are_not_inputs(make_model: MakeModel, make_tensor: MakeTensor) -> None:
    """Before IR version 4 an initializer is listed as an input, too; nobody sends it."""
    data = make_model(
        [helper.make_node("Add", ["x", "w"], ["y"])], inputs=[make_tensor("x"), make_tensor("w")], initializers=[PLAIN]
    )
    assert [t.name for t in inspect(data).inputs] == ["x"]


def test_weights_are_not_read(make_model: MakeModel) -> None:
    """Of 40 MB of weights less than 1 MB is read."""

    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            Counting.count += len(data)
            return data

    weights = [numpy_helper.from_array(np.zeros(1 << 20, np.float32), f"w{i}") for i in range(10)]
    stream = Counting(make_model([helper.make_node("Identity", ["x"], ["y"])], initializers=weights))
    inspect_onnx(stream)
    assert stream.count < 1 << 20


def test_local_functions_are_taken(make_model: MakeModel) -> None:
    """An operator that the model itself defines is not custom code."""
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("Twice", ["x"], ["y"], domain="local")
    assert inspect(make_model([call], domains=["local"], functions=[function])).outputs[0].name == "y"
    assert refusal(make_model([call], domains=["local"])).reason == "custom_operator"


def test_operator_sets_are_listed_once(make_model: MakeModel) -> None:
    """The same set twice is one; two versions of one set are two models."""
    node = [helper.make_node("Identity", ["x"], ["y"])]
    data = make_model(node)
    assert len(inspect(data + b"\x42\x04\x0a\x00\x10\x11").opsets) == 1
    assert refusal(data + b"\x42\x0b\x0a\x07ai.onnx\x10\x12").reason == "opset_twice"


# --- Inputs and outputs that are refused -------------------------------------------------------------


def test_a_zipmap_is_refused_with_its_remedy() -> None:
    """scikit-learn's default output is a sequence of maps; the message names the option that helps."""
    error = refusal(logistic(zipmap=True))
    assert error.reason == "not_a_tensor"
    assert "'zipmap': False" in (error.fix or "")
    assert [t.name for t in inspect(logistic(zipmap=False)).outputs] == ["label", "probabilities"]


@pytest.mark.parametrize("kind", ["sequence", "optional", "sparse", "map"])
def test_only_tensors_go_in_and_out(kind: str, make_model: MakeModel) -> None:
    """Sequences, optionals, maps and sparse tensors are refused, as input and as output."""
    inner = helper.make_tensor_type_proto(1, [1])
    types = {
        "sequence": lambda: helper.make_sequence_type_proto(inner),
        "optional": lambda: helper.make_optional_type_proto(inner),
        "sparse": lambda: helper.make_sparse_tensor_type_proto(1, [1]),
        "map": lambda: helper.make_map_type_proto(TensorProto.INT64, inner),
    }
    value = helper.make_value_info("v", types[kind]())
    node = [helper.make_node("Identity", ["v"], ["y"])]
    for data in (
        make_model(node, inputs=[value]),
        make_model(node, outputs=[value]),
    ):
        error = refusal(data)
        assert error.reason == "not_a_tensor"
        assert error.fix


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": TensorProto.COMPLEX64}, "datatype"),
        ({"kind": TensorProto.FLOAT8E4M3FN}, "datatype"),
        ({"kind": 999}, "datatype"),
        ({"shape": (1,) * 17}, "rank"),
        ({"shape": (1 << 40,)}, "dimension"),
        ({"name": "a\x1b[31mb"}, "not_printable"),
        ({"name": "a\u202eb"}, "not_printable"),
        ({"shape": ("n\n",)}, "not_printable"),
        ({"name": "n" * 300}, "not_onnx"),
        ({"name": "n" * 3000}, "name_too_long"),
        ({"name": ""}, "not_onnx"),
    ],
)
def test_tensors_out_of_bounds_are_refused(
    changes: dict[str, object], reason: str, make_model: MakeModel, make_tensor: MakeTensor
) -> None:
    """Datatypes that cannot be carried, too many or too large axes, names that deceive a reader."""
    value = make_tensor(**{"name": "x", "shape": (1,), **changes})
    assert refusal(make_model([helper.make_node("Identity", ["x"], ["y"])], inputs=[value])).reason == reason


def test_a_model_without_inputs_or_outputs_or_with_too_many_is_refused(
    make_model: MakeModel, make_tensor: MakeTensor
) -> None:
    """There must be something to send and something to get, and not more than a request can carry."""
    node = [helper.make_node("Identity", ["x"], ["y"])]
    many = [make_tensor(f"t{i}") for i in range(65)]
    assert refusal(make_model(node, inputs=[])).reason == "no_tensors"
    assert refusal(make_model(node, outputs=[])).reason == "no_tensors"
    assert refusal(make_model(node, inputs=many)).reason == "too_many_tensors"
    assert refusal(make_model(node, outputs=many)).reason == "too_many_tensors"
    unranked = helper.make_tensor_value_info("x", 1, None)
    assert refusal(make_model(node, inputs=[unranked])).reason == "unknown_rank"


# --- External data -----------------------------------------------------------------------------------

LOCATIONS = [
    "../weights",
    "a/../../weights",
    "/etc/passwd",
    "./weights",
    "a//b",
    "a/",
    "..",
    ".",
    "",
    ".ssh/id_rsa",
    "C:\\weights",
    "a\\..\\b",
    "w\x00eights",
    "weights\n",
    "*/_ORT_MEM_ADDR_/*",
    "file:///etc/passwd",
    "\uff0e\uff0e/weights",
    "~root",
]


@pytest.mark.parametrize("location", LOCATIONS)
def test_locations_outside_the_folder_are_refused(location: str, make_model: MakeModel) -> None:
    """Traversal, absolute paths, ONNX Runtime's memory addresses, look-alikes: no location but a plain name."""
    data = make_model([helper.make_node("Identity", ["x"], ["y"])], initializers=[external(location)])
    error = refusal(data)
    assert error.reason == "external_location"
    assert error.fix


def nested(then: onnx.GraphProto, levels: int) -> onnx.GraphProto:
    for _ in range(levels):
        then = subgraph(branch(then))
    return then


def hidden_places() -> dict[str, tuple[list[onnx.NodeProto], dict[str, object]]]:
    """Return where a tensor can be, as nodes and further arguments of a model."""
    bad = external("../secret")
    sparse = onnx.SparseTensorProto(values=bad, indices=numpy_helper.from_array(np.zeros(1, np.int64), "i"), dims=[2])
    sparse_indices = onnx.SparseTensorProto(values=PLAIN, indices=bad, dims=[2])
    inner = subgraph(constant(bad))
    function = helper.make_function("local", "F", ["a"], ["t"], [constant(bad)], [helper.make_opsetid("", 17)])
    defaults = helper.make_function(
        "local",
        "F",
        ["a"],
        ["t"],
        [constant(PLAIN)],
        [helper.make_opsetid("", 17)],
        attribute_protos=[helper.make_attribute("d", bad)],
    )
    in_initializer = subgraph()
    in_initializer.initializer.append(bad)
    in_sparse = subgraph()
    in_sparse.sparse_initializer.append(sparse)
    identity = helper.make_node("Identity", ["x"], ["y"])
    return {
        "attribute": ([constant(bad)], {}),
        "list of tensors": ([helper.make_node("Constant", [], ["t"], values=[PLAIN, bad])], {}),
        "sparse values": ([helper.make_node("Constant", [], ["t"], sparse_value=sparse)], {}),
        "sparse indices": ([helper.make_node("Constant", [], ["t"], sparse_value=sparse_indices)], {}),
        "list of sparse": ([helper.make_node("Constant", [], ["t"], all=[sparse])], {}),
        "subgraph": ([branch(inner)], {}),
        "list of graphs": ([helper.make_node("If", ["c"], ["t"], graphs=[inner])], {}),
        "deep subgraph": ([branch(nested(inner, 10))], {}),
        "subgraph initializer": ([branch(in_initializer)], {}),
        "subgraph sparse initializer": ([branch(in_sparse)], {}),
        "function": ([identity], {"functions": [function]}),
        "function default": ([identity], {"functions": [defaults]}),
    }


@pytest.mark.parametrize("place", hidden_places())
def test_external_data_is_found_wherever_it_hides(place: str, make_model: MakeModel) -> None:
    """Attributes, sparse tensors, subgraphs and functions are entered; none is skipped."""
    nodes, options = hidden_places()[place]
    assert refusal(make_model(nodes, **options)).reason == "external_location"


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"basepath": "/etc"}, "external_key"),
        ({"__class__": "x"}, "external_key"),
        ({"offset": "-1"}, "not_onnx"),
        ({"offset": "1e3"}, "not_onnx"),
        ({"length": "\uff11"}, "not_onnx"),
        ({"length": "9" * 16}, "not_onnx"),
        ({"length": "9" * 15}, "external_too_short"),
    ],
)
def test_entries_that_onnx_does_not_define_are_refused(
    entries: dict[str, str], reason: str, make_model: MakeModel
) -> None:
    """Unknown keys were used to set attributes of the loader; numbers are plain decimals."""
    data = make_model([helper.make_node("Identity", ["x"], ["y"])], initializers=[external("w", **entries)])
    assert refusal(data).reason == reason


def test_external_data_without_its_mark_is_refused(make_model: MakeModel) -> None:
    """One reader would take such a tensor as external and another would not."""
    unmarked, unplaced, strange = external("w"), external("w"), external("w")
    unmarked.data_location = TensorProto.DEFAULT
    del unplaced.external_data[:]
    node = [helper.make_node("Identity", ["x"], ["y"])]
    assert refusal(make_model(node, initializers=[unmarked])).reason == "not_onnx"
    assert refusal(make_model(node, initializers=[unplaced])).reason == "not_onnx"
    strange.external_data.add(key="location", value="v")
    assert refusal(make_model(node, initializers=[strange])).reason == "external_key"


def test_external_files_are_reported_and_must_be_listed(make_model: MakeModel) -> None:
    """What the graph uses of each file is known, and the files to seal must cover it."""
    tensors = [external("w.data", offset="8", length="8"), external("w.data", length="4"), external("sub/v")]
    model = inspect(make_model([helper.make_node("Identity", ["x"], ["y"])], initializers=tensors))
    assert model.external == (ExternalData("sub/v", 0), ExternalData("w.data", 16))
    check_external(model, ["model.onnx", "w.data", "sub/v"], [1, 16, 0])
    for names, sizes, reason in (
        (["w.data"], [16], "external_not_listed"),
        (["w.data", "sub/v"], [15, 0], "external_too_short"),
    ):
        with pytest.raises(ModelError) as caught:
            check_external(model, names, sizes)
        assert caught.value.reason == reason
        assert caught.value.fix


# --- Operators ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["com.evil", "ai.onnx.contrib", "com.microsoft.nchwc", "AI.ONNX", " "])
def test_custom_operators_are_refused(domain: str, make_model: MakeModel) -> None:
    """An operator of another domain would need a library of somebody's code, also within a subgraph."""
    node = helper.make_node("Run", ["x"], ["t"], domain=domain)
    for nodes in ([node], [branch(subgraph(node))]):
        error = refusal(make_model(nodes, domains=[domain]))
        assert error.reason == "custom_operator"
        assert error.fix


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"])
def test_operators_of_onnx_runtime_are_taken(domain: str, make_model: MakeModel) -> None:
    """These domains are built into ONNX Runtime."""
    assert inspect(make_model([helper.make_node("Relu", ["x"], ["y"], domain=domain)]))


def test_an_operator_that_reads_memory_where_an_input_leads_it_is_refused(make_model: MakeModel) -> None:
    """Whoever may ask would be answered with what others have asked, or with weights."""
    node = helper.make_node("WordConvEmbedding", ["x", "w", "b", "c"], ["y"], domain="com.microsoft")
    assert refusal(make_model([node])).reason == "operator_refused"


@pytest.mark.parametrize(
    ("operator", "inputs", "draws"),
    [
        ("Multinomial", ["x"], True),
        ("Sampling", ["x"], True),
        ("Dropout", ["x", "ratio", "trains"], True),
        ("Dropout", ["x", "", "trains"], True),
        ("Dropout", ["x", "ratio", ""], False),
        ("Dropout", ["x", "ratio"], False),
        ("Dropout", ["x"], False),
        ("Sum", ["x", "x", "x"], False),
    ],
)
def test_a_model_that_draws_random_numbers_is_known(
    operator: str, inputs: list[str], *, draws: bool, make_model: MakeModel
) -> None:
    """Copies of an enclave could answer one request, bought once, in many ways; also in a branch."""
    node = helper.make_node(operator, inputs, ["y"])
    assert inspect(make_model([node])).draws_random is draws
    assert inspect(make_model([branch(subgraph(node))])).draws_random is draws


@pytest.mark.parametrize("operator", ["EPContext", "PythonOp"])
def test_operators_that_open_files_are_refused(operator: str, make_model: MakeModel) -> None:
    """EPContext names a file in an attribute, PythonOp a Python function."""
    assert refusal(make_model([helper.make_node(operator, ["x"], ["y"], domain="com.microsoft")])).reason == (
        "operator_refused"
    )


# --- Shape of the file -------------------------------------------------------------------------------


def test_deep_subgraphs_are_refused(make_model: MakeModel) -> None:
    """Nesting is bounded long before the stack is."""
    fine = make_model([branch(nested(subgraph(constant(PLAIN)), MAX_ONNX_DEPTH - 2))])
    assert inspect(fine)
    assert refusal(make_model([branch(nested(subgraph(constant(PLAIN)), MAX_ONNX_DEPTH))])).reason == "too_deep"


def test_a_training_graph_is_refused(identity: bytes) -> None:
    """It would bring graphs and weights that nobody runs."""
    assert refusal(identity + b"\xa2\x01\x00").reason == "training"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        b"\x00" * 100,
        b"\x80" * 100,
        b"\xff" * 100,
        b"\x08\x09",  # an IR version alone
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a graph of 2**64 - 1 bytes
        b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02",  # an integer over 64 bits
        b"ORTM" * 20,
    ],
)
def test_what_is_not_onnx_is_refused(data: bytes) -> None:
    """Empty, garbage, endless integers, lengths past the end."""
    error = refusal(data)
    assert error.reason == "not_onnx"
    assert error.fix


def test_two_readings_of_one_file_are_refused(identity: bytes) -> None:
    """Protobuf merges a field given twice, keeps unknown ones, takes groups: others may see another model."""
    for extra in (
        b"\x3a\x00",  # a second graph
        b"\x08\x09",  # a second IR version
        b"\xba\x3e\x00",  # unknown field 999
        b"\x3b\x3c",  # field 7 as a group
        b"\x3d\x00\x00\x00\x00",  # field 7 as four bytes
        b"\x00",  # field 0
    ):
        assert refusal(identity + extra).reason == "not_onnx", extra


def test_every_cut_is_refused_or_another_whole_model(identity: bytes) -> None:
    """No prefix of a model is read past its end."""
    for end in range(len(identity)):
        try:
            inspect(identity[:end])
        except ModelError as error:
            assert error.reason in {"not_onnx", "no_tensors"}
        else:
            onnx.load_model_from_string(identity[:end])


def test_a_file_over_the_bound_of_protobuf_is_refused() -> None:
    """Refused by its size alone; the fix is to store the weights beside it."""

    class Huge(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            return MAX_ONNX_BYTES + 1 if whence == 2 else super().seek(offset, whence)

    with pytest.raises(ModelError) as caught:
        inspect_onnx(Huge())
    assert caught.value.reason == "onnx_too_large"


def seeds(make_model: MakeModel) -> list[bytes]:
    """Return models that use every message that is entered."""
    models = [make_model(nodes, **options) for nodes, options in hidden_places().values()]
    return [
        make_model([helper.make_node("Identity", ["x"], ["y"])], initializers=[PLAIN, external("w.data")]),
        logistic(zipmap=True),
        logistic(zipmap=False),
        *(data.replace(b"../secret", b"subsecret") for data in models),
    ]


def mutate(draw: random.Random, data: bytes, other: bytes, most: int = 4) -> bytes:
    """Change `data` in one to `most` places: bits, cuts, copies, insertions, pieces of another model."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, most)):
        at = draw.randrange(len(changed) + 1)
        end = min(len(changed), at + draw.choice((1, 2, 8, 64)))
        start = draw.randrange(len(other))
        match draw.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                del changed[at:end]
            case 2:
                changed[at:at] = changed[at:end]
            case 3:
                changed[at:at] = draw.randbytes(draw.randint(1, 8))
            case 4:
                changed[at:end] = other[start : start + end - at]
            case _:
                changed[at:end] = b"\xff" * (end - at)
    return bytes(changed)


def test_mutated_models_give_only_typed_errors(make_model: MakeModel) -> None:
    """2,000 seeded mutants: each is read or refused with one of our errors, never anything else."""
    draw = random.Random(20_231_123)
    originals = seeds(make_model)
    refused = 0
    for _ in range(2_000):
        data = mutate(draw, draw.choice(originals), draw.choice(originals))
        try:
            model = inspect(data)
        except AIGovToolError as error:
            refused += 1
            assert isinstance(error, ModelError)
            assert error.reason
        else:
            assert all(".." not in data.name for data in model.external)
    assert 500 < refused < 2_000


def locations(message: Message) -> set[str]:
    """Return every external location in a parsed model, found by reflection: wherever protobuf knows a place."""
    if isinstance(message, TensorProto):
        return {entry.value for entry in message.external_data if entry.key == "location"}
    found: set[str] = set()
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for item in [value] if isinstance(value, Message) else value:
                found |= locations(item)
    return found


def test_the_reader_agrees_with_protobuf(make_model: MakeModel) -> None:
    """What both accept has the same inputs, outputs and external files for both: no file holds two models."""
    draw = random.Random(7)
    originals = seeds(make_model)
    candidates = originals + [mutate(draw, draw.choice(originals), draw.choice(originals), 1) for _ in range(3_000)]
    accepted = 0
    for data in candidates:
        try:
            model = inspect(data)
            parsed = onnx.ModelProto.FromString(data)
        except (ModelError, DecodeError):
            continue  # damage that only protobuf sees is in a part that is skipped; the load check refuses it
        accepted += 1
        weights = {w.name for w in parsed.graph.initializer} | {w.values.name for w in parsed.graph.sparse_initializer}
        assert [t.name for t in model.inputs] == [v.name for v in parsed.graph.input if v.name not in weights]
        assert [t.name for t in model.outputs] == [v.name for v in parsed.graph.output]
        assert {data.name for data in model.external} == locations(parsed)
    assert accepted > 200


def test_windows_do_not_change_what_is_read(make_model: MakeModel) -> None:
    """A graph far larger than one window of the file is read as onnx reads it."""
    nodes = [helper.make_node("Identity", [f"n{i}"], [f"n{i + 1}"], name="x" * (i % 700)) for i in range(2_000)]
    data = make_model(nodes)
    assert len(data) > 4 * (64 << 10)
    assert inspect(data).outputs[0].name == "y"
