"""A small real classifier of handwritten digits, trained on the pictures that ship with scikit-learn."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aigovtool.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np

_SHADES: Final = " .:-=+*#%@"
_TRAINED_ON: Final = 1_200


@dataclass(frozen=True, slots=True)
class Digits:
    """Pictures that the model has not seen, their true labels, and the exported model."""

    model: Path
    accuracy: float
    images: "np.ndarray[Any, np.dtype[np.float32]]"
    labels: "np.ndarray[Any, np.dtype[np.int64]]"


def train(directory: Path) -> Digits:
    """Train, measure on unseen pictures, and export to ONNX.

    Raises:
        ConfigurationError: scikit-learn or skl2onnx is not installed.
    """
    try:
        import numpy as np  # noqa: PLC0415 - only the demo needs these
        from skl2onnx import to_onnx  # noqa: PLC0415
        from sklearn.datasets import load_digits  # noqa: PLC0415
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"the demo trains its own model and needs {error.name}",
            reason="demo_extra",
            fix="run `make demo` in a clone, or `pip install scikit-learn skl2onnx`",
        ) from None
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    classifier = LogisticRegression(max_iter=1_000)
    classifier.fit(images[:_TRAINED_ON], labels[:_TRAINED_ON])
    accuracy = float(classifier.score(images[_TRAINED_ON:], labels[_TRAINED_ON:]))
    path = directory / "digits.onnx"
    graph = to_onnx(classifier, images[:1], options={"zipmap": False}, target_opset=18)
    path.write_bytes(graph.SerializeToString())
    return Digits(path, accuracy, images[_TRAINED_ON:], labels[_TRAINED_ON:])


def picture(image: "np.ndarray[Any, np.dtype[np.float32]]") -> list[str]:
    """Return eight lines of text that look like the digit."""
    return [
        "".join(_SHADES[min(int(value * len(_SHADES)), len(_SHADES) - 1)] * 2 for value in row)
        for row in image.reshape(8, 8)
    ]
