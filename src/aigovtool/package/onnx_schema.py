"""What ONNX defines: field numbers, element types, and the operator domains that are taken.

Source: onnx/onnx-ml.proto of ONNX 1.23 (IR version 14), https://github.com/onnx/onnx. A field that is not listed here
is refused, because this reader cannot say what it does; reserved numbers are not listed. Sub-messages that the reader
does not enter (value_info, annotations, metadata) hold neither tensors nor operators.
"""

import re
from typing import Final

from aigovtool.package.manifest import Datatype
from aigovtool.package.wire import I32, I64, LEN, VARINT, Rule, Schema

_INTEGER: Final = Rule((VARINT,))
_FLOAT: Final = Rule((I32,))
_ONE: Final = Rule((LEN,))
_MANY: Final = Rule((LEN,), repeated=True)
# A parser takes repeated numbers packed or not, whatever the definition says.
_INTEGERS: Final = Rule((VARINT, LEN), repeated=True)
_FLOATS: Final = Rule((I32, LEN), repeated=True)
_DOUBLES: Final = Rule((I64, LEN), repeated=True)

# Tree ensembles hold millions of numbers and short strings in one attribute, each a field of its own. These match
# whole runs of them: field 7 (floats), 8 (ints), and 9 (strings of up to 16 bytes, such as "BRANCH_LEQ").
# The reader gives them a window at a time, so they need not be possessive, which Python 3.11.2 gets wrong here.
_RUN_FLOATS: Final = re.compile(rb"(?:\x3d.{4})*", re.DOTALL)
_RUN_INTS: Final = re.compile(rb"(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])*")
_RUN_STRINGS: Final = re.compile(
    b"(?:\x4a(?:" + b"|".join(b"\\x%02x.{%d}" % (size, size) for size in range(17)) + b"))*", re.DOTALL
)

