"""What requests have in common that differ in nothing but their data, found once for all of them.

A request of the binary form whose JSON part is, byte for byte, that of one before, on the same terms, is what that one
was but for its data: it has been parsed, compared with the model and held against the terms already. Whether bytes are
data at all is asked only of `BOOL` and `BYTES`; a request with such inputs, or with data in JSON, is looked at each time.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from aigovtool.enclave.boot import ServedModel
from aigovtool.enclave.engines.group import Form
from aigovtool.enclave.engines.ipc import TensorHeader, pack_tensors
from aigovtool.enclave.engines.lanes import SHORT_MS
from aigovtool.enclave.gateway import inference
from aigovtool.enclave.gateway.inference import Asked
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.units import Dimension, UnitVector, of
from aigovtool.protocol.oip import InferRequest, encode_infer_response
from aigovtool.protocol.tensor import Buffer, Datatype, Tensor

_LOOKED_AT: Final = frozenset({Datatype.BOOL, Datatype.BYTES})
#: Of one consumer and model.
MAX_SHAPES: Final = 8
#: A longer JSON part is not kept.
_MAX_HEAD_BYTES: Final = 4 << 10


class Shape:
    """One such form of requests."""

    def __init__(self, model: ServedModel, policy: ServingPolicy, valid: inference._Valid, run_ms: int) -> None:
        self.model: Final = model
        self.policy: Final = policy
        request = valid.request
        #: What was asked, without its data.
        self.asked: Final = InferRequest((), request.outputs, request.id, request.binary_data_output)
        headers, _ = pack_tensors(request.inputs)
        limits = inference._limits(valid.terms, valid.outputs)
        limit_ms = min((one for one in (policy.request_max.compute_ms, run_ms, SHORT_MS) if one))
        self.form: Final = Form(model.loaded.handle, headers, valid.outputs, limit_ms, limits, policy.finite)
        rows = inference.rows_of(model.loaded.interface.inputs, request)
        #: What one request may take at most.
        self.worst: Final = policy.request_max.plus(of(Dimension.INFERENCES, rows))
        self._head: tuple[Sequence[object], bytes] | None = None

    def body(self, outputs: Sequence[Tensor]) -> tuple[bytes, int | None]:
        """Return the body of an answer, and the length of its JSON part where data follows it."""
        body = inference._answer_of(self.model.offer.model, self.policy.answers, self.asked, outputs)
        return body.joined(), body.header_length


class Shapes:
    """The forms in which one consumer has asked one model of late."""

    def __init__(self) -> None:
        self._shapes: Final[OrderedDict[tuple[bytes, int, int], Shape]] = OrderedDict()

    def of(self, asked: Asked, policy: ServingPolicy) -> tuple[Shape, Buffer]:
        """Return the form of a request on these terms, and its data.

        Raises:
            AIGovToolError: what `inference` says of it.
        """
        length = _length(asked)
        key = (asked.body[:length], len(asked.body), id(policy))
        known = self._shapes.get(key) if length else None
        if known is not None and known.policy is policy:
            return known, memoryview(asked.body)[length:]
        valid = inference._validated(asked, policy)
        shape = Shape(asked.model, policy, valid, policy.run_limit_ms)
        _, data = pack_tensors(valid.request.inputs)
        plain = not valid.request.copied_bytes and not any(one.datatype in _LOOKED_AT for one in valid.request.inputs)
        if length and plain and length <= _MAX_HEAD_BYTES:
            self._shapes[key] = shape
            if len(self._shapes) > MAX_SHAPES:
                self._shapes.popitem(last=False)
        return shape, data[0] if len(data) == 1 else b"".join(data)


def _length(asked: Asked) -> int:
    text = asked.header_length or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 and text[0] != "0" else 0
