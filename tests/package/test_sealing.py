"""Sealed packages: what comes back, and every way in which nothing may come back."""

import io
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from aigovtool.codec import encode
from aigovtool.crypto.aead import TAG_BYTES, FileSealer, key_commitment, new_model_key, sealed_size_bytes
from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.sign import seal as seal_envelope
from aigovtool.errors import (
    AIGovToolError,
    FaultError,
    InvalidValueError,
    ModelError,
    PackageError,
    SignatureInvalidError,
    TooLargeError,
)
from aigovtool.ids import ModelId, digest_of
from aigovtool.limits import MAX_MANIFEST_BYTES, SEGMENT_BYTES
from aigovtool.package.format import encode_header, read_header, read_unverified
from aigovtool.package.manifest import KIND, Description, Manifest, MetadataEntry
from aigovtool.package.sealing import PackageReader, SealedPackage, seal
from aigovtool.package.source import SourceFile, open_sources

SEALER = SigningKey.from_secret(Secret(sha256(b"TEST-ONLY sealer").digest()))
KEY = ModelKey(Secret(sha256(b"TEST-ONLY model key").digest()))
SALT = sha256(b"TEST-ONLY salt").digest()
SEGMENT_ON_DISK = SEGMENT_BYTES + TAG_BYTES


def seal_to(sources: Iterable[SourceFile], out: io.BytesIO, **options: object) -> SealedPackage:
    settings_ = {"model": ModelId("demo"), "model_key": KEY, "salt": SALT, "sealer": SEALER, "now_ms": 17, **options}
    return seal(list(sources), out, **settings_)  # type: ignore[arg-type]


def package_of(*files: tuple[str, bytes], **options: object) -> bytes:
    out = io.BytesIO()
    seal_to([SourceFile(name, io.BytesIO(data)) for name, data in files], out, **options)
    return out.getvalue()


def reader_of(data: bytes) -> PackageReader:
    return PackageReader(io.BytesIO(data), SEALER.public)


def open_all(data: bytes, key: ModelKey = KEY) -> list[bytes]:
    plain = []
    for file in reader_of(data).open_files(key):
        target = bytearray(file.size_bytes)
        file.decrypt_into(memoryview(target))
        plain.append(bytes(target))
    return plain


def refusal(attempt: Callable[..., object], *arguments: object) -> AIGovToolError:
    with pytest.raises(AIGovToolError) as caught:
        attempt(*arguments)
    return caught.value


@dataclass(frozen=True)
class Package:
    """A package of two files, and where its segments lie."""

    data: bytes
    graph: bytes
    weights: bytes

    @property
    def body(self) -> int:
        """Where the first segment begins."""
        return read_header(io.BytesIO(self.data)).body_offset

    @property
    def weights_at(self) -> int:
        """Where the first segment of the weights begins."""
        return self.body + sealed_size_bytes(len(self.graph))

    def segment(self, number: int) -> bytes:
        """Return a segment of the weights as it is on disk."""
        start = self.weights_at + number * SEGMENT_ON_DISK
        return self.data[start : start + SEGMENT_ON_DISK]

    def with_segments(self, *segments: bytes) -> bytes:
        """Return the package with other segments of the weights."""
        return self.data[: self.weights_at] + b"".join(segments)


@pytest.fixture(scope="module")
def package(identity: bytes) -> Package:
    """Two files; the second has three segments, the first two with equal plaintext."""
    weights = bytes(2 * SEGMENT_BYTES) + b"the end"
    return Package(package_of(("model.onnx", identity), ("weights.data", weights)), identity, weights)


# --- What comes back ---------------------------------------------------------------------------------


@settings(max_examples=20, derandomize=True, deadline=None)
@given(
    st.sampled_from([0, SEGMENT_BYTES, 2 * SEGMENT_BYTES]).flatmap(
        lambda edge: st.integers(max(0, edge - 3), edge + 3)
    ),
    st.integers(0, 2**32),
)
def test_files_of_every_size_come_back(identity: bytes, size: int, seed: int) -> None:
    """Round trip around the edges of segments, empty files included."""
    weights = random.Random(seed).randbytes(size)
    data = package_of(("model.onnx", identity), ("weights.data", weights), ("more/w.data", weights[:5]))
    assert open_all(data) == [identity, weights, weights[:5]]


