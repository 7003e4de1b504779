"""`HOST:PORT` on the command line."""

from dataclasses import dataclass
from typing import Final

import click

_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int


class _Listen(click.ParamType[Address]):
    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        host, colon, port = str(value).rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        if not colon or not bare or not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
            self.fail(f"{str(value)[:80]!r} is not HOST:PORT, for example 127.0.0.1:8440 or [::1]:8440", param, ctx)
        return Address(bare, int(port))


LISTEN: Final = _Listen()
