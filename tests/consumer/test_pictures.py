"""Pictures as people have them become the tensors that a model was trained with, and nothing else does."""

import io
import struct
import zlib
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aigovtool.codec import convert
from aigovtool.consumer.pictures import MAX_PIXELS, picture_input, ranked, tensor_of
from aigovtool.errors import InvalidValueError, MalformedError, TooLargeError
from aigovtool.package.manifest import Datatype, Manifest, TensorSpec
from aigovtool.package.picture import Picture

SAID: dict[str, Any] = {
    "input": "image", "height": 2, "width": 2, "colours": "grey", "layout": "nchw", "fit": "stretch",
    "resampling": "nearest", "scale": 1.0, "mean": [0.0], "deviation": [1.0],
}  # fmt: skip
RGB: dict[str, Any] = {"colours": "rgb", "mean": [0.0, 0.0, 0.0], "deviation": [1.0, 1.0, 1.0]}


def file_of(pixels: Any, kind: str = "PNG", mode: str | None = None, **more: Any) -> bytes:
    """Return a picture's file."""
    array = np.asarray(pixels)
    image = Image.fromarray(array if array.dtype == np.uint16 else array.astype(np.uint8))
    out = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(out, kind, **more)
    return out.getvalue()


def tensor(content: bytes, datatype: Datatype = Datatype.FP32, **changes: Any) -> NDArray[Any]:
    """Return the tensor of a picture."""
    picture = convert(SAID | changes, Picture)
    return tensor_of(picture, TensorSpec(name="image", datatype=datatype, shape=picture.shape), content)


GREY = [[0, 64], [128, 255]]
RED_GREEN = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_pixels_are_numbers_as_they_are(kind: str) -> None:
    """Each kind of file that loses nothing gives the same."""
    assert tensor(file_of(GREY, kind)).tolist() == [[GREY]]


def test_the_numbers_are_those_that_the_sealer_names() -> None:
    """(value * scale - mean) / deviation, in the model's datatype."""
    found = tensor(file_of(GREY), scale=1 / 255, mean=[0.5], deviation=[0.25])
    assert found.dtype == np.float32
    assert np.array_equal(found[0, 0], ((np.array(GREY) / 255 - 0.5) / 0.25).astype(np.float32))


def test_channels_stand_where_they_belong() -> None:
    """In both orders, and with red and blue changed places."""
    content = file_of(RED_GREEN)
    rgb = np.array(RED_GREEN, np.float32)
    assert np.array_equal(tensor(content, **RGB)[0], rgb.transpose(2, 0, 1))
    assert np.array_equal(tensor(content, **RGB, layout="nhwc")[0], rgb)
    assert np.array_equal(tensor(content, **RGB | {"colours": "bgr"}, layout="nhwc")[0], rgb[:, :, ::-1])


def test_each_channel_has_its_mean_and_deviation() -> None:
    """As the pictures of the large data sets have them."""
    changes = RGB | {"mean": [1.0, 2.0, 3.0], "deviation": [1.0, 2.0, 4.0], "layout": "nhwc"}
    assert tensor(file_of(RED_GREEN), **changes)[0, 1, 1].tolist() == [9.0, 9.0, 6.75]


@pytest.mark.parametrize(("layout", "shape"), [("nhw", (1, 2, 2)), ("np", (1, 4))])
def test_one_channel_may_have_no_axis(layout: str, shape: tuple[int, ...]) -> None:
    """As classifiers of tables take a picture."""
    found = tensor(file_of(GREY), layout=layout)
    assert (found.shape, found.ravel().tolist()) == (shape, [0, 64, 128, 255])


def test_bytes_stay_bytes() -> None:
    """A model that takes them gets them, rounded and cut to what there is."""
    found = tensor(file_of(GREY), Datatype.UINT8, scale=1.5)
    assert found.dtype == np.uint8
    assert found.ravel().tolist() == [0, 96, 192, 255]


def test_colours_become_grey_and_grey_becomes_colours() -> None:
    """As the model takes them; what is transparent is as if it were not."""
    assert tensor(file_of(RED_GREEN))[0, 0, 0].tolist() == [76, 150]
    assert tensor(file_of(GREY), **RGB)[0, :, 1, 0].tolist() == [128, 128, 128]
    assert tensor(file_of(GREY, mode="RGBA")).tolist() == [[GREY]]


