"""How a picture becomes the input of a model, as its sealer says it (spec: package, section 2).

A model takes numbers. Which numbers a picture is depends on how the model was trained, and a wrong guess gives wrong
answers in silence: so whoever seals a model may say it, under the signature that covers all of the manifest.
"""

from enum import StrEnum, unique
from typing import Annotated, Final

from msgspec import Meta

from aigovtool.codec import Message
from aigovtool.errors import InvalidValueError

MAX_SIDE: Final = 16_384
MAX_TENSOR_NAME_CHARS: Final = 256
_Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
_Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
_PerChannel = Annotated[tuple[_Number, ...], Meta(max_length=3)]


@unique
class Colours(StrEnum):
    """What the channels are."""

    GREY = "grey"
    RGB = "rgb"
    BGR = "bgr"

    @property
    def channels(self) -> int:
        """How many there are."""
        return 1 if self is Colours.GREY else 3


@unique
class Layout(StrEnum):
    """The order of the axes, by their usual letters; `NHW` has none for a single channel, `NP` one for all pixels."""

    NCHW = "nchw"
    NHWC = "nhwc"
    NHW = "nhw"
    NP = "np"


@unique
class Fit(StrEnum):
    """How a picture of another shape is fitted: distorted, cut at two sides, or filled up with black."""

    STRETCH = "stretch"
    CROP = "crop"
    PAD = "pad"


@unique
class Resampling(StrEnum):
    """How pixels between pixels are made."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class Picture(Message, omit_defaults=True):
    """A picture for one input: in this order scaled, cut or filled, turned into numbers.

    A pixel's 0 to 255 becomes `(value * scale - mean) / deviation`, with the mean and the deviation of its channel.
    With `crop`, `resize_to` is the size of the shorter side before all but the middle is cut off; without it, just so
    much that the picture fills the frame.

    Raises:
        InvalidValueError: (where it is decoded) its parts do not fit each other.
    """

    input: Annotated[str, Meta(min_length=1, max_length=MAX_TENSOR_NAME_CHARS)]
    height: _Side
    width: _Side
    colours: Colours
    layout: Layout
    fit: Fit
    resampling: Resampling
    scale: _Number
    mean: _PerChannel
    deviation: _PerChannel
    resize_to: _Side | None = None

    def __post_init__(self) -> None:
        channels = self.colours.channels
        if {len(self.mean), len(self.deviation)} != {channels}:
            raise InvalidValueError(
                f"a {self.colours} picture has {channels} channels, each with a mean and a deviation",
                reason="bad_picture",
            )
        if not all(self.deviation):
            raise InvalidValueError("a deviation of 0 divides by nothing", reason="bad_picture")
        if channels > 1 and self.layout in {Layout.NHW, Layout.NP}:
            raise InvalidValueError(f"the layout {self.layout} is for one channel", reason="bad_picture")
        if self.resize_to is not None and (self.fit is not Fit.CROP or self.resize_to < max(self.height, self.width)):
            raise InvalidValueError(
                "resize_to goes with crop, and is no less than what is left of it", reason="bad_picture"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor of one picture."""
        channels, height, width = self.colours.channels, self.height, self.width
        return {
            Layout.NCHW: (1, channels, height, width),
            Layout.NHWC: (1, height, width, channels),
            Layout.NHW: (1, height, width),
            Layout.NP: (1, height * width),
        }[self.layout]