MODEL: Final[Schema] = {
    1: _INTEGER,  # ir_version
    2: _ONE,  # producer_name
    3: _ONE,  # producer_version
    4: _ONE,  # domain
    5: _INTEGER,  # model_version
    6: _ONE,  # doc_string
    7: _ONE,  # graph
    8: _MANY,  # opset_import
    14: _MANY,  # metadata_props
    20: _MANY,  # training_info
    25: _MANY,  # functions
    26: _MANY,  # configuration
}
OPSET: Final[Schema] = {1: _ONE, 2: _INTEGER}  # domain, version
GRAPH: Final[Schema] = {
    1: _MANY,  # node
    2: _ONE,  # name
    5: _MANY,  # initializer
    10: _ONE,  # doc_string
    11: _MANY,  # input
    12: _MANY,  # output
    13: _MANY,  # value_info
    14: _MANY,  # quantization_annotation
    15: _MANY,  # sparse_initializer
    16: _MANY,  # metadata_props
}
NODE: Final[Schema] = {
    1: _MANY,  # input
    2: _MANY,  # output
    3: _ONE,  # name
    4: _ONE,  # op_type
    5: _MANY,  # attribute
    6: _ONE,  # doc_string
    7: _ONE,  # domain
    8: _ONE,  # overload
    9: _MANY,  # metadata_props
    10: _MANY,  # device_configurations
}
ATTRIBUTE: Final[Schema] = {
    1: _ONE,  # name
    2: _FLOAT,  # f
    3: _INTEGER,  # i
    4: _ONE,  # s
    5: _ONE,  # t
    6: _ONE,  # g
    7: Rule((I32, LEN), repeated=True, run=_RUN_FLOATS),  # floats
    8: Rule((VARINT, LEN), repeated=True, run=_RUN_INTS),  # ints
    9: Rule((LEN,), repeated=True, run=_RUN_STRINGS),  # strings
    10: _MANY,  # tensors
    11: _MANY,  # graphs
    13: _ONE,  # doc_string
    14: _ONE,  # tp
    15: _MANY,  # type_protos
    20: _INTEGER,  # type
    21: _ONE,  # ref_attr_name
    22: _ONE,  # sparse_tensor
    23: _MANY,  # sparse_tensors
}
FUNCTION: Final[Schema] = {
    1: _ONE,  # name
    4: _MANY,  # input
    5: _MANY,  # output
    6: _MANY,  # attribute (names)
    7: _MANY,  # node
    8: _ONE,  # doc_string
    9: _MANY,  # opset_import
    10: _ONE,  # domain
    11: _MANY,  # attribute_proto
    12: _MANY,  # value_info
    13: _ONE,  # overload
    14: _MANY,  # metadata_props
}
TENSOR: Final[Schema] = {
    1: _INTEGERS,  # dims
    2: _INTEGER,  # data_type
    3: _ONE,  # segment
    4: _FLOATS,  # float_data
    5: _INTEGERS,  # int32_data
    6: _MANY,  # string_data
    7: _INTEGERS,  # int64_data
    8: _ONE,  # name
    9: _ONE,  # raw_data
    10: _DOUBLES,  # double_data
    11: _INTEGERS,  # uint64_data
    12: _ONE,  # doc_string
    13: _MANY,  # external_data
    14: _INTEGER,  # data_location
    16: _MANY,  # metadata_props
}
SPARSE_TENSOR: Final[Schema] = {1: _ONE, 2: _ONE, 3: _INTEGERS}  # values, indices, dims
ENTRY: Final[Schema] = {1: _ONE, 2: _ONE}  # key, value
VALUE_INFO: Final[Schema] = {1: _ONE, 2: _ONE, 3: _ONE, 4: _MANY}  # name, type, doc_string, metadata_props
TYPE: Final[Schema] = {
    1: _ONE,  # tensor_type
    4: _ONE,  # sequence_type
    5: _ONE,  # map_type
    6: _ONE,  # denotation
    7: _ONE,  # opaque_type
    8: _ONE,  # sparse_tensor_type
    9: _ONE,  # optional_type
}
SEQUENCE_TYPE: Final[Schema] = {1: _ONE}  # elem_type
TENSOR_TYPE: Final[Schema] = {1: _INTEGER, 2: _ONE}  # elem_type, shape
SHAPE: Final[Schema] = {1: _MANY}  # dim
DIMENSION: Final[Schema] = {1: _INTEGER, 2: _ONE, 3: _ONE}  # dim_value, dim_param, denotation

TYPE_NAMES: Final = {4: "sequence", 5: "map", 7: "opaque", 8: "sparse tensor", 9: "optional"}

DATATYPES: Final = {
    1: Datatype.FP32,
    2: Datatype.UINT8,
    3: Datatype.INT8,
    4: Datatype.UINT16,
    5: Datatype.INT16,
    6: Datatype.INT32,
    7: Datatype.INT64,
    8: Datatype.BYTES,
    9: Datatype.BOOL,
    10: Datatype.FP16,
    11: Datatype.FP64,
    12: Datatype.UINT32,
    13: Datatype.UINT64,
    16: Datatype.BF16,
}

#: Domains whose operators ONNX Runtime itself implements. Others would need a library of somebody's code.
DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
#: Operators of those domains that open a file named in the graph (EPContext) or run Python.
REFUSED_OPERATORS: Final = frozenset({"EPContext", "PythonOp", "PythonOpGrad"})
#: Operators that take an index as it comes, and read the memory of their process where it leads.
UNGUARDED_OPERATORS: Final = frozenset({"WordConvEmbedding"})
#: Two runs of these need not give the same, whatever their seed: it belongs to a session, not to a request.
RANDOM_OPERATORS: Final = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Sampling"}
)
#: Nor of this one, where it has one more input than these, which says whether it is trained.
DROPOUT: Final = "Dropout"
DROPOUT_INPUTS: Final = 2
#: What ONNX defines for external data. Others (a `basepath`, attributes of the loader's object) are attacks.
EXTERNAL_KEYS: Final = frozenset({"location", "offset", "length", "checksum"})
