"""`aigovtool infer --input picture.png`: the picture becomes what the model takes, and classes have names."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from tests.consumer.conftest import MODEL, FakeEnclave, World
from tests.consumer.test_manifest import manifest, prove

from aigovtool.codec import convert
from aigovtool.package.manifest import Description
from aigovtool.package.picture import Picture

PICTURE = convert(
    {
        "input": "x", "height": 1, "width": 2, "colours": "grey", "layout": "np", "fit": "stretch",
        "resampling": "nearest", "scale": 1.0, "mean": [0.0], "deviation": [1.0],
    },
    Picture,
)  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def enclave(world: World) -> FakeEnclave:
    """One whose model takes pictures of two pixels, and has two classes."""
    made = world.enclave()
    prove(made, manifest(pictures=(PICTURE,), description=Description(labels=("normal", "pneumonia"))))
    return made


@pytest.fixture
def ask(run: Callable[..., Result], world: World, enclave: FakeEnclave) -> Callable[..., Result]:
    def asked(name: str, content: bytes | None = None, *more: str) -> Result:
        path = world.directory / name
        if content is None:
            Image.fromarray(np.array([[7, 200]], np.uint8)).save(path)
        else:
            path.write_bytes(content)
        common = ["--enclave", enclave.url, "--credential", str(world.file), "--allow-simulated"]
        return run("infer", MODEL, *common, "--input", str(path), *more)

    return asked


@pytest.mark.parametrize("name", ["picture.png", "picture.BMP", "picture.tiff"])
def test_a_picture_is_what_the_model_takes(name: str, ask: Callable[..., Result], enclave: FakeEnclave) -> None:
    """Whatever kind of file it is; the classes stand first, the likeliest on top."""
    result = ask(name, None, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["outputs"][0]["data"] == [14.0, 400.0]
    assert answer["classes"] == [{"label": "pneumonia", "value": 400.0}, {"label": "normal", "value": 14.0}]
    assert len(enclave.charged) == 1


def test_a_person_reads_the_name_of_the_class(ask: Callable[..., Result]) -> None:
    """In the first line of the answer."""
    lines = [line for line in ask("picture.png").stdout.splitlines() if line]
    assert lines[0].split() == ["pneumonia", "400"]


@pytest.mark.parametrize("content", [b"", b"GIF89a nothing", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_costs_nothing(content: bytes, ask: Callable[..., Result], enclave: FakeEnclave) -> None:
    """It is refused here, in words."""
    result = ask("picture.png", content)
    assert (result.exit_code, enclave.charged) == (3, [])
    assert "not a picture" in result.stderr


def test_a_model_that_takes_no_pictures_says_what_it_takes(ask: Callable[..., Result], enclave: FakeEnclave) -> None:
    """Its sealer said nothing of pictures; nobody guesses."""
    prove(enclave, manifest())
    result = ask("picture.png")
    assert (result.exit_code, enclave.charged) == (3, [])
    assert "'x'" in result.stderr


def test_an_enclave_of_an_earlier_version_is_asked_with_arrays(
    ask: Callable[..., Result], run: Callable[..., Result], world: World, enclave: FakeEnclave
) -> None:
    """It gives no manifest; what needs none works as before."""
    enclave.manifest_bytes.clear()
    assert "earlier version" in ask("picture.png").stderr
    (world.directory / "in.json").write_text("[[1, 2]]", encoding="utf-8")
    common = ["--enclave", enclave.url, "--credential", str(world.file), "--allow-simulated"]
    result = run("infer", MODEL, *common, "--input", str(world.directory / "in.json"), "--json")
    assert (result.exit_code, json.loads(result.stdout)["classes"]) == (0, [])
