"""What the generator waits with.

There is as little between it and the sockets as can be, so that it takes little of the cores that it shares with what
is measured.
"""

import select
from collections.abc import Callable
from typing import Final


class Loop:
    """Calls back when descriptors can be read, or written to."""

    def __init__(self) -> None:
        self._epoll: Final = select.epoll()
        self._readable: Final[dict[int, Callable[[], None]]] = {}
        self._writable: Final[dict[int, Callable[[], None]]] = {}

    def add(self, descriptor: int, readable: Callable[[], None]) -> None:
        """Call `readable` whenever there is something to read."""
        self._readable[descriptor] = readable
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """Call no more for this one."""
        self._epoll.unregister(descriptor)
        del self._readable[descriptor]

    def when_writable(self, descriptor: int, writable: Callable[[], None]) -> None:
        """Call `writable` once, when something can be written."""
        self._writable[descriptor] = writable
        self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT)

    def turn(self) -> None:
        """Wait until something can be done, and do it."""
        for descriptor, events in self._epoll.poll():
            if events & select.EPOLLOUT and (writable := self._writable.pop(descriptor, None)) is not None:
                self._epoll.modify(descriptor, select.EPOLLIN)
                writable()
            if events & ~select.EPOLLOUT:
                self._readable[descriptor]()
