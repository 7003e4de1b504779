"""The secrets from which a custodian makes credentials for attestation keys (ADR 0026): one beside each authority.

```
DIR/keys/activation.ID.key      32 random bytes; ID: first 16 digits of the authority that certifies what they activate
DIR/keys/activation.key         the same, of a custodian whose key set names no such authority
```

No other key follows from them, and they from none, so that no thief of another key can forge an activation. They come
and go with the authority: made before it is announced, used while it is, as good while the key set lists it, and
removed once it is revoked. So the signed set says which are good, and no file has to be moved.
"""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from aigovtool.crypto.keyfile import read_secret_file, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.x509 import spki_sha256
from aigovtool.errors import ConfigurationError, ConflictError

ACTIVATION_BYTES: Final = 32
_ID_DIGITS: Final = 16


def activation_path(keys: Path, authority: bytes | None) -> Path:
    """Return where the secret lies that goes with an authority's certificate, or with none."""
    name = "" if authority is None else f".{spki_sha256(authority).hex()[:_ID_DIGITS]}"
    return keys / f"activation{name}.key"


def make_activation(keys: Path, authority: bytes | None) -> None:
    """Make the secret that goes with an authority, if there is none yet; raises as `write_secret_file`."""
    with suppress(ConflictError), Secret(secrets.token_bytes(ACTIVATION_BYTES)) as made:
        write_secret_file(activation_path(keys, authority), made)


def read_activation(keys: Path, authority: bytes | None) -> bytes | None:
    """Return the secret that goes with an authority: None where an earlier version made the directory.

    Raises:
        ConfigurationError: it cannot be read, is unsafe, or is none (`bad_key`).
    """
    path = activation_path(keys, authority)
    if not path.exists():
        return None
    with read_secret_file(path) as secret:
        found = secret.reveal()
    if len(found) != ACTIVATION_BYTES:
        raise ConfigurationError(f"{path} is no activation key", reason="bad_key")
    return found


def forget_activations(keys: Path, listed: Sequence[bytes]) -> None:
    """Remove what goes with authorities that the key set does not list (any more)."""
    kept = [activation_path(keys, authority) for authority in listed or (None,)]
    for path in (*keys.glob("activation.*.key"), keys / "activation.key"):
        if path not in kept:
            path.unlink(missing_ok=True)
