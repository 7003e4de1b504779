"""Starts verbs that serve anew, in an interpreter that no environment and no working directory can change.

`PYTHONPATH`, a `sitecustomize`, `PYTHONHASHSEED`, a `msgspec.py` where the program is started: whoever sets these would
choose what code a server runs. In isolated mode (`-I`) Python looks at none of them. TLS is told no other configuration
either, and no file for the secrets of its sessions.

This is for environments that were set by mistake, or by somebody who may do nothing else. Whoever rules the machine can
change the interpreter as well: against that, an enclave's image is measured, and its environment with it.

Source: Python documentation, "Command line and environment", `-I`; OpenSSL manual, openssl-env(7).
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

_SERVING: Final = frozenset({("enclave", "serve"), ("custodian", "serve")})
_GATEWAY: Final = ("connect",)
#: What isolated mode does not look at, and what TLS would.
_DROPPED: Final = ("PYTHON", "OPENSSL_", "SSL_CERT_", "SSLKEYLOGFILE")


def isolate(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
    """Start this program anew, isolated, if it is about to serve and is not isolated; it stays the same process."""
    if sys.flags.isolated or not _serves(arguments[1:]):
        return
    words = [*interpreter(), "-m", "aigovtool", *arguments[1:]]
    kept = {name: value for name, value in environment.items() if not name.startswith(_DROPPED)}
    os.execve(sys.executable, words, kept)  # noqa: S606 - no shell, and words of our own


def _serves(words: Sequence[str]) -> bool:
    """Return whether this is a verb that serves; `connect` alone, with its options, is `connect serve`."""
    if tuple(words[:1]) == _GATEWAY:
        second = words[1] if len(words) > 1 else "serve"
        return second == "serve" or second.startswith("-")
    return tuple(words[:2]) in _SERVING


def interpreter() -> list[str]:
    """Return how an isolated interpreter like this one is started."""
    flags = ["-O"] * sys.flags.optimize + ["-B"] * sys.dont_write_bytecode
    return [sys.executable, "-I", "-X", "utf8", *flags]
