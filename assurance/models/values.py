"""What things in a model are changed into: numbers at the edges of types, names, operators that are rarely tried."""

from functools import cache
from random import Random
from typing import Final

import onnx.defs

INTEGERS: Final = (
    *(0, 1, -1, 2, 3, 7, 8, 64, 255, 65_536),
    *(2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63), -(2**63) + 1),
)
SMALL: Final = (0, 1, -1, 2, 3, 4, 5, -2, -3, 16)
FLOATS: Final = (0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, -3.4e38, float("inf"), float("-inf"), float("nan"))
TEXTS: Final = (
    *("", "x", "y", "NOTSET", "SAME_UPPER", "linear", "BRANCH_LEQ", "a,b->", "...ij,...jk->...ik", "i" * 3_000),
    *("../../etc/passwd", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "weights.bin", "\n", "\u202e", "%s%n", "é" * 9),
)
#: Operators that only ONNX Runtime has: none of the standard's test cases tries them.
_CONTRIBUTED: Final = (
    *("Attention", "MultiHeadAttention", "GroupQueryAttention", "SkipLayerNormalization", "EmbedLayerNormalization"),
    *("FusedConv", "FusedMatMul", "FusedGemm", "QAttention", "QLinearConv", "QLinearAdd", "QLinearMul", "QGemm"),
    *("QLinearConcat", "QLinearWhere", "QLinearSoftmax", "MatMulNBits", "MatMulBnb4", "DynamicQuantizeMatMul"),
    *("BeamSearch", "GreedySearch", "Sampling", "CropAndResize", "ExpandDims", "GatherND", "Inverse", "Irfft", "Rfft"),
    *("MurmurHash3", "NGramRepeatBlock", "Pad", "Range", "RotaryEmbedding", "SampleOp", "SparseToDenseMatMul"),
    *("Tokenizer", "TransposeMatMul", "Trilu", "Unique", "WordConvEmbedding", "BifurcationDetector", "BiasGelu"),
    *(
        "CDist",
        "ConvTransposeWithDynamicPads",
        "DequantizeBFP",
        "EPContext",
        "GridSample",
        "NhwcMaxPool",
        "MaxpoolWithMask",
    ),
)


@cache
def operators() -> tuple[tuple[str, str], ...]:
    """Return each operator's domain and name."""
    standard = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas()}
    return (*sorted(standard), *(("com.microsoft", name) for name in _CONTRIBUTED))


def integer(chance: Random) -> int:
    """Return a small number, or one at the edge of a type."""
    return chance.choice(SMALL if chance.random() < 0.5 else INTEGERS)


def integers(chance: Random) -> list[int]:
    """Return a list of numbers, now and then a long one."""
    length = chance.choice((0, 1, 1, 2, 2, 3, 4, 4, 6, 8, 40, 5_000))
    return [integer(chance) for _ in range(min(length, 40))] * (length // min(length, 40) if length else 1)
