"""What a gateway shows on a terminal, looked at by a real one: a pseudo terminal of a size."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import requests
from tests.clients.deployment import Gateway, connecting
from tests.clients.programs import in_json
from tests.e2e.commandline import aigovtool
from tests.e2e.world import MODEL, free_port
from tests.product_process import INTERRUPTIBLE, environment

ONE = np.ones((1, 2), np.float32)
_TAKEN, _GIVEN_BACK = b"\x1b[?1049h", b"\x1b[?1049l"
_COLOUR = re.compile(rb"\x1b\[[0-9;]*(?:3[0-7]|4[0-7]|9[0-7])[0-9;]*m")


class Terminal:
    """A program on a terminal, and all that it has drawn there."""

    def __init__(self, process: "subprocess.Popen[bytes]", drawn: int) -> None:
        self.process = process
        self._drawn = drawn
        self.content = b""

    def shows(self, *words: str, seconds: float = 30.0) -> None:
        """Wait until it has drawn all of these."""
        until = time.monotonic() + seconds
        while not all(word.encode() in self.content for word in words):
            assert time.monotonic() < until, (words, self.content[-3_000:])
            self.read()

    def read(self) -> None:
        """Take what it has drawn since."""
        if select.select([self._drawn], [], [], 0.1)[0]:
            try:
                self.content += os.read(self._drawn, 1 << 16)
            except OSError:  # it has ended
                time.sleep(0.05)

    def interrupt(self) -> int:
        """Press Ctrl-C, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        until = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < until:
            self.read()
        self.read()
        return self.process.wait(1)


@contextmanager
def terminal(*words: object, columns: int = 200, **variables: str) -> Iterator[Terminal]:
    """Run a verb on a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [*INTERRUPTIBLE, sys.executable, "-m", "aigovtool", *map(str, words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment(), "TERM": "xterm-256color", **variables},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait(20)
        os.close(ours)


def ask(url: str) -> None:
    """Ask once, as any program."""
    requests.post(f"{url}/v2/models/{MODEL}/infer", data=in_json(ONE, ["a"]), timeout=60).raise_for_status()


def test_a_gateway_shows_itself_on_the_terminal_that_it_was_started_on(gateway: Gateway, tmp_path: Path) -> None:
    """Warnings first, then enclaves, units and what was seen; its log goes to a file, the terminal is given back."""
    port, home = free_port(), tmp_path / "home"
    words = ("connect", "--enclave", gateway.enclave, "--credential", gateway.credential, "--home", home, "--tui")
    with terminal(*words, "--listen", f"127.0.0.1:{port}", "--allow-simulated") as screen:
        address = gateway.enclave.removeprefix("https://")
        screen.shows("SIMULATED TEE", "1 of 1 enclaves verified", address, "verified", "not known yet", "started")
        ask(f"http://127.0.0.1:{port}")
        screen.shows("1 receipts kept", f"http://127.0.0.1:{port}")
        assert _COLOUR.search(screen.content)
        assert b'"event"' not in screen.content
        assert screen.interrupt() == 0
        assert screen.content.count(_TAKEN) == screen.content.count(_GIVEN_BACK) == 1
        assert b"Traceback" not in screen.content
    log = home / "connect.log"
    assert '"event"' in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_why_it_does_not_start_is_said_in_words(gateway: Gateway, tmp_path: Path) -> None:
    """Before the terminal is taken."""
    words = ("connect", "--enclave", gateway.enclave, "--credential", gateway.credential, "--home", tmp_path / "home")
    with terminal(*words, "--tui", "--listen", "127.0.0.1:0") as screen:
        screen.shows("error: ", "--allow-simulated")
        assert screen.process.wait(20) == 5
        assert _TAKEN not in screen.content


def test_there_is_no_view_where_there_is_no_terminal(gateway: Gateway, tmp_path: Path) -> None:
    """Neither in a pipe, nor for programs, nor on one that cannot be drawn on; and nothing is served."""
    words = ("connect", "--enclave", gateway.enclave, "--credential", gateway.credential, "--home", tmp_path, "--tui")
    assert "terminal" in aigovtool(*words, code=2).stderr
    assert "terminal" in aigovtool(*words, "--json", code=2).stdout
    with terminal(*words, TERM="dumb") as screen:
        screen.shows("--tui draws on a terminal")
        assert screen.process.wait(20) == 2


def test_a_gateway_is_watched_from_another_terminal(gateway: Gateway, tmp_path: Path) -> None:
    """It is drawn anew; when the gateway has gone, that is said above all, and the watching goes on until Ctrl-C."""
    with ExitStack() as later:
        with connecting(gateway.world, gateway.credential, tmp_path / "home") as url:
            watch = ("connect", "status", "--gateway", url.removeprefix("http://"), "--watch", "0.3")
            with terminal(*watch) as screen:
                screen.shows("0 receipts kept", "SIMULATED TEE", "ward7")
                ask(url)
                screen.shows("1 receipts kept")
                assert screen.interrupt() == 0
                assert screen.content.endswith(_GIVEN_BACK)
            lasting = later.enter_context(terminal(*watch, NO_COLOR="1"))
            lasting.shows("1 receipts kept")
        lasting.shows("THE GATEWAY DOES NOT ANSWER")
        assert not _COLOUR.search(lasting.content)
        assert lasting.interrupt() == 0


def test_watching_without_a_terminal_prints_one_document_per_line(gateway: Gateway) -> None:
    """For programs; a warning beside them is said once."""
    words = ("connect", "status", "--gateway", gateway.address, "--watch", "0.2", "--json")
    with subprocess.Popen(
        [*INTERRUPTIBLE, sys.executable, "-m", "aigovtool", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert all(line.startswith(b"{") and line.endswith(b"}\n") for line in lines)
        assert process.stderr.read().count(b"SIMULATED TEE") == 1
