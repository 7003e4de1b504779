"""How a picture becomes an input, as a sealer may say it: only what fits the model."""

import io
import time
from typing import Any

import msgspec
import pytest
from onnx import TensorProto, helper

from aigovtool.codec import convert, encode
from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import InputError, InvalidValueError
from aigovtool.ids import ModelId
from aigovtool.package.manifest import Description, Manifest
from aigovtool.package.picture import Colours, Layout, Picture
from aigovtool.package.sealing import PackageReader, seal
from aigovtool.package.source import SourceFile

SAID: dict[str, Any] = {
    "input": "image", "height": 8, "width": 8, "colours": "grey", "layout": "nchw", "fit": "stretch",
    "resampling": "bilinear", "scale": 1 / 255, "mean": [0.5], "deviation": [0.5],
}  # fmt: skip


def sealed(pictures: list[Picture], shape: list[Any], element: int = TensorProto.FLOAT) -> Manifest:
    """Seal a model with one input of this shape, and return its manifest as a reader sees it."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["y"])],
        "g",
        [helper.make_tensor_value_info("image", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    out, key = io.BytesIO(), SigningKey.generate()
    seal(
        [SourceFile("model.onnx", io.BytesIO(model.SerializeToString()))],
        out,
        model=ModelId("xray"),
        model_key=ModelKey(Secret(bytes(32))),
        salt=bytes(32),
        sealer=key,
        now_ms=time.time_ns() // 1_000_000,
        description=Description(labels=("normal", "not")),
        pictures=pictures,
    )
    return PackageReader(out, key.public).manifest


def said(**changes: object) -> Picture:
    """Return a picture as a file says it."""
    return convert(SAID | changes, Picture)


def test_what_a_sealer_says_is_in_the_manifest() -> None:
    """Under the signature, and whole."""
    assert sealed([said()], [1, 1, 8, 8]).pictures == (said(),)
    assert sealed([said(fit="crop", resize_to=10)], ["n", 1, 8, 8]).pictures[0].resize_to == 10


def test_a_manifest_without_pictures_is_what_it_was_before() -> None:
    """The member is left out: packages of earlier versions keep their digest."""
    assert b"pictures" not in encode(sealed([], [1, 1, 8, 8]))


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ([1, 3, 8, 8], {"colours": "rgb", "mean": [0, 0, 0], "deviation": [1, 1, 1]}),
        ([1, 8, 8, 3], {"colours": "bgr", "layout": "nhwc", "mean": [0, 0, 0], "deviation": [1, 1, 1]}),
        ([1, 8, 8], {"layout": "nhw"}),
        (["n", 64], {"layout": "np"}),
        ([1, 1, "h", "w"], {}),
    ],
)
def test_each_layout_fits_its_shape(shape: list[object], changes: dict[str, object]) -> None:
    """Axes without a size take any."""
    assert sealed([said(**changes)], shape).pictures


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ([1, 1, 9, 8], {}),
        ([1, 3, 8, 8], {}),
        ([1, 8, 8], {}),
        ([1, 1, 8, 8], {"input": "other"}),
        ([1, 1, 8, 8], {"layout": "nhwc"}),
    ],
)
def test_what_does_not_fit_the_model_is_not_sealed(shape: list[object], changes: dict[str, object]) -> None:
    """Whoever seals learns it, and not whoever asks."""
    with pytest.raises(InvalidValueError) as caught:
        sealed([said(**changes)], shape)
    assert caught.value.reason == "bad_picture"


def test_an_input_that_holds_no_pixels_takes_no_picture() -> None:
    """Whole numbers of 64 bits are something else."""
    with pytest.raises(InvalidValueError):
        sealed([said()], [1, 1, 8, 8], TensorProto.INT64)


def test_two_ways_for_one_input_are_one_too_many() -> None:
    """Nobody could tell which is meant."""
    with pytest.raises(InvalidValueError) as caught:
        sealed([said(), said(scale=1.0)], [1, 1, 8, 8])
    assert caught.value.reason == "duplicate"


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": [0.5, 0.5]},
        {"deviation": []},
        {"deviation": [0.0]},
        {"colours": "rgb"},
        {"colours": "rgb", "mean": [0, 0, 0], "deviation": [1, 1, 1], "layout": "np"},
        {"colours": "sepia"},
        {"height": 0},
        {"width": 16_385},
        {"resize_to": 10},
        {"fit": "crop", "resize_to": 7},
        {"scale": float("1e300")},
        {"more": 1},
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    """Where it is read."""
    with pytest.raises((InputError, msgspec.ValidationError)):
        said(**changes)


def test_channels_and_shapes_are_those_of_the_words() -> None:
    """For whoever makes the tensor."""
    assert [one.channels for one in (Colours.GREY, Colours.RGB, Colours.BGR)] == [1, 3, 3]
    assert said().shape == (1, 1, 8, 8)
    assert said(layout="np").shape == (1, 64)
    assert Layout("nhw") is Layout.NHW