def test_the_manifest_says_what_is_inside(package: Package) -> None:
    """Sizes, digests, inputs and outputs come from the files; the digest is that of the signed payload."""
    reader = reader_of(package.data)
    manifest = reader.manifest
    assert [(f.name, f.size_bytes, f.digest) for f in manifest.files] == [
        ("model.onnx", len(package.graph), digest_of(package.graph)),
        ("weights.data", len(package.weights), digest_of(package.weights)),
    ]
    assert [(t.name, t.datatype, t.shape) for t in manifest.inputs] == [("x", "FP32", ("n", 2))]
    assert manifest.sealer == SEALER.public.raw
    assert manifest.sealed_at_ms == 17
    assert reader.manifest_digest == digest_of(encode(manifest))
    assert reader.size_bytes == len(package.data)
    assert read_unverified(io.BytesIO(package.data)) == manifest


def test_a_description_travels_with_the_model(identity: bytes) -> None:
    """Labels, preprocessing and metadata are signed and come back."""
    description = Description(
        labels=("covid", "healthy"),
        preprocessing=("resize to 480 x 480",),
        metadata=(MetadataEntry(key="licence", value="none"),),
    )
    data = package_of(("model.onnx", identity), description=description)
    assert reader_of(data).manifest.description == description


def test_no_plaintext_is_in_the_package(identity: bytes) -> None:
    """A run of known weights is not found in the file."""
    weights = b"CANARY-IN-THE-WEIGHTS" * 10
    assert b"CANARY" not in package_of(("model.onnx", identity), ("weights.data", weights))


def test_hashing_beside_decryption_gives_the_same(package: Package) -> None:
    """With an executor of the caller: same bytes, same refusals."""
    broken = package.with_segments(package.segment(0), package.segment(1), b"\x00" * len(package.segment(2)))
    with ThreadPoolExecutor(1) as executor:
        target = bytearray(len(package.weights))
        reader_of(package.data).open_files(KEY)[1].decrypt_into(memoryview(target), executor=executor)
        assert bytes(target) == package.weights
        file = reader_of(broken).open_files(KEY)[1]
        assert refusal(lambda: file.decrypt_into(memoryview(target), executor=executor)).reason == "segment"
    assert not any(target)


def test_progress_is_monotonic_and_complete(identity: bytes) -> None:
    """Both passes are counted, and the last call says that all is done."""
    calls: list[tuple[int, int]] = []
    weights = bytes(SEGMENT_BYTES + 1)
    sources = [SourceFile("model.onnx", io.BytesIO(identity)), SourceFile("w", io.BytesIO(weights))]
    seal_to(sources, io.BytesIO(), progress=lambda done, total: calls.append((done, total)))
    total = 2 * (len(identity) + len(weights))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (total, total)
    assert {t for _, t in calls} == {total}


# --- Attacks on the bytes ----------------------------------------------------------------------------


def test_segments_cannot_be_dropped_swapped_duplicated_or_cut(package: Package) -> None:
    """Every other arrangement of genuine segments is refused, also where their plaintext is equal."""
    a, b, c = (package.segment(number) for number in range(3))
    graph = package.data[package.body : package.weights_at]
    attacks = {
        "drop first": [b, c],
        "drop middle": [a, c],
        "drop last": [a, b],
        "swap": [b, a, c],
        "duplicate in place": [a, a, c],
        "duplicate and extend": [a, b, b, c],
        "short last": [a, b, c[:-1]],
        "last twice": [a, b, c, c],
        "trailing byte": [a, b, c, b"\x00"],
        "tail of another segment": [a, b, a[: len(c)]],
        "graph as weights": [a, b, graph[: len(c)]],
    }
    for name, segments in attacks.items():
        error = refusal(open_all, package.with_segments(*segments))
        assert isinstance(error, PackageError), name


def test_files_cannot_change_places(identity: bytes) -> None:
    """Two files of equal size do not open in each other's place."""
    data = package_of(("model.onnx", identity), ("a", b"1" * 50), ("b", b"2" * 50))
    end = len(data) - 2 * (50 + TAG_BYTES)
    swapped = data[:end] + data[end + 66 :] + data[end : end + 66]
    assert refusal(lambda: open_all(swapped)).reason == "segment"


