"""How both clients come to a core: options checked, the consumer file read, verifiers wired."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aigovtool.attestation.verifier import VerifierSet
from aigovtool.consumer.attest import Trust
from aigovtool.consumer.clock import Clock
from aigovtool.consumer.core import ConsumerCore
from aigovtool.consumer.credential import Credential, parse_pins, read_consumer_file
from aigovtool.consumer.outcomes import parse_retry
from aigovtool.consumer.wiring import verifiers_for
from aigovtool.errors import ConfigurationError

#: For connecting, attesting and every small exchange; well under 15 s even for a host that answers nothing.
DEFAULT_TIMEOUT_S: Final = 10.0
_URL_RE: Final = re.compile(r"https://[A-Za-z0-9.:\[\]-]{1,255}")
_MAX_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A core, and what its driver needs."""

    core: ConsumerCore
    credential: Credential
    url: str


def open_core(
    url: str,
    credential_path: Path | str,
    *,
    models: Mapping[str, str] | None,
    allow_simulated: bool,
    sealed: bool,
    timeout_s: float,
    retry: str,
    key_set_at_least: int,
    verifiers: VerifierSet | None,
    clock: Clock,
) -> Opened:
    """Return what a client is made of; opens no connection.

    Raises:
        ConfigurationError: `bad_url`, `bad_timeout`, and those of `read_consumer_file`.
        InvalidValueError: `bad_name`, `bad_digest`, `bad_retry`.
    """
    address = address_of(url)
    if not 0 < timeout_s <= _MAX_TIMEOUT_S:
        raise ConfigurationError(f"a timeout of {timeout_s} s is not between 0 and 300 s", reason="bad_timeout")
    credential = read_consumer_file(Path(credential_path))
    if verifiers is None:
        verifiers = verifiers_for(credential.policy, allow_simulated=allow_simulated)
    trust = Trust(
        credential=credential,
        verifiers=verifiers,
        allow_simulated=allow_simulated,
        pins=parse_pins(models),
        sealed=sealed,
    )
    core = ConsumerCore(
        trust,
        clock=clock,
        random_bytes=secrets.token_bytes,
        timeout_s=timeout_s,
        retry=parse_retry(retry),
        key_set_at_least=key_set_at_least,
    )
    return Opened(core=core, credential=credential, url=address)


def address_of(url: str) -> str:
    """Return the address of an enclave in its one form; raises `ConfigurationError` (`bad_url`)."""
    address = url.removesuffix("/")
    if _URL_RE.fullmatch(address) is None:
        raise ConfigurationError(
            f"{url[:100]!r} is not the address of an enclave", reason="bad_url", fix="use https://HOST:PORT"
        )
    return address
