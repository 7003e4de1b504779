"""The file of `model seal --description`: what people, and programs that ask with pictures, want to know of a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from aigovtool.codec import Message, decode
from aigovtool.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from aigovtool.package.manifest import Description
    from aigovtool.package.picture import Picture

_MAX_BYTES = 1 << 20
_BEGIN = (
    'a file like {"labels": ["normal", "pneumonia"], "pictures": [{"input": "image", "height": 224, "width": 224, '
    '"colours": "rgb", "layout": "nchw", "fit": "crop", "resize_to": 256, "resampling": "bilinear", '
    '"scale": 0.00392156862745098, "mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225]}]}'
)


class _Metadata(Message):
    key: str
    value: str


class _Described(Message, omit_defaults=True):
    labels: Annotated[tuple[str, ...], Meta(max_length=10_000)] = ()
    preprocessing: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    metadata: Annotated[tuple[_Metadata, ...], Meta(max_length=64)] = ()
    pictures: tuple["dict[str, object]", ...] = ()


def read_description(file: Path | None) -> "tuple[Description | None, tuple[Picture, ...]]":
    """Return what a file says: the description, and how pictures become inputs.

    Raises:
        ConfigurationError: it cannot be read (`unreadable_description`).
        InvalidValueError, MalformedError: it says something else, or what does not fit.
    """
    from aigovtool.codec import convert  # noqa: PLC0415
    from aigovtool.package.manifest import Description, MetadataEntry  # noqa: PLC0415
    from aigovtool.package.picture import Picture  # noqa: PLC0415

    if file is None:
        return None, ()
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {file}: {error.strerror}", reason="unreadable_description", fix=_BEGIN
        ) from None
    try:
        said = decode(content, _Described, max_bytes=_MAX_BYTES)
        metadata = tuple(MetadataEntry(key=one.key, value=one.value) for one in said.metadata)
        described = Description(labels=said.labels, preprocessing=said.preprocessing, metadata=metadata)
        return described, tuple(convert(one, Picture) for one in said.pictures)
    except InputError as error:
        error.message, error.fix = f"{file}: {error.message}", error.fix or _BEGIN
        raise