@pytest.mark.fault(20)
def test_no_byte_can_change(package: Package) -> None:
    """A flipped bit is found in every byte of the framing and the end, and in a sample of the rest."""
    size = len(package.data)
    draw = random.Random(1)
    places = {*range(16), *range(size - 30, size)}
    places |= {draw.randrange(16, package.weights_at) for _ in range(200)}
    places |= {draw.randrange(package.weights_at, size) for _ in range(40)}
    for place in sorted(places):
        changed = bytearray(package.data)
        changed[place] ^= 1 << draw.randrange(8)
        assert isinstance(refusal(open_all, bytes(changed)), PackageError | SignatureInvalidError), place


def test_no_package_can_be_cut_or_grow(package: Package) -> None:
    """Cut anywhere, or extended: refused without any key."""
    draw = random.Random(2)
    for end in [0, 1, 15, 16, package.body, package.weights_at, len(package.data) - 1] + [
        draw.randrange(len(package.data)) for _ in range(30)
    ]:
        assert refusal(reader_of, package.data[:end]).reason == "truncated"
        if end > package.body:
            assert refusal(read_unverified, io.BytesIO(package.data[:end])).reason == "truncated"
    assert refusal(lambda: reader_of(package.data + b"\x00")).reason == "trailing_bytes"
    assert refusal(lambda: read_unverified(io.BytesIO(package.data + b"\x00"))).reason == "trailing_bytes"


@pytest.mark.parametrize(
    ("offset", "patch", "reason"),
    [
        (0, b"PK\x03\x04", "not_a_package"),
        (6, b"\n\n", "not_a_package"),
        (8, b"\x00\x00\x00\x02", "format_version"),
        (12, b"\x00\x00\x00\x00", "header_size"),
        (12, b"\x00\x10\x00\x01", "header_size"),
        (12, b"\xff\xff\xff\xff", "header_size"),
        (16, b"[", "header"),
    ],
)
def test_framing_is_checked_before_anything_is_parsed(package: Package, offset: int, patch: bytes, reason: str) -> None:
    """Magic, version, header length and header each have their own refusal."""
    data = package.data[:offset] + patch + package.data[offset + len(patch) :]
    assert refusal(lambda: reader_of(data)).reason == reason


def test_a_second_encoding_of_the_header_is_refused(package: Package) -> None:
    """White space in the signed envelope changes no value, and is refused all the same."""
    header = package.data[16 : package.body].replace(b'":"', b'": "', 1)
    data = package.data[:12] + len(header).to_bytes(4, "big") + header + package.data[package.body :]
    assert refusal(lambda: reader_of(data)).reason == "header"


# --- Attacks with keys -------------------------------------------------------------------------------


def test_a_wrong_key_is_refused_before_any_segment(package: Package) -> None:
    """The commitment is checked first, and the refusal says what to do."""
    error = refusal(lambda: reader_of(package.data).open_files(new_model_key()))
    assert isinstance(error, PackageError)
    assert error.reason == "wrong_key"
    assert error.fix


def resigned(package: Package, **changes: object) -> bytes:
    """Return the package under another manifest that its real sealer signs."""
    manifest = msgspec.structs.replace(reader_of(package.data).manifest, **changes)
    return encode_header(seal_envelope(KIND, manifest, SEALER)) + package.data[package.body :]


def test_a_package_does_not_open_under_two_keys(package: Package) -> None:
    """Even its sealer cannot make the ciphertext open under a second key by changing the commitment."""
    second = new_model_key()
    data = resigned(package, key_commitment=key_commitment(second, SALT))
    assert refusal(lambda: open_all(data, second)).reason == "segment"
    assert refusal(lambda: open_all(data, KEY)).reason == "wrong_key"


def test_ciphertext_does_not_open_under_another_manifest(package: Package) -> None:
    """Same sealer, same key, same salt, same files, another time: the file keys are others."""
    assert refusal(lambda: open_all(resigned(package, sealed_at_ms=18))).reason == "segment"


def test_a_package_of_another_sealer_is_refused(identity: bytes) -> None:
    """Signed, but not by the sealer that was asked for."""
    data = package_of(("model.onnx", identity), sealer=SigningKey.generate())
    error = refusal(lambda: reader_of(data))
    assert isinstance(error, SignatureInvalidError)
    assert error.reason == "wrong_key"


def test_a_manifest_that_names_another_sealer_is_refused(package: Package) -> None:
    """The key in the manifest is the key of the signature."""
    data = resigned(package, sealer=bytes(32))
    assert isinstance(refusal(lambda: reader_of(data)), SignatureInvalidError)


