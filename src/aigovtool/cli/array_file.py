"""Files of arrays, as numpy saves them (`.npy`, `.npz`): read strictly, without pickle and without code of any kind.

Whoever asks a model may have such a file from anybody. So a header is read here and not by numpy, which evaluates it as
Python: it has one form, that of `numpy.save`. The shape is compared with the data before anything is made of it.
Archives are stored or deflated, as numpy writes them, and say how large their members are; what they say is bounded
before anything is unpacked, and no more than that is.

What lies behind this is a `numpy.ndarray` whose memory is that of the file, or of the member that was unpacked.

Source: numpy, `numpy.lib.format`, "Format Version 1.0" and "Format Version 2.0".
"""

import io
import math
import re
from typing import TYPE_CHECKING, Any, Final

from aigovtool.errors import AIGovToolError, MalformedError, TooLargeError
from aigovtool.limits import MAX_INFER_BODY_BYTES, MAX_TENSOR_RANK, MAX_TENSORS

if TYPE_CHECKING:
    import zipfile

    import numpy as np

_MAGIC: Final = b"\x93NUMPY"
#: How many bytes say how long the header is, by version.
_LENGTH_BYTES: Final = {b"\x01\x00": 2, b"\x02\x00": 4}
#: Longer than any header of an array of numbers.
_MOST_HEADER_BYTES: Final = 4 << 10
_SIZE: Final = r"(?:0|[1-9][0-9]{0,17})"
_HEADER_RE: Final = re.compile(
    r"\{ ?'descr': ?'([<>|=]?(?:b1|[iu][1248]|f[248]|c8|c16|[SU][1-9][0-9]{0,6}))',"
    r" ?'fortran_order': ?(True|False),"
    rf" ?'shape': ?\((|{_SIZE},|{_SIZE}(?:, ?{_SIZE})+,?)\),? ?\}} *\n?"
)
_SIZE_RE: Final = re.compile(_SIZE)


def array_in(data: bytes) -> "np.ndarray[Any, np.dtype[Any]]":
    """Return the array of one `.npy` document; its memory is that of `data`.

    Raises:
        MalformedError: `bad_array_file`.
    """
    import numpy as np  # noqa: PLC0415

    digits = _LENGTH_BYTES.get(data[6:8], 0)
    begin = 8 + digits
    end = begin + int.from_bytes(data[8:begin], "little")
    if not data.startswith(_MAGIC) or not digits or not begin < end <= min(len(data), begin + _MOST_HEADER_BYTES):
        raise _bad("it does not begin as one")
    header = _HEADER_RE.fullmatch(data[begin:end].decode("latin-1"))
    if header is None:
        raise _bad("its header is not that of an array of numbers or texts")
    dtype, shape = np.dtype(header[1]), tuple(map(int, _SIZE_RE.findall(header[3])))
    if len(shape) > MAX_TENSOR_RANK:
        raise _bad(f"it has {len(shape)} dimensions; at most {MAX_TENSOR_RANK} are taken")
    if len(data) - end != dtype.itemsize * math.prod(shape):
        raise _bad("its data is not what its header says")
    if not math.prod(shape):
        if math.prod(filter(None, shape)) > MAX_INFER_BODY_BYTES:  # numpy multiplies these, too
            raise _bad("its dimensions are too large")
        return np.empty(shape, dtype)
    flat = np.frombuffer(data, dtype, offset=end)
    return flat.reshape(shape, order="F" if header[2] == "True" else "C")


def arrays_in(data: bytes) -> "dict[str, np.ndarray[Any, np.dtype[Any]]]":
    """Return the arrays of an `.npz` archive, by name.

    Raises:
        MalformedError: `bad_array_file`.
        TooLargeError: `input_too_large`: it says that it unpacks to more than any request.
    """
    import zipfile  # noqa: PLC0415

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _require_plain(members)
            return {one.filename.removesuffix(".npy"): array_in(archive.read(one)) for one in members}
    except AIGovToolError:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile and zlib say nowhere all that they raise
        raise _bad(f"it is no whole archive ({type(error).__name__})") from None


def _require_plain(members: "list[zipfile.ZipInfo]") -> None:
    """Refuse an archive that is not as numpy makes one, before anything of it is unpacked."""
    import zipfile  # noqa: PLC0415

    names = {one.filename.removesuffix(".npy") for one in members}
    if len(names) != len(members) or len(members) > MAX_TENSORS:
        raise _bad("its members have one name twice, or are too many")
    if any(one.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} for one in members):
        raise _bad("it is packed in a way that numpy does not use")
    if sum(one.file_size for one in members) > MAX_INFER_BODY_BYTES:
        raise TooLargeError("it unpacks to more than any request", reason="input_too_large")


def _bad(why: str) -> MalformedError:
    return MalformedError(
        f"not an array file: {why}", reason="bad_array_file", fix="save it with numpy.save or numpy.savez"
    )
