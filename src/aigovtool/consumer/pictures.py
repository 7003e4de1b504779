"""From a picture to the tensor that a model takes, and from an answer to the names of its classes.

Both as the model's sealer says it (`package.picture`, `Description.labels`): nothing is guessed. Pillow reads the file,
of four common kinds, within bounds: a small file may claim to be a picture of many gigabytes.
"""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from aigovtool.consumer.tensors import Array
from aigovtool.errors import ConfigurationError, InvalidValueError, MalformedError, TooLargeError
from aigovtool.package.manifest import Manifest, TensorSpec
from aigovtool.package.picture import Colours, Fit, Layout, Picture, Resampling

if TYPE_CHECKING:
    from PIL.Image import Image

#: Kinds of files that are read; of what else Pillow knows much is rare, old, or runs other programs.
FORMATS: Final = ("PNG", "JPEG", "BMP", "TIFF")
#: A chest X-ray of the largest plates has 20 million.
MAX_PIXELS: Final = 100_000_000
_DTYPES: Final = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "UINT8": np.uint8}


class Ranked(NamedTuple):
    """A class by its name, and the number that the model gave it."""

    label: str
    value: float


def picture_input(manifest: Manifest, content: bytes) -> dict[str, Array]:
    """Return a picture (the bytes of a file) as the only input of a model, by its name.

    Raises:
        InvalidValueError: `no_picture`: the model takes none, or more than a picture; `bad_input`.
        MalformedError, TooLargeError: the file is no picture that is read here, or too large a one.
        ConfigurationError: Pillow is not installed.
    """
    if len(manifest.inputs) != 1 or len(manifest.pictures) != 1:
        takes = ", ".join(repr(tensor.name) for tensor in manifest.inputs)
        raise InvalidValueError(
            f"the sealer of {manifest.model} does not say how a picture becomes its input",
            reason="no_picture",
            fix=f"give arrays for {takes} (.npy, .npz, JSON), or ask the custodian to seal it with --description",
        )
    (picture,), (tensor,) = manifest.pictures, manifest.inputs
    return {picture.input: tensor_of(picture, tensor, content)}


def tensor_of(picture: Picture, tensor: TensorSpec, content: bytes) -> Array:
    """Return the tensor of one picture; raises as `picture_input`."""
    image = _fitted(_read(content, picture.colours), picture)
    pixels = np.asarray(image, np.float64).reshape(picture.height, picture.width, picture.colours.channels)
    if picture.colours is Colours.BGR:
        pixels = pixels[:, :, ::-1]
    values = (pixels * picture.scale - np.array(picture.mean)) / np.array(picture.deviation)
    if picture.layout is Layout.NCHW:
        values = values.transpose(2, 0, 1)
    kind = _DTYPES[tensor.datatype.value]
    if kind is np.uint8:
        values = np.clip(np.rint(values), 0, 255)
    return np.ascontiguousarray(values.reshape(picture.shape), kind)


def ranked(manifest: Manifest, outputs: Sequence[Array], most: int = 5) -> list[Ranked]:
    """Return the classes of one answer, the likeliest first, where the manifest names them; else nothing.

    The output with one number for each class says how likely it is; an output that is one integer says which it is.
    """
    labels = manifest.description.labels
    for array in outputs:
        if labels and array.dtype.kind == "f" and array.size == len(labels):
            order = np.argsort(array.ravel())[::-1][:most]
            return [Ranked(labels[index], float(array.ravel()[index])) for index in order]
    for array in outputs:
        if labels and array.dtype.kind in "iu" and array.size == 1 and 0 <= int(array.ravel()[0]) < len(labels):
            return [Ranked(labels[int(array.ravel()[0])], 1.0)]
    return []


def _read(content: bytes, colours: Colours) -> "Image":
    pillow = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are odd, and read all the same
            image = pillow.open(io.BytesIO(content), formats=FORMATS)
            _require_small(image)
            return _of_colours(_upright(image), colours)
    except TooLargeError:
        raise
    except Exception:  # noqa: BLE001 - its readers raise whatever comes to hand of a file that is none
        raise MalformedError(
            "this is not a picture that can be read", reason="bad_picture", fix=f"give one of {', '.join(FORMATS)}"
        ) from None


def _require_small(image: "Image") -> None:
    if image.width * image.height > MAX_PIXELS:
        raise TooLargeError(f"the picture has over {MAX_PIXELS:,} pixels", reason="picture_too_large")


def _upright(image: "Image") -> "Image":
    """Turn a photograph as its camera was held (Exif)."""
    from PIL import ImageOps  # noqa: PLC0415

    turned: Image = ImageOps.exif_transpose(image)
    return turned


def _of_colours(image: "Image", colours: Colours) -> "Image":
    """Return the picture in 8 bits for each channel; what has 16 bits loses the lower half, and nothing else."""
    if image.mode in {"I;16", "I;16L", "I;16B", "I"}:
        wide = np.asarray(image).astype(np.int64)
        if wide.size and (wide.min() < 0 or wide.max() > 0xFFFF):
            raise ValueError("not of 16 bits")
        image = _pillow().fromarray((wide >> 8).astype(np.uint8))
    return image.convert("L" if colours is Colours.GREY else "RGB")


def _fitted(image: "Image", picture: Picture) -> "Image":
    pillow = _pillow()
    resampling = {
        Resampling.NEAREST: pillow.Resampling.NEAREST,
        Resampling.BILINEAR: pillow.Resampling.BILINEAR,
        Resampling.BICUBIC: pillow.Resampling.BICUBIC,
    }[picture.resampling]
    height, width = picture.height, picture.width
    if picture.fit is Fit.STRETCH:
        return image.resize((width, height), resampling)
    if picture.fit is Fit.CROP:
        if picture.resize_to is None:
            factor = max(width / image.width, height / image.height)
        else:
            factor = picture.resize_to / min(image.width, image.height)
    else:
        factor = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    # An odd pixel more goes to the right and to the bottom, whether it is filled up or cut off.
    left, top = int((width - size[0]) / 2), int((height - size[1]) / 2)
    frame: Image = pillow.new(image.mode, (width, height))
    frame.paste(image.resize(size, resampling), (left, top))
    return frame


def _pillow() -> Any:  # noqa: ANN401 - a module
    try:
        from PIL import Image  # noqa: PLC0415 - only who asks with a picture needs it
    except ImportError:
        raise ConfigurationError(
            "pictures are read by Pillow, which is not installed",
            reason="no_pillow",
            fix="install the extra `pictures`: pip install 'aigovtool[consumer,cli,pictures]'",
        ) from None
    return Image