def test_a_signed_message_of_another_kind_is_no_manifest(package: Package) -> None:
    """The kind is part of what is signed."""
    manifest = reader_of(package.data).manifest
    data = encode_header(seal_envelope("model-register.v1", manifest, SEALER)) + package.data[package.body :]
    assert refusal(lambda: reader_of(data)).reason == "wrong_kind"


def test_a_holder_of_the_key_cannot_change_the_weights(package: Package) -> None:
    """Other weights, sealed rightly under the right key, do not have the digest that the sealer signed."""
    context = sha256(read_header(io.BytesIO(package.data)).envelope.payload).digest()
    sealer = FileSealer(KEY, SALT, context, 1)
    other = bytearray(package.weights)
    other[-1] ^= 1
    segments = []
    for start in range(0, len(other), SEGMENT_BYTES):
        part = other[start : start + SEGMENT_BYTES]
        out = bytearray(len(part) + TAG_BYTES)
        sealer.seal_into(part, out, last=start + SEGMENT_BYTES >= len(other))
        segments.append(bytes(out))
    target = bytearray(b"\xff" * len(other))
    file = reader_of(package.with_segments(*segments)).open_files(KEY)[1]
    assert refusal(lambda: file.decrypt_into(memoryview(target))).reason == "digest"
    assert not any(target)


def test_memory_is_zeroed_when_a_late_segment_is_refused(package: Package) -> None:
    """Plaintext of the segments before it does not stay behind."""
    weights = b"\x55" * (SEGMENT_BYTES + 10)
    data = bytearray(package_of(("model.onnx", package.graph), ("w", weights)))
    data[-1] ^= 1
    target = bytearray(len(weights))
    file = reader_of(bytes(data)).open_files(KEY)[1]
    assert refusal(lambda: file.decrypt_into(memoryview(target))).reason == "segment"
    assert not any(target)


def test_the_target_must_fit(package: Package) -> None:
    """Memory of another size, or read-only memory, is refused before it is touched."""
    graph = reader_of(package.data).open_files(KEY)[0]
    size = len(package.graph)
    for target in (bytearray(size - 1), bytearray(size + 1), bytes(size)):
        assert refusal(graph.decrypt_into, memoryview(target)).reason == "target"


# --- Sealing -----------------------------------------------------------------------------------------


def change_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(SEGMENT_BYTES + 1)
        file.write(b"!")


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(SEGMENT_BYTES + 5)


@pytest.mark.parametrize("change", [change_byte, append, cut])
def test_a_file_that_changes_while_it_is_sealed_is_refused(
    identity: bytes, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """The second reading must give what the first gave; what was written by then never opens."""
    (tmp_path / "model.onnx").write_bytes(identity)
    weights = tmp_path / "weights.data"
    weights.write_bytes(bytes(2 * SEGMENT_BYTES))

    def progress(done: int, total: int) -> None:
        if done == total // 2 + len(identity):  # the graph is sealed, the weights are next
            change(weights)

    out = io.BytesIO()
    with open_sources(tmp_path, ["model.onnx", "weights.data"]) as sources:
        error = refusal(lambda: seal_to(sources, out, progress=progress))
    assert isinstance(error, PackageError)
    assert error.reason == "source_changed"
    assert refusal(lambda: open_all(out.getvalue())).reason == "truncated"


def test_a_full_disk_is_a_typed_fault(identity: bytes) -> None:
    """Writing to a full device ends in our error, not in the operating system's."""
    with Path("/dev/full").open("wb", buffering=0) as out, pytest.raises(FaultError) as caught:
        seal_to([SourceFile("model.onnx", io.BytesIO(identity))], out)  # type: ignore[arg-type]
    assert caught.value.reason == "io_failed"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["model.onnx", "MODEL.onnx"], "duplicate"),
        (["model.onnx", "w", "w/part"], "file_name"),
        (["folder/model.onnx"], "file_name"),
        (["../model.onnx"], "file_name"),
        (["/model.onnx"], "file_name"),
        ([".hidden"], "schema"),
        (["a\nb"], "schema"),
        ([], "file_count"),
        (["m"] * 1025, "file_count"),
    ],
)
def test_names_that_would_meet_or_leave_the_folder_are_refused(identity: bytes, names: list[str], reason: str) -> None:
    """Nothing is signed that a reader would refuse."""
    error = refusal(lambda: package_of(*((name, identity) for name in names)))
    assert isinstance(error, InvalidValueError)
    assert error.reason == reason


