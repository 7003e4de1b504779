"""Opening the files of a model: nothing outside the named folder can get into a package."""

import os
from pathlib import Path

import pytest

from aigovtool.errors import AIGovToolError, InvalidValueError, ModelError
from aigovtool.package.source import open_sources


def refusal(folder: Path, *names: str) -> AIGovToolError:
    with pytest.raises(AIGovToolError) as caught, open_sources(folder, names):
        pass
    return caught.value


def test_named_files_are_opened_and_closed(tmp_path: Path) -> None:
    """Names stay as given, folders are walked, and the streams end with the block."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "sub" / "w").write_bytes(b"weights")
    with open_sources(tmp_path, ["model.onnx", "sub/w"]) as sources:
        assert [(s.name, s.stream.read()) for s in sources] == [("model.onnx", b"graph"), ("sub/w", b"weights")]
    assert all(s.stream.closed for s in sources)


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Neither a file nor a folder on the way may be a symbolic link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "file").symlink_to(outside / "secret")
    (inside / "folder").symlink_to(outside)
    for name in ("file", "folder/secret"):
        error = refusal(inside, name)
        assert isinstance(error, ModelError)
        assert error.reason == "source_unreadable"
        assert "link" in (error.fix or "")


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../b", ".", "", "a//b", "a\x00", "~/a", ".a"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    """Before anything is opened."""
    assert isinstance(refusal(tmp_path, name), InvalidValueError)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe does not block, a folder and a missing file are refused."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    assert refusal(tmp_path, "pipe").reason == "source_not_a_file"
    assert refusal(tmp_path, "folder").reason == "source_not_a_file"
    assert refusal(tmp_path, "missing").reason == "source_unreadable"
    assert refusal(tmp_path / "missing", "a").reason == "source_unreadable"
