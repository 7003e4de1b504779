"""An enclave with pieces taken out, to show what each costs. For benchmarks alone: nothing of the product can do this.

Each piece is a program that replaces functions of the enclave before it serves. What is left out is listed in `PIECES`.
"""

from typing import Final

from tests.e2e.world import ENCLAVE_PROGRAM

_NO_RECEIPT: Final = """
from aigovtool.enclave.gateway import inference

real = inference.sign_batch
made = []

def sign_once(receipts, instance, key):
    if not made:
        made.extend(real(receipts, instance, key))
    return made

inference.sign_batch = sign_once
"""
_NO_METERING: Final = """
import aigovtool.enclave.instance_run as instance_run
from aigovtool.enclave.gateway import inference
from aigovtool.enclave.results import Answered
from aigovtool.ids import LeaseId
from aigovtool.protocol.reservation import Reservation

async def reserve(self, model, consumer, units, request, deadline_ms):
    return Reservation(1, LeaseId("0" * 32), model, consumer, units)

instance_run.InstanceRun.reserve = reserve
instance_run.InstanceRun.void = lambda self, reservation, *, failed: None
inference._release = lambda run, asked, reservation, used, made: Answered(made.content, made.headers, made.terms)
"""
UNSIGNED: Final = "aigovtool without signing receipts"
METERING: Final = "aigovtool without metering and receipts"
#: How each is called, and its program.
PIECES: Final = {
    UNSIGNED: _NO_RECEIPT + ENCLAVE_PROGRAM,
    METERING: _NO_METERING + ENCLAVE_PROGRAM,
}
