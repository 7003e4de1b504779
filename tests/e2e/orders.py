"""Orders of operators as bytes, for tests that send them themselves, or have somebody else sign them."""

import secrets
import time

from tests.e2e.world import World

from aigovtool.codec import encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.ids import MessageId
from aigovtool.protocol.commands import COMMAND, Act, Command
from aigovtool.protocol.party import OperatorFile


def key_of(operator: OperatorFile) -> SigningKey:
    """Return the key in an operator's file."""
    return SigningKey.from_secret(Secret(operator.key))


def signed_order(world: World, act: Act, *signers: SigningKey) -> bytes:
    """Return an order in the name of the first operator, signed by whomever."""
    order = Command(
        custodian=world.custodian_id,
        operator=world.operator.operator,
        command_id=MessageId(secrets.token_hex(16)),
        issued_at_ms=time.time_ns() // 1_000_000,
        act=act,
    )
    return encode(seal(COMMAND, order, *signers))
