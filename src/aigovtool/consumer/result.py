"""What a consumer gets for one inference: outputs, and the verified receipt that vouches for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aigovtool.consumer.receipts import SavedReceipt, write_saved_receipt
from aigovtool.consumer.tensors import Array
from aigovtool.ids import Digest, ModelId, RequestKey
from aigovtool.ledger.receipt import Receipt, SignedReceipt
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.oip_metadata import TensorMetadata


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A served model: `manifest` is attested; inputs and outputs are what the attested enclave says of them."""

    model: ModelId
    manifest: Digest
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Result:
    """A verified answer. There is no such object for an answer whose receipt does not verify.

    Attributes:
        outputs: arrays by name, with the shapes that the enclave answered.
        units_remaining: inferences left on the budget path, as the receipt says; `remaining` tells of every dimension.
        receipt: the verified, signed receipt.
        saved: the record with which the receipt can be checked offline.
        request_body: the exact bytes that were sent.
        response_body: the exact bytes that were answered.
        warning: what to read before using the answer, for example that the TEE is simulated.
    """

    model: ModelId
    request_id: RequestKey
    outputs: Mapping[str, Array]
    receipt: SignedReceipt
    saved: SavedReceipt
    warning: str | None
    request_body: bytes = field(default=b"")
    response_body: bytes = field(default=b"")

    @property
    def remaining(self) -> UnitVector:
        """What is left of everything that is metered."""
        return self.receipt.receipt.remaining

    @property
    def units_remaining(self) -> int:
        """Inferences left on the budget path."""
        return self.remaining.inferences

    @property
    def statement(self) -> Receipt:
        """What the receipt states."""
        return self.receipt.receipt

    def save_receipt(self, path: Path | str, *, replace: bool = False) -> None:
        """Write the record for `aigovtool receipt verify`, mode 0600; raises as `write_secret_file`."""
        write_saved_receipt(Path(path), self.saved, replace=replace)

    def __repr__(self) -> str:
        """Show names, types and shapes; never what was asked or answered."""
        outputs = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in self.outputs.items())
        parts = [f"model={self.model!r}", f"outputs={{{outputs}}}", f"units_remaining={self.units_remaining}"]
        parts.append(f"request_id={self.request_id!r}")
        if self.warning is not None:
            parts.append(f"warning={self.warning!r}")
        return f"Result({', '.join(parts)})"
