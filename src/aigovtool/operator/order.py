"""An order of two operators: signed by the first, saved to a file, and cosigned by the second, who sends it.

Both sign the same bytes, so neither can change what the other agreed to. The file is the DSSE envelope as JSON. With
one signature it is worth nothing to anybody, so it is no secret; what it says is for the second operator to read and to
judge, and is shown from these very bytes.

The second operator cannot verify the first one's signature: parties are listed by the identifiers of their keys. What
is checked here is that the signature names the key of an operator who is enrolled; the custodian verifies both.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from aigovtool.codec import decode, decode_signed, encode
from aigovtool.crypto.sign import Envelope, Signature, SigningKey, VerifyKey, payload_type, pre_authentication_encoding
from aigovtool.errors import ConfigurationError, ConflictError, InputError, SignatureInvalidError, TooLargeError
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.limits import MAX_CONTROL_BODY_BYTES
from aigovtool.protocol.commands import (
    COMMAND,
    COMMAND_MAX_AGE_MS,
    COSIGNED_MAX_AGE_MS,
    Command,
)
from aigovtool.protocol.cosigning import needs_two
from aigovtool.protocol.party import OperatorFile
from aigovtool.protocol.views import Parties
from aigovtool.regular_file import write_new

_ANEW: Final = "have the first operator save a new order"


@dataclass(frozen=True, slots=True)
class Order:
    """A command and the signatures over its bytes. `command` is what the bytes say."""

    envelope: Envelope
    command: Command

    @property
    def valid_until_ms(self) -> int:
        """When the custodian refuses it, once two operators have signed."""
        return self.command.issued_at_ms + COSIGNED_MAX_AGE_MS


def write_order(path: Path, order: Order) -> None:
    """Write an order to a new file.

    Raises:
        TooLargeError: `order_too_large`: the custodian would not read it.
        ConfigurationError: `unwritable_order`.
    """
    content = encode(order.envelope)
    # The second signature comes yet.
    if len(content) + 512 > MAX_CONTROL_BODY_BYTES:
        raise TooLargeError(
            "the order names too many budgets", reason="order_too_large", fix="charge the budgets of fewer consumers"
        )
    try:
        write_new(path, content)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}", reason="unwritable_order") from None


def read_order(path: Path) -> Order:
    """Read an order, which may have come from anybody.

    Raises:
        ConfigurationError: `unreadable_order`, `bad_order` when it is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONTROL_BODY_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_order") from None
    try:
        envelope = decode(content, Envelope)
        if envelope.payloadType != payload_type(COMMAND):
            raise _bad(path, "it is signed as something else than a command")
        return Order(envelope=envelope, command=decode_signed(envelope.payload, Command))
    except InputError as error:
        raise _bad(path, error.message) from None


def require_cosignable(
    order: Order,
    file: OperatorFile,
    key: SigningKey,
    parties: Parties,
    *,
    now_ms: int,
    present: ServingPolicy | None = None,
) -> None:
    """Refuse an order that a second operator cannot or must not sign; `present` as for `needs_two`.

    Raises:
        ConflictError: `other_custodian`, `needs_one` when one operator is enough, `own_order`, `cosigned_before`.
        SignatureInvalidError: `wrong_key` when no enrolled operator of that name signed, `stale_command`.
    """
    command, signatures = order.command, order.envelope.signatures
    if command.custodian != VerifyKey(file.custodian.root).key_id:
        raise ConflictError(
            "this order is for another custodian", reason="other_custodian", fix="use the operator file of that one"
        )
    if not needs_two(command.act, operators=parties.operators(), present=present):
        raise ConflictError("this order needs one operator only", reason="needs_one", fix=_ANEW)
    if command.operator == file.operator or key.public.key_id in {one.keyid for one in signatures}:
        raise ConflictError(
            "you signed this order yourself", reason="own_order", fix="hand it to another operator, who cosigns it"
        )
    if len(signatures) != 1:
        raise ConflictError("two operators have signed this order", reason="cosigned_before", fix=_ANEW)
    first = next(
        (one for one in parties.parties if (one.role, one.name) == (PartyRole.OPERATOR, command.operator)), None
    )
    if first is None or first.revoked or first.key != signatures[0].keyid:
        raise SignatureInvalidError(
            f"it is not signed by an operator {command.operator} of this custodian", reason="wrong_key", fix=_ANEW
        )
    if not -COMMAND_MAX_AGE_MS <= now_ms - command.issued_at_ms <= COSIGNED_MAX_AGE_MS:
        raise SignatureInvalidError(
            "this order is more than 24 hours old, or its time is to come",
            reason="stale_command",
            fix=f"check the clocks, or {_ANEW}",
        )


def cosigned(order: Order, key: SigningKey) -> Order:
    """Return the order with one more signature over the same bytes."""
    envelope = order.envelope
    signed = pre_authentication_encoding(envelope.payloadType, envelope.payload)
    signature = Signature(keyid=key.public.key_id, sig=key.sign(signed))
    both = Envelope(
        payload=envelope.payload, payloadType=envelope.payloadType, signatures=[*envelope.signatures, signature]
    )
    return replace(order, envelope=both)


def _bad(path: Path, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is not an order of an operator: {what}", reason="bad_order", fix="give the file that --save wrote"
    )
