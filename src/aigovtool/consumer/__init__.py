"""The consumer: the role that asks a borrowed model for answers.

The SDK (one core, a synchronous and an asynchronous face). It verifies the enclave itself with its own nonce, pins
the enclave's TLS certificate, the model digest and the custodian's key, and checks every receipt. It trusts neither
borrower nor network.

`client`, `async_client` the two faces · `core` what both do, sans-IO · `attest` trusting an enclave · `link` keeping it
trusted · `inference` one request and its answer · `receipts` receipts, online and offline · `tensors` arrays ·
`outcomes` what may be repeated · `patience` what is waited for · `asking` requests for more meanwhile · `budget` the
custodian · `exchange` the port to the drivers · `wiring` which TEEs are verified.
"""

from aigovtool.consumer.async_client import AsyncClient
from aigovtool.consumer.budget import LeaseProof
from aigovtool.consumer.client import Client
from aigovtool.consumer.receipts import ReceiptVerdict, SavedReceipt, verify_saved_receipt
from aigovtool.consumer.result import ModelInfo, Result
from aigovtool.consumer.verify import verify_receipt_file

__all__ = [
    "AsyncClient",
    "Client",
    "LeaseProof",
    "ModelInfo",
    "ReceiptVerdict",
    "Result",
    "SavedReceipt",
    "verify_receipt_file",
    "verify_saved_receipt",
]
