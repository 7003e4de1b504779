"""Secret bytes whose representation is redacted, which lie in locked memory, and which can be wiped.

Wiping is best effort: Python and OpenSSL may hold copies that nobody can reach. The strong wipe is
the end of the process that holds the key; that is why the model key lives in a process of its own.
"""

from collections.abc import Callable
from typing import Final, Self, final

from aigovtool.crypto import locked
from aigovtool.errors import InvalidValueError


@final
class Secret:
    """Bytes that must not be printed, logged or compared with `==`.

    They lie in memory that is locked where that is possible (`crypto.locked`), and are overwritten at the latest when
    nobody has the secret any more. Supports `with` (wiped at the end of the block), and `reveal()` and `view()` for the
    primitives of this package.
    """

    __slots__ = ("_data", "_memory")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._memory: Final = locked.take(len(data))
        self._data: Final = self._memory[: len(data)]
        self._data[:] = data

    @classmethod
    def random(cls, size: int) -> Self:
        """Return fresh bytes from the operating system's randomness."""
        made = cls(bytes(size))
        locked.fill_randomly(made._data)
        return made

    def reveal(self) -> bytes:
        """Return a copy of the bytes, for immediate use by a cryptographic primitive."""
        return bytes(self._data)

    def view(self) -> memoryview:
        """Return the bytes where they lie, for a primitive that reads them at once: it is good as long as this is."""
        return self._data.toreadonly()

    def __del__(self, give_back: Callable[[memoryview], None] = locked.give_back) -> None:
        if hasattr(self, "_data"):
            self._data.release()
            give_back(self._memory)

    def wipe(self) -> None:
        """Overwrite the bytes with zeros."""
        self._data[:] = bytes(len(self._data))

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"Secret(<{len(self._data)} bytes>)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise TypeError("secrets are not compared; use hmac.compare_digest on reveal()")

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("secrets are not pickled")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()


class ModelKey:
    """The 256-bit key of one sealed package.

    Raises:
        InvalidValueError: with reason `bad_length` unless the secret has 32 bytes.
    """

    SIZE_BYTES: Final = 32
    __slots__ = ("secret",)

    def __init__(self, secret: Secret) -> None:
        if len(secret) != self.SIZE_BYTES:
            raise InvalidValueError("a model key has 32 bytes", reason="bad_length")
        self.secret: Final = secret

    def __repr__(self) -> str:
        return "ModelKey(<redacted>)"
