"""An enclave with pieces taken out, to show what each costs. For benchmarks alone: nothing of the product can do this.

Each piece is a program that replaces functions of the enclave before it serves. What is left out is listed in `PIECES`.
"""

from typing import Final

from tests.e2e.world import ENCLAVE_PROGRAM

_NO_RECEIPT: Final = """
from aigovtool.enclave.gateway import batch, inference

real, real_texts = inference.sign_batch, batch.signed_texts
made, texts = [], []

def sign_once(receipts, instance, key):
    if not made:
        made.extend(real(receipts, instance, key))
    return made

def write_once(written, instance, key):
    if not texts:
        texts.append(max(real_texts(written, instance, key), key=len))
    return texts * len(written)

inference.sign_batch, batch.signed_texts = sign_once, write_once
"""
_NO_METERING: Final = """
from aigovtool.enclave.charging import Charging
from aigovtool.enclave.gateway import inference
from aigovtool.enclave.gateway.batch import Batch
from aigovtool.enclave.results import Answered, header_lines
from aigovtool.ids import LeaseId
from aigovtool.protocol.reservation import Reservation

def reserve_now(self, model, consumer, units, request=None):
    return Reservation(1, LeaseId("0" * 32), model, consumer, units)

async def reserve(self, model, consumer, units, request, deadline_ms):
    return reserve_now(self, model, consumer, units)

def release(self, run):
    made = [self.shape.answer(one.headers, one.payload) for one in self._ran]
    return self._kept(run, [Answered(content, lines) for content, lines in made])

Charging.reserve, Charging.reserve_now, Batch.release = reserve, reserve_now, release
Charging.void = lambda self, reservation, *, failed: None
inference._release = lambda run, asked, reservation, used, made: Answered(
    made.content, header_lines(made.headers), made.terms
)
"""
UNSIGNED: Final = "aigovtool without signing receipts"
METERING: Final = "aigovtool without metering and receipts"
#: The product itself, of a model whose terms do not say that requests may be computed together.
ONE_BY_ONE: Final = "aigovtool, each request computed on its own"
#: The product itself, as whoever runs it may have it where few ask at a time: all cores of this machine for each run.
WIDE: Final = "aigovtool, 2 threads for each run"
WIDE_PROGRAM: Final = ENCLAVE_PROGRAM.replace("EnclaveOptions(", "EnclaveOptions(threads_per_run=2, ")
#: How each is called, and its program.
PIECES: Final = {
    UNSIGNED: _NO_RECEIPT + ENCLAVE_PROGRAM,
    METERING: _NO_METERING + ENCLAVE_PROGRAM,
}
