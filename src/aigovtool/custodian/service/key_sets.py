"""A key set takes effect: it is in the audit log before anything is signed under it, and model keys are wrapped anew.

Several custodians may serve one ledger, each from its own copy of the keys. The log says which key set was published
last, and with which content: a copy that was left behind is noticed, and so are two sets with one number.
"""

from contextlib import suppress
from typing import Final

import msgspec

from aigovtool.codec import decode
from aigovtool.crypto.wrap import wrap
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.keys import CustodianKeys
from aigovtool.custodian.store import log, models
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConfigurationError, SignatureInvalidError
from aigovtool.ids import Digest, ModelId, digest_of
from aigovtool.ledger.entry import Entry, KeySetPublished
from aigovtool.limits import MAX_INTEGER
from aigovtool.protocol.release import deposit_context

_COPY: Final = "copy the directory keys of the custodian on which the keys were changed last"


def require_not_behind(transaction: Transaction, keys: CustodianKeys) -> bool:
    """Return whether the log knows this key set already.

    Raises:
        ConfigurationError: `key_set_rollback` when it knows a newer one, `key_set_fork` another one of this number.
    """
    known, version = _newest(transaction), keys.key_set.version
    if known is None or known.version < version:
        return False
    if known.version > version:
        raise ConfigurationError(
            f"the key set in this directory is version {version}, and version {known.version} was published",
            reason="key_set_rollback",
            fix=_COPY,
        )
    if known.digest != digest_of(keys.key_set_envelope.payload):
        raise ConfigurationError(
            f"another key set was published as version {version}", reason="key_set_fork", fix=_COPY
        )
    return True


def publish(custodian: Custodian, transaction: Transaction, keys: CustodianKeys) -> None:
    """Record a key set, unless the log has it.

    Raises:
        ConfigurationError: as `require_not_behind`.
        LedgerRollbackError: the ledger has a gap, in which nothing of this kind is recorded.
    """
    if not require_not_behind(transaction, keys):
        digest = digest_of(keys.key_set_envelope.payload)
        custodian.record(transaction, KeySetPublished(version=keys.key_set.version, digest=digest))


def wrap_anew(transaction: Transaction, keys: CustodianKeys) -> int:
    """Wrap all model keys to the present keystore key, and return how many were wrapped to another.

    One that opens with none is left as it is: its release is refused, as before.
    """
    changed = 0
    for model in models.everything(transaction):
        with suppress(SignatureInvalidError):
            wrapped = to_present(keys, model.wrapped_key, model.manifest_digest)
            if wrapped != model.wrapped_key:
                models.replace(transaction, msgspec.structs.replace(model, wrapped_key=wrapped))
                changed += 1
    return changed


def not_opened(transaction: Transaction, keys: CustodianKeys) -> list[ModelId]:
    """Return the models that are lent and whose keys open with no keystore key that is here."""
    found = []
    for model in models.everything(transaction):
        if not model.withdrawn:
            try:
                keys.open_deposit(model.wrapped_key, model.manifest_digest).wipe()
            except SignatureInvalidError:
                found.append(model.model)
    return found


def to_present(keys: CustodianKeys, wrapped: bytes, manifest: Digest) -> bytes:
    """Return a deposited key as wrapped to the present keystore key, which it may be already.

    Raises:
        SignatureInvalidError: it opens with no keystore key that is here (`wrong_context`).
    """
    context = deposit_context(keys.custodian, manifest)
    with suppress(SignatureInvalidError):
        keys.keystore.unwrap(wrapped, context).wipe()
        return wrapped
    with keys.open_deposit(wrapped, manifest) as key:
        return wrap(key, keys.keystore.public, context)


def _newest(transaction: Transaction) -> KeySetPublished | None:
    found = log.newest_of(transaction, log.kind_of(KeySetPublished), MAX_INTEGER, 1)
    body = decode(found[0], Entry).body if found else None
    return body if isinstance(body, KeySetPublished) else None