def test_a_manifest_over_the_bound_is_refused(identity: bytes) -> None:
    """A description that fits no header is refused before anything is written."""
    out = io.BytesIO()
    description = Description(labels=("x" * 1024,) * (MAX_MANIFEST_BYTES // 1024 - 100))
    sources = [SourceFile("model.onnx", io.BytesIO(identity))]
    assert isinstance(refusal(lambda: seal_to(sources, out, description=description)), TooLargeError)
    assert not out.getvalue()


def test_external_data_must_be_among_the_files(make_model: Callable[..., bytes]) -> None:
    """A graph whose weights lie in a file that the sealer did not name is not sealed without them."""
    weights = numpy_helper.from_array(np.ones(2, np.float32), "w")
    content = weights.raw_data
    weights.ClearField("raw_data")
    weights.data_location = weights.EXTERNAL
    weights.external_data.add(key="location", value="w.data")
    weights.external_data.add(key="length", value=str(len(content)))
    graph = make_model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[weights])
    assert open_all(package_of(("model.onnx", graph), ("w.data", content))) == [graph, content]
    assert refusal(package_of, ("model.onnx", graph)).reason == "external_not_listed"
    assert refusal(package_of, ("model.onnx", graph), ("w.data", content[:-1])).reason == "external_too_short"


def test_a_refused_model_writes_nothing() -> None:
    """Inspection comes before the first byte."""
    out = io.BytesIO()
    assert isinstance(refusal(lambda: seal_to([SourceFile("m", io.BytesIO(b"junk"))], out)), ModelError)
    assert not out.getvalue()


def test_the_reader_survives_arbitrary_manifest_values(package: Package) -> None:
    """Signed nonsense is a refusal: sizes, names, shapes and lengths out of their domain."""
    for changes in (
        {"format_version": 2},
        {"engine": "exe"},
        {"salt": b"short"},
        {"files": ()},
        {"sealed_at_ms": -1},
        {"model": "Not A Name"},
        {"outputs": ()},
    ):
        manifest: Manifest = reader_of(package.data).manifest
        fields = {name: changes.get(name, getattr(manifest, name)) for name in manifest.__struct_fields__}
        envelope = seal_envelope(KIND, fields, SEALER)
        data = encode_header(envelope) + package.data[package.body :]
        assert isinstance(refusal(reader_of, data), PackageError), changes


_CHILD = """
import sys
from pathlib import Path
from aigovtool.crypto.aead import new_model_key, new_salt
from aigovtool.crypto.sign import SigningKey
from aigovtool.package.sealing import PackageReader, seal
from aigovtool.package.source import open_sources
folder = Path(sys.argv[1])
with open_sources(folder, sys.argv[2:]) as sources, open("/dev/null", "wb") as out:
    made = seal(sources, out, model="big", model_key=new_model_key(), salt=new_salt(),
                sealer=SigningKey.generate(), now_ms=1)
# Not ru_maxrss: it outlives exec and would report the parent.
status = Path("/proc/self/status").read_text()
print(made.size_bytes, int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


def length_delimited(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("shape", ["external", "single"])
def test_sealing_needs_little_memory(identity: bytes, tmp_path: Path, shape: str) -> None:
    """300 MiB of weights, beside the graph or within it, are sealed in under 100 MiB of memory."""
    size = 300 << 20
    names = ["model.onnx"]
    model = tmp_path / "model.onnx"
    model.write_bytes(identity)
    if shape == "external":
        names.append("weights.data")
        with (tmp_path / "weights.data").open("wb") as file:
            file.truncate(size)
    else:
        # A graph given again would be refused, so the tensor goes into the one graph: field 7, initializer 5.
        start = identity.index(b"\x3a")
        length = identity[start + 1]
        graph = identity[start + 2 : start + 2 + length]
        head = b"\x10\x02" + length_delimited(8, b"w") + b"\x08" + varint(size) + b"\x4a" + varint(size)
        tensor = b"\x2a" + varint(len(head) + size) + head
        rest = identity[start + 2 + length :]
        with model.open("wb") as file:
            file.write(identity[:start] + rest + b"\x3a" + varint(len(graph) + len(tensor) + size) + graph + tensor)
            file.truncate(file.tell() + size)
    command = [sys.executable, "-I", "-c", _CHILD, str(tmp_path), *names]
    result = subprocess.run(command, capture_output=True, check=True, timeout=60)
    sealed_bytes, peak_mib = map(int, result.stdout.split())
    assert sealed_bytes > size
    assert peak_mib < 100