def test_sixteen_bits_lose_their_lower_half() -> None:
    """An X-ray often has them; black stays black, and white white."""
    wide = np.array([[0, 0x40FF], [0x8000, 0xFFFF]], np.uint16)
    assert tensor(file_of(wide)).tolist() == [[[[0, 0x40], [0x80, 0xFF]]]]


def test_a_photograph_is_turned_as_it_was_held() -> None:
    """What Exif says."""
    exif = Image.Exif()
    exif[0x0112] = 3
    assert tensor(file_of(GREY, exif=exif)).tolist() == [[[[255, 128], [64, 0]]]]


WIDE = [[10, 20, 30, 40], [50, 60, 70, 80]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fit": "crop"}, [[20, 30], [60, 70]]),
        ({"fit": "pad", "height": 4, "width": 4}, [[0] * 4, WIDE[0], WIDE[1], [0] * 4]),
        ({"fit": "stretch", "width": 4}, WIDE),
        ({"fit": "crop", "height": 1, "width": 2, "resize_to": 2}, [[20, 30]]),
    ],
)
def test_another_shape_is_fitted_as_the_sealer_says(changes: dict[str, Any], expected: list[list[int]]) -> None:
    """Cut at two sides, filled up with black, or distorted."""
    assert tensor(file_of(WIDE), **changes)[0, 0].tolist() == expected


# -- What is none -------------------------------------------------------------------------------------


def bomb(width: int, height: int) -> bytes:
    """Return the head of a PNG that claims to be so large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"\x89PNG\r\n\x1a\n",
        file_of(np.random.default_rng(1).integers(0, 255, (60, 60)))[:-900],
        bytes(1000),
        bomb(8, 8),
    ],
    ids=["nothing", "another kind", "PostScript", "a head", "cut off", "zeros", "no pixels"],
)
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    """Attack: kinds of files of which Pillow's readers start other programs, or that end in the middle."""
    with pytest.raises(MalformedError) as caught:
        tensor(content)
    assert caught.value.reason == "bad_picture"


def test_a_picture_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    """Attack: a hundred bytes that become ten gigabytes."""
    with pytest.raises((TooLargeError, MalformedError)):
        tensor(bomb(MAX_PIXELS // 1000 + 1, 1000))


def manifest(**changes: Any) -> Manifest:
    """Return what is read of a manifest here."""
    plain: dict[str, Any] = {
        "model": "xray",
        "inputs": (TensorSpec(name="image", datatype=Datatype.FP32, shape=(1, 1, 2, 2)),),
        "pictures": (convert(SAID, Picture),),
        "description": SimpleNamespace(labels=("normal", "pneumonia", "other")),
    }
    return cast("Manifest", SimpleNamespace(**plain | changes))


def test_a_picture_is_the_only_input() -> None:
    """By its name."""
    (name,), (array,) = zip(*picture_input(manifest(), file_of(GREY)).items(), strict=True)
    assert (name, array.shape) == ("image", (1, 1, 2, 2))


@pytest.mark.parametrize(
    "changes",
    [{"pictures": ()}, {"inputs": (TensorSpec(name="image", datatype=Datatype.FP32, shape=(1,)),) * 2}],
)
def test_a_model_that_takes_no_picture_says_so(changes: dict[str, Any]) -> None:
    """And what it takes instead."""
    with pytest.raises(InvalidValueError) as caught:
        picture_input(manifest(**changes), file_of(GREY))
    assert caught.value.reason == "no_picture"
    assert "'image'" in (caught.value.fix or "")


# -- Classes ------------------------------------------------------------------------------------------


def test_classes_are_named_the_likeliest_first() -> None:
    """Where there is one number for each."""
    found = ranked(manifest(), [np.array([2], np.int64), np.array([[0.25, 0.5, 0.125]], np.float32)], most=2)
    assert found == [("pneumonia", 0.5), ("normal", 0.25)]


def test_a_class_that_is_a_number_is_named() -> None:
    """Where the model gives nothing else."""
    assert ranked(manifest(), [np.array([2], np.int64)]) == [("other", 1.0)]


@pytest.mark.parametrize("array", [np.array([3]), np.array([-1]), np.array([0.5, 0.5]), np.array([1, 2])])
def test_what_fits_no_class_is_left_as_it_is(array: Any) -> None:
    """A name that is wrong is worse than none."""
    assert ranked(manifest(), [array]) == []
    assert ranked(manifest(description=SimpleNamespace(labels=())), [np.array([0])]) == []
