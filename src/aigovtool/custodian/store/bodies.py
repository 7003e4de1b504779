"""Rows' bodies, decoded once: a body that was read before, byte for byte, is the same frozen value.

Renewals read the same parties, models, policies and limits over and over. The memory is keyed by the bytes that the
database returned, so it can never show something that is not stored at this moment, also with several custodians.
"""

from functools import lru_cache
from typing import Any, Final, TypeVar, cast

from aigovtool.codec import decode

T = TypeVar("T")

#: 16 KiB x 4,096 is 64 MiB at worst; real bodies have a few hundred bytes.
_MAX_KEPT_BYTES: Final = 16 << 10


def decoded(body: bytes, kind: type[T]) -> T:
    """Return the value of a stored body. It may be shared: nobody changes what is in it."""
    if len(body) > _MAX_KEPT_BYTES:
        return decode(body, kind)
    kept: T = _kept(body, cast("Any", kind))
    return kept


@lru_cache(maxsize=4096)
def _kept(body: bytes, kind: Any) -> Any:  # noqa: ANN401 - lru_cache loses the connection between the two
    return decode(body, kind)
