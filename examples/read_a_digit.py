"""A person sends a picture, and reads what it is."""

import numpy as np
from on_one_machine import machine
from PIL import Image
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from aigovtool.consumer import Client
from aigovtool.consumer.pictures import picture_input, ranked

LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
#: Said once, by whoever made the model, and signed with it: nobody who asks has to know.
DESCRIPTION = {
    "labels": LABELS,
    "preprocessing": ["white on black, 8 x 8, each pixel from 0 to 1"],
    "pictures": [
        {
            "input": "X", "height": 8, "width": 8, "colours": "grey", "layout": "np", "fit": "stretch",
            "resampling": "bilinear", "scale": 1 / 255, "mean": [0.0], "deviation": [1.0],
        }
    ],
}  # fmt: skip


def main() -> None:
    """Train, lend, and ask."""
    images, labels = load_digits(return_X_y=True)
    classifier = LogisticRegression(max_iter=1_000).fit(images[:1200] / 16, labels[:1200])
    graph = to_onnx(classifier, np.zeros((1, 64), np.float32), options={"zipmap": False})
    with machine() as here:
        here.path("digits.onnx").write_bytes(graph.SerializeToString())
        here.lend(here.path("digits.onnx"), "digits", budget=10, description=DESCRIPTION)
        ward = here.consumer("ward7")

        # Somebody has a picture: larger than the model's, as a PNG.
        picture = here.path("picture.png")
        pixels = (images[1300].reshape(8, 8) / 16 * 255).astype(np.uint8)
        Image.fromarray(pixels).resize((200, 200), Image.Resampling.BICUBIC).save(picture)

        # With the command line.
        words = ("--enclave", here.enclave, "--credential", str(ward), "--allow-simulated")
        answer = here.run("infer", "digits", *words, "--input", str(picture))
        print(f"the command line reads {answer['classes'][0]['label']}; {answer['units_remaining']} units left")

        # With a program.
        with Client.connect(here.enclave, ward, allow_simulated=True) as client:
            manifest = client.manifest("digits")
            result = client.infer("digits", picture_input(manifest, picture.read_bytes()))
            best, *others = ranked(manifest, list(result.outputs.values()), most=3)
            print(f"the SDK reads {best.label} ({best.value:.0%}), then {', '.join(one.label for one in others)}")
            print(f"it is {LABELS[labels[1300]]}; {result.units_remaining} units left")


if __name__ == "__main__":
    main()
