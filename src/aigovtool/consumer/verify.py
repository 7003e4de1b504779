"""Checking a saved receipt from files, for `aigovtool receipt verify`: no connection is made."""

from pathlib import Path

from aigovtool.attestation.verifier import VerifierSet
from aigovtool.consumer.credential import read_consumer_file
from aigovtool.consumer.receipts import ReceiptVerdict, read_saved_receipt, verify_saved_receipt
from aigovtool.consumer.wiring import verifiers_for
from aigovtool.errors import ConfigurationError, ReceiptError
from aigovtool.ids import parse_digest
from aigovtool.limits import MAX_INFER_BODY_BYTES


def verify_receipt_file(
    path: Path | str,
    credential_path: Path | str,
    *,
    allow_simulated: bool = False,
    manifest: str | None = None,
    request_path: Path | str | None = None,
    response_path: Path | str | None = None,
    verifiers: VerifierSet | None = None,
) -> ReceiptVerdict:
    """Check the record at `path` against the root and the policy of a consumer file.

    Args:
        path: what `Result.save_receipt` wrote.
        credential_path: the consumer file of whoever got the receipt.
        allow_simulated: one half of the opt-in to simulated TEEs; the consumer file's policy has the other.
        manifest: the digest that the model should have, if known.
        request_path: a file with the exact request body, to compare.
        response_path: a file with the exact response body, to compare.
        verifiers: other TEE verifiers than the built-in ones.

    Raises:
        ConfigurationError: a file cannot be read.
        VerificationError: the receipt does not verify; see `verify_saved_receipt`. `ReceiptError` with reason
            `consumer` when it belongs to another consumer.
    """
    credential = read_consumer_file(Path(credential_path))
    if verifiers is None:
        verifiers = verifiers_for(credential.policy, allow_simulated=allow_simulated)
    verdict = verify_saved_receipt(
        read_saved_receipt(Path(path)),
        root=credential.custodian_root,
        policy=credential.policy,
        verifiers=verifiers,
        allow_simulated=allow_simulated,
        manifest=None if manifest is None else parse_digest(manifest),
        request_body=_body(request_path),
        response_body=_body(response_path),
    )
    if verdict.receipt.consumer != credential.consumer:
        raise ReceiptError("the receipt belongs to another consumer", reason="consumer")
    return verdict


def _body(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            body = file.read(MAX_INFER_BODY_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_body") from None
    if len(body) > MAX_INFER_BODY_BYTES:
        raise ConfigurationError(f"{path} is larger than any body", reason="unreadable_body")
    return body
