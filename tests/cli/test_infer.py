import io
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import Place

from aigovtool.cli.infer import _elements, _read
from aigovtool.errors import AIGovToolError, InputError, TooLargeError


def test_arrays_are_read_as_they_were_saved(tmp_path: Path) -> None:
    """One array or several by name; row-major or column-major."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "rows.npy", array)
    np.save(tmp_path / "columns.npy", np.asfortranarray(array))
    np.savez_compressed(tmp_path / "two.npz", a=array, b=array.T)
    for name in ("rows.npy", "columns.npy"):
        assert np.array_equal(np.asarray(_read(str(tmp_path / name))), array)
    two = _read(str(tmp_path / "two.npz"))
    assert isinstance(two, dict)
    assert set(two) == {"a", "b"}
    assert np.array_equal(two["b"], array.T)


def test_json_is_lists_or_lists_by_name(tmp_path: Path) -> None:
    """What a person can type."""
    path = tmp_path / "in.json"
    for text, value in (("[[1,2.5]]", [[1, 2.5]]), ('{"image":[1]}', {"image": [1]}), ("3", 3)):
        path.write_text(text, encoding="utf-8")
        assert _read(str(path)) == value


def test_what_json_has_no_number_for_is_told_in_letters() -> None:
    """A value that is none would be `null`, as if there were no answer."""
    array = np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float32)
    assert _elements(array) == [1.5, "NaN", "Infinity", "-Infinity"]
    assert _elements(np.array([1, 2], np.int64)) == [1, 2]
    assert _elements(np.array([b"a"], object)) == [b"a"]


def npy(header: str, body: bytes) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", b"\0" * 4),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }", b"\0" * 4),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", b""),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8),
        npy("__import__('os').abort()", b""),
        npy("{'descr': 'nonsense', 'fortran_order': False, 'shape': (), }", b""),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }", b"\0" * 4),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': ((((((((((((((1,), }", b"\0" * 4),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "-" * 5_000 + "1,), }", b"\0" * 4),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 67108864, 67108864, 67108864), }", b""),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 40 + "), }", b"\0" * 4),
        npy("{'descr': '<U0', 'fortran_order': False, 'shape': (1,), }", b""),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_hostile_array_file_is_refused(tmp_path: Path, content: bytes, *, inside: bool) -> None:
    """Truncated, lying about its size, holding pickled objects or code: an error, no memory and no execution."""
    path = tmp_path / ("x.npz" if inside else "x.npy")
    if inside:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", content)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError):
        _read(str(path))


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_refused(tmp_path: Path, packing: int) -> None:
    """Wherever it is damaged, and however it is packed: a refusal that says what to do, and no error of ours."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        archive.writestr("a.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (8,), }", bytes(32)))
    whole, path = stream.getvalue(), tmp_path / "x.npz"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        with suppress(InputError):  # some bytes say nothing of what is in it
            _read(str(path))


def test_an_archive_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    """Which of the two it means is anybody's guess."""
    one = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", bytes(4))
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", one)
        archive.writestr("a", one)
    with pytest.raises(InputError) as caught:
        _read(str(tmp_path / "x.npz"))
    assert caught.value.reason == "bad_array_file"


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    """An array of Python objects is a program."""
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "x.npy").write_bytes(stream.getvalue())
    with pytest.raises(InputError):
        _read(str(tmp_path / "x.npy"))


@pytest.mark.parametrize("text", ["", "nonsense", '"text"', "null", "NaN", '{"a":1,"a":2}', "[" * 100 + "]" * 100])
def test_hostile_json_is_refused(tmp_path: Path, text: str) -> None:
    """The strict parser, and nothing that is no array."""
    path = tmp_path / "in.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        _read(str(path))
    assert str(path) in caught.value.message


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".json"])
def test_an_input_without_an_end_is_refused(tmp_path: Path, suffix: str) -> None:
    """What a file says of its size is not believed: no more is read than any request may hold."""
    path = tmp_path / f"x{suffix}"
    path.symlink_to("/dev/zero")
    with pytest.raises(TooLargeError):
        _read(str(path))


def test_a_missing_input_is_an_error_of_ours(tmp_path: Path) -> None:
    """Not a traceback."""
    with pytest.raises(AIGovToolError):
        _read(str(tmp_path / "nothing.npy"))


def test_an_enclave_that_does_not_answer_is_exit_code_7(lent: Place) -> None:
    """The input is read, the credential is used, and then nobody is there."""
    path = lent.directory / "in.json"
    path.write_text("[[1,2,3,4]]", encoding="utf-8")
    arguments = ["--enclave", "https://localhost:1", "--credential", lent.file("radiology.json"), "--input", str(path)]
    result = lent.run("infer", "xray", *arguments, "--allow-simulated")
    assert result.exit_code == 7, result.output


def test_a_receipt_that_is_none_is_exit_code_5(lent: Place) -> None:
    """Malformed is not verified."""
    path = lent.directory / "receipt.json"
    path.write_text("{}", encoding="utf-8")
    result = lent.run("receipt", "verify", str(path), "--credential", lent.file("radiology.json"))
    assert result.exit_code == 5, result.output
