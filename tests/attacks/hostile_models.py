"""Models that try to read files, to load code, or to read the memory of their process."""

from collections.abc import Callable
from typing import Final

from assurance.models.own_graphs import model, value
from onnx import ModelProto, TensorProto, helper

_KIND: Final = TensorProto.UINT8


def outside(location: str, *, offset: int = 0, **more: str) -> TensorProto:
    """Return a constant of 16 bytes that lie elsewhere, and more that is said of where."""
    tensor = TensorProto(name="w", data_type=_KIND, dims=[16], data_location=TensorProto.EXTERNAL)
    for key, said in {"location": location, "offset": str(offset), "length": "16", **more}.items():
        tensor.external_data.add(key=key, value=said)
    return tensor


def _shown(tensor: TensorProto) -> ModelProto:
    node = helper.make_node("Identity", ["w"], ["y"])
    return model([node], outputs=[value("y", (16,), _KIND)], initializers=[tensor])


def _in_attribute(tensor: TensorProto) -> ModelProto:
    return model([helper.make_node("Constant", [], ["y"], value=tensor)], outputs=[value("y", (16,), _KIND)])


def _in_branch(tensor: TensorProto) -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["z"])], "b", [], [value("z", (16,), _KIND)], [tensor]
    )
    yes = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    return model([node], outputs=[value("y", (16,), _KIND)], initializers=[yes])


def _in_function(tensor: TensorProto) -> ModelProto:
    inside = [helper.make_node("Constant", [], ["b"], value=tensor)]
    function = helper.make_function("own", "F", ["a"], ["b"], inside, [helper.make_opsetid("", 17)])
    node = helper.make_node("F", ["x"], ["y"], domain="own")
    return model([node], outputs=[value("y", (16,), _KIND)], functions=[function])


def _library(path: str) -> ModelProto:
    """Return a model with an operator that only a library could bring, and every hint at the library."""
    made = model([helper.make_node("Evil", ["x"], ["y"], domain="evil", library=path)])
    made.opset_import.append(helper.make_opsetid("evil", 1))
    for key in ("custom_op_library", "ort_config", "session.register_custom_ops_library"):
        made.metadata_props.add(key=key, value=f'{{"session_options":{{"custom_op_library":"{path}"}}}}')
    return made


def _context(path: str) -> ModelProto:
    """Return a model that is but a reference to a compiled one."""
    node = helper.make_node(
        "EPContext",
        ["x"],
        ["y"],
        domain="com.microsoft",
        embed_mode=0,
        ep_cache_context=path,
        main_context=1,
        source="evil",
    )
    return model([node])


#: Each makes a model that is after one file; what is after the memory of the process names none.
HOSTILE: Final[dict[str, Callable[[str], ModelProto]]] = {
    "a path": lambda path: _shown(outside(path)),
    "a path that climbs": lambda path: _shown(outside("../" * 12 + path.lstrip("/"))),
    "a path within the working directory": lambda path: _shown(outside(path.lstrip("/"))),
    "a path through the package": lambda path: _shown(outside("weights.bin/../" + "../" * 12 + path.lstrip("/"))),
    "in an attribute": lambda path: _in_attribute(outside(path)),
    "in a branch": lambda path: _in_branch(outside(path)),
    "in a function": lambda path: _in_function(outside(path)),
    "members of the reader": lambda path: _shown(
        outside("weights.bin", __class__=path, basepath=path, __dict__=path, checksum=path)
    ),
    "a library": _library,
    "a compiled model": _context,
    "the memory of the process": lambda _: _shown(outside("*/_ORT_MEM_ADDR_/*", offset=0x7FFF_0000_0000)),
    "memory in an attribute": lambda _: _in_attribute(outside("*/_ORT_MEM_ADDR_/*", offset=0x5555_5555_0000)),
    "memory in a function": lambda _: _in_function(outside("*/_ORT_MEM_ADDR_/*", offset=0x5555_5555_0000)),
}
