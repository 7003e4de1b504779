"""The file of `model seal --description`."""

import json
from pathlib import Path
from typing import Any

import pytest

from aigovtool.cli.model.description import read_description
from aigovtool.errors import AIGovToolError

PICTURE = {
    "input": "x", "height": 1, "width": 2, "colours": "grey", "layout": "np", "fit": "stretch",
    "resampling": "nearest", "scale": 1.0, "mean": [0.0], "deviation": [1.0],
}  # fmt: skip


def test_it_says_what_people_and_programs_want_to_know(tmp_path: Path) -> None:
    """Names of classes, notes, and how a picture becomes an input."""
    said = {
        "labels": ["no", "yes"],
        "preprocessing": ["frontal views alone"],
        "metadata": [{"key": "trained on", "value": "2019 to 2024"}],
        "pictures": [PICTURE],
    }
    file = tmp_path / "description.json"
    file.write_text(json.dumps(said), encoding="utf-8")
    description, pictures = read_description(file)
    assert description is not None
    assert (description.labels, description.preprocessing) == (("no", "yes"), ("frontal views alone",))
    assert (description.metadata[0].key, pictures[0].width) == ("trained on", 2)


def test_without_a_file_nothing_is_said() -> None:
    """As before there were any."""
    assert read_description(None) == (None, ())


def test_an_empty_object_says_nothing(tmp_path: Path) -> None:
    """It is one that was not filled in yet."""
    file = tmp_path / "description.json"
    file.write_text("{}", encoding="utf-8")
    description, pictures = read_description(file)
    assert description is not None
    assert (description.labels, pictures) == ((), ())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "description.json"),
        ('{"label": []}', "label"),
        ('{"labels": ["a\\u0000b"]}', "printed"),
        ('{"metadata": [{"key": "a", "value": "b"}, {"key": "a", "value": "c"}]}', "twice"),
        (json.dumps({"pictures": [PICTURE | {"colours": "sepia"}]}), "colours"),
        (json.dumps({"pictures": [PICTURE | {"mean": []}]}), "channels"),
        ("{", "description.json"),
    ],
)
def test_what_it_cannot_say_is_refused_with_how_to_begin(content: str, words: str, tmp_path: Path) -> None:
    """Before anything is sealed."""
    file = tmp_path / "description.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(AIGovToolError) as caught:
        read_description(file)
    assert caught.value.exit_code == 3
    assert words in caught.value.message or words in str(caught.value)
    assert "labels" in (caught.value.fix or "")


def test_a_file_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    """With an example of one."""
    with pytest.raises(AIGovToolError) as caught:
        read_description(tmp_path / "none.json")
    said: Any = caught.value
    assert (said.reason, said.exit_code) == ("unreadable_description", 2)
