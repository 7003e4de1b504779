"""Reads what a manifest needs out of an ONNX file, and refuses what an enclave must not load.

The file is walked field by field, never loaded; weights are skipped. Only `aigovtool.package.wire` touches its bytes,
and every message that can hold a tensor or an operator is entered, wherever it hides: subgraphs, attributes, functions.

Refused, each with a fix: external data outside the listed files, custom operators, operators that open files, training
graphs, inputs and outputs that are not tensors, anything that is not exactly ONNX (docs/spec/package.md section 6).

It does not judge whether the graph makes sense: `aigovtool.package.loadcheck` lets ONNX Runtime say so, elsewhere.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from aigovtool.errors import FaultError, InvalidValueError, ModelError
from aigovtool.limits import (
    MAX_ONNX_BYTES,
    MAX_ONNX_DEPTH,
    MAX_ONNX_INITIALIZERS,
    MAX_ONNX_NAME_BYTES,
    MAX_PACKAGE_BYTES,
    MAX_PACKAGE_FILES,
    MAX_TENSORS,
)
from aigovtool.package import onnx_schema as onnx
from aigovtool.package.interface import read_tensor
from aigovtool.package.manifest import FILE_NAME_PATTERN, MAX_OPSETS, Opset, TensorSpec
from aigovtool.package.wire import Field, WireReader, malformed

_LOCATION_RE: Final = re.compile(FILE_NAME_PATTERN)
_DECIMAL_RE: Final = re.compile(r"[0-9]{1,15}")
_MAX_FOREIGN_OPERATORS: Final = 4096
_EXTERNAL: Final = 1


@dataclass(frozen=True, slots=True)
class ExternalData:
    """A file that holds weights: its name beside the graph, and how many bytes of it the graph uses."""

    name: str
    end_bytes: int


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """What an ONNX file says about itself."""

    ir_version: int
    producer: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opsets: tuple[Opset, ...]
    external: tuple[ExternalData, ...]
    draws_random: bool


def inspect_onnx(stream: BinaryIO) -> OnnxModel:
    """Read `stream`, a seekable file that holds exactly one ONNX model, from its beginning.

    Raises:
        ModelError: refused; `reason` and `fix` say why and what to do.
        FaultError: the file cannot be read.
    """
    try:
        size_bytes = stream.seek(0, os.SEEK_END)
    except OSError as error:
        raise FaultError(f"the model cannot be read: {error.strerror}", reason="io_failed") from None
    if size_bytes > MAX_ONNX_BYTES:
        raise ModelError(
            f"the ONNX file has {size_bytes} bytes; protobuf ends at {MAX_ONNX_BYTES}",
            reason="onnx_too_large",
            fix="save the weights beside it: onnx.save(model, path, save_as_external_data=True)",
        )
    try:
        return _Walk(WireReader(stream, size_bytes), size_bytes).model()
    except InvalidValueError as error:
        raise ModelError(f"the model cannot be described: {error.message}", reason=error.reason) from None


def check_external(model: OnnxModel, names: Sequence[str], sizes_bytes: Sequence[int]) -> None:
    """Refuse a model whose external data is not wholly within the listed files.

    Raises:
        ModelError: with reason `external_not_listed` or `external_too_short`.
    """
    listed = dict(zip(names, sizes_bytes, strict=True))
    for data in model.external:
        if data.name not in listed:
            raise ModelError(
                f"the model reads its weights from {data.name!r}, which is not in the list of files",
                reason="external_not_listed",
                fix=f"name {data.name!r} among the files to seal, or save the model as one file",
            )
        if data.end_bytes > listed[data.name]:
            raise ModelError(
                f"the model reads {data.end_bytes} bytes of {data.name!r}, which has {listed[data.name]}",
                reason="external_too_short",
                fix="save graph and weights together again; they do not belong to each other",
            )


class _Walk:
    """One walk over one model. Every method takes the range of one message; depth is that of subgraphs."""

    def __init__(self, wire: WireReader, size_bytes: int) -> None:
        self._wire: Final = wire
        self._size: Final = size_bytes
        self._opsets: list[Opset] = []
        self._inputs: list[TensorSpec] = []
        self._outputs: list[TensorSpec] = []
        self._initializers: set[str] = set()
        self._external: dict[str, int] = {}
        self._foreign: set[tuple[str, str]] = set()
        self._functions: set[tuple[str, str]] = set()
        self._draws_random = False

    def model(self) -> OnnxModel:
        ir_version, producer, has_graph = 0, "", False
        for field in self._wire.fields(0, self._size, onnx.MODEL):
            if field.number == 1:
                ir_version = field.value
            elif field.number == 2:
                producer = self._name(field, "the producer's name")
            elif field.number == 7:
                has_graph = True
                self._graph(field, 0)
            elif field.number == 8:
                self._opset(field)
            elif field.number == 20:
                raise ModelError(
                    "the model holds a training graph", reason="training", fix="export the model for inference only"
                )
            elif field.number == 25:
                self._function(field)
        if not has_graph or ir_version == 0:
            raise malformed("it has no graph or no IR version")
        self._check_operators()
        return self._result(ir_version, producer)

    def _result(self, ir_version: int, producer: str) -> OnnxModel:
        inputs = tuple(spec for spec in self._inputs if spec.name not in self._initializers)
        for spec in inputs:
            if spec.shape is None:
                raise ModelError(
                    f"the input {spec.name!r} has no shape",
                    reason="unknown_rank",
                    fix="export the model with the rank of its inputs; axes may be dynamic",
                )
        if len(inputs) > MAX_TENSORS:
            raise ModelError(
                f"the model has over {MAX_TENSORS} inputs", reason="too_many_tensors", fix="export fewer inputs"
            )
        if not inputs or not self._outputs:
            raise ModelError(
                "the model has no input or no output", reason="no_tensors", fix="seal a model that computes something"
            )
        external = tuple(ExternalData(name, end) for name, end in sorted(self._external.items()))
        return OnnxModel(
            ir_version, producer, inputs, tuple(self._outputs), tuple(self._opsets), external, self._draws_random
        )

    def _opset(self, message: Field) -> None:
        domain, version = "", 0
        for field in self._wire.fields(message.start, message.end, onnx.OPSET):
            if field.number == 1:
                domain = self._name(field, "an operator domain")
            else:
                version = field.value
        # "ai.onnx" is another spelling of the default domain; exporters also list one set twice.
        opset = Opset(domain="" if domain == "ai.onnx" else domain, version=version)
        if opset in self._opsets:
            return
        if opset.domain in {known.domain for known in self._opsets}:
            raise ModelError(
                f"the model imports two versions of the operator set {opset.domain!r}",
                reason="opset_twice",
                fix="export the model again with one target opset",
            )
        if len(self._opsets) >= MAX_OPSETS:
            raise ModelError(f"the model imports over {MAX_OPSETS} operator sets", reason="too_many_opsets")
        self._opsets.append(opset)

    def _graph(self, message: Field, depth: int) -> None:
        if depth > MAX_ONNX_DEPTH:
            raise ModelError(
                f"subgraphs are nested deeper than {MAX_ONNX_DEPTH}",
                reason="too_deep",
                fix="export the model with flatter control flow",
            )
        for field in self._wire.fields(message.start, message.end, onnx.GRAPH):
            if field.number == 1:
                self._node(field, depth)
            elif field.number == 5:
                self._initializer(self._tensor(field), depth)
            elif field.number == 15:
                self._initializer(self._sparse_tensor(field), depth)
            elif depth == 0 and field.number == 11:
                self._add(self._inputs, field, "input")
            elif depth == 0 and field.number == 12:
                self._add(self._outputs, field, "output")

    def _initializer(self, name: str, depth: int) -> None:
        """Remember the names of the main graph: before IR version 4 they are listed as inputs, too."""
        if depth:
            return
        self._initializers.add(name)
        if len(self._initializers) > MAX_ONNX_INITIALIZERS:
            raise ModelError(
                f"the model has over {MAX_ONNX_INITIALIZERS} initializers",
                reason="too_many_initializers",
                fix="merge or fold its constants",
            )

    def _node(self, message: Field, depth: int) -> None:
        domain = operator = ""
        inputs, trains = 0, False
        for field in self._wire.fields(message.start, message.end, onnx.NODE):
            if field.number == 1:
                inputs += 1
                trains = trains or (inputs > onnx.DROPOUT_INPUTS and field.end > field.start)
            elif field.number == 4:
                operator = self._name(field, "an operator")
            elif field.number == 5:
                self._attribute(field, depth)
            elif field.number == 7:
                domain = self._name(field, "an operator domain")
        if operator in onnx.REFUSED_OPERATORS:
            raise ModelError(
                f"the operator {operator} opens files or runs code at load",
                reason="operator_refused",
                fix="export the model without compiling it for one device",
            )
        if operator in onnx.UNGUARDED_OPERATORS:
            raise ModelError(
                f"the operator {operator} reads beyond its tensors where an input tells it to",
                reason="operator_refused",
                fix="export the model with Gather, which checks its indices",
            )
        draws_random = operator in onnx.RANDOM_OPERATORS or (operator == onnx.DROPOUT and trains)
        self._draws_random = self._draws_random or draws_random
        if domain not in onnx.DOMAINS:
            self._foreign.add((domain, operator))
            if len(self._foreign) > _MAX_FOREIGN_OPERATORS:
                raise ModelError("the model uses too many custom operators", reason="custom_operator")

    def _attribute(self, message: Field, depth: int) -> None:
        for field in self._wire.fields(message.start, message.end, onnx.ATTRIBUTE):
            if field.number in {5, 10}:
                self._tensor(field)
            elif field.number in {6, 11}:
                self._graph(field, depth + 1)
            elif field.number in {22, 23}:
                self._sparse_tensor(field)

    def _function(self, message: Field) -> None:
        domain = name = ""
        for field in self._wire.fields(message.start, message.end, onnx.FUNCTION):
            if field.number == 1:
                name = self._name(field, "a function")
            elif field.number == 7:
                self._node(field, 1)
            elif field.number == 10:
                domain = self._name(field, "a function's domain")
            elif field.number == 11:
                self._attribute(field, 1)
        if len(self._functions) >= _MAX_FOREIGN_OPERATORS:
            raise ModelError(f"the model has over {_MAX_FOREIGN_OPERATORS} functions", reason="too_many_functions")
        self._functions.add((domain, name))

    def _check_operators(self) -> None:
        for domain, operator in sorted(self._foreign - self._functions):
            raise ModelError(
                f"the model needs the custom operator {operator!r} of {domain!r}",
                reason="custom_operator",
                fix=f"export it with operators of {', '.join(sorted(onnx.DOMAINS - {''}))} only",
            )

    def _sparse_tensor(self, message: Field) -> str:
        name = ""
        for field in self._wire.fields(message.start, message.end, onnx.SPARSE_TENSOR):
            if field.number == 1:
                name = self._tensor(field)
            elif field.number == 2:
                self._tensor(field)
        return name

    def _tensor(self, message: Field) -> str:
        name, is_external = "", False
        entries: dict[str, str] = {}
        for field in self._wire.fields(message.start, message.end, onnx.TENSOR):
            if field.number == 8:
                name = self._name(field, "a tensor's name")
            elif field.number == 13:
                self._external_entry(field, entries)
            elif field.number == 14:
                is_external = field.value == _EXTERNAL
                if field.value > _EXTERNAL:
                    raise malformed(f"tensor {name!r} has an unknown data location")
        if is_external != bool(entries):
            raise malformed(f"tensor {name!r} does not say whether its data is external")
        if is_external:
            self._note_external(name, entries)
        return name

    def _external_entry(self, message: Field, entries: dict[str, str]) -> None:
        key = value = ""
        for field in self._wire.fields(message.start, message.end, onnx.ENTRY):
            if field.number == 1:
                key = self._name(field, "a key of external data")
            else:
                value = self._name(field, "a value of external data")
        if key not in onnx.EXTERNAL_KEYS or key in entries:
            raise ModelError(
                f"external data has the key {key!r}, which ONNX does not define or which is given twice",
                reason="external_key",
                fix="save the model again with onnx.save(model, path, save_as_external_data=True)",
            )
        entries[key] = value

    def _note_external(self, name: str, entries: dict[str, str]) -> None:
        location = entries.get("location", "")
        if _LOCATION_RE.match(location) is None:
            raise ModelError(
                f"tensor {name!r} reads its data from {location!r}, which is not a plain relative name",
                reason="external_location",
                fix="save the model again with onnx.save(model, path, save_as_external_data=True, "
                "location='weights.data'); letters, digits and . _ + = @ - are taken, '..' and absolute paths are not",
            )
        offset, length = entries.get("offset", "0"), entries.get("length", "0")
        if not _DECIMAL_RE.fullmatch(offset) or not _DECIMAL_RE.fullmatch(length):
            raise malformed(f"tensor {name!r} has an external offset or length that is not a number")
        end = int(offset) + int(length)
        if end > MAX_PACKAGE_BYTES:
            raise ModelError(f"tensor {name!r} ends at byte {end} of its file", reason="external_too_short")
        self._external[location] = max(end, self._external.get(location, 0))
        if len(self._external) > MAX_PACKAGE_FILES:
            raise ModelError(
                f"the weights are in over {MAX_PACKAGE_FILES} files",
                reason="too_many_files",
                fix="save them in one: onnx.save(..., save_as_external_data=True, all_tensors_to_one_file=True)",
            )

    def _add(self, tensors: list[TensorSpec], message: Field, what: str) -> None:
        # Before IR version 4 every initializer is an input, too; only the rest counts in `_result`.
        if len(tensors) >= MAX_ONNX_INITIALIZERS:
            raise ModelError(f"the model has too many {what}s", reason="too_many_tensors")
        tensors.append(read_tensor(self._wire, message, what))
        if what == "output" and len(tensors) > MAX_TENSORS:
            raise ModelError(
                f"the model has over {MAX_TENSORS} outputs", reason="too_many_tensors", fix="export fewer outputs"
            )

    def _name(self, field: Field, what: str) -> str:
        return self._wire.text(field, MAX_ONNX_NAME_BYTES, what)
