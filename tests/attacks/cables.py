"""Another machine at the end of a cable: a network namespace, and what a host can do to the packets between."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

#: A range that is kept for documentation (RFC 5737), so that it is nobody's; each cable has four addresses of it.
_RANGE: Final = "198.51.100."
_NUMBERS: Final = itertools.count()


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(frozen=True)
class Cable:
    """A cable to a network of its own; each end loses all packets that are to leave there, when it is told to."""

    network: str
    here: str
    there: str
    #: Of whoever is at the other end.
    address: str

    @property
    def before(self) -> tuple[str, ...]:
        """How a command begins that is run at the other end."""
        return ("ip", "netns", "exec", self.network)

    def lose_what_is_sent_there(self) -> None:
        """Lose all packets from here to there, without a word to whoever sends them."""
        self._qdisc(self.here, "replace", "pfifo", "limit", "0")

    def lose_what_comes_from_there(self) -> None:
        """Lose all packets from there to here."""
        self._qdisc(self.there, "replace", "pfifo", "limit", "0", before=self.before)

    def mend(self) -> None:
        """Let all packets pass, both ways."""
        self._qdisc(self.here, "replace", "pfifo", "limit", "1000")
        self._qdisc(self.there, "replace", "pfifo", "limit", "1000", before=self.before)

    @staticmethod
    def _qdisc(device: str, verb: str, *words: str, before: tuple[str, ...] = ()) -> None:
        # A queue without a place drops each packet: no module of the kernel's is needed for it.
        subprocess.run([*before, "tc", "qdisc", verb, "dev", device, "root", *words], check=True, capture_output=True)


@contextmanager
def another_machine() -> Iterator[Cable]:
    """Yield a cable to a machine that nothing else leads to."""
    number = next(_NUMBERS) % 64
    own, other = (f"{_RANGE}{4 * number + end}" for end in (1, 2))
    end = f"agt{os.getpid() % 10_000_000}{number}"
    cable = Cable(f"aigovtool-{os.getpid()}-{number}", f"{end}a", f"{end}b", other)
    with ExitStack() as stack:
        ip("netns", "add", cable.network)
        stack.callback(ip, "netns", "del", cable.network)
        ip("link", "add", cable.here, "type", "veth", "peer", "name", cable.there, "netns", cable.network)
        ip("addr", "add", f"{own}/30", "dev", cable.here)
        ip("link", "set", cable.here, "up")
        ip("-n", cable.network, "addr", "add", f"{other}/30", "dev", cable.there)
        ip("-n", cable.network, "link", "set", cable.there, "up")
        ip("-n", cable.network, "link", "set", "lo", "up")
        yield cable
