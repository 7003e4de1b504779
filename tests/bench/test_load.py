"""The generator asks what it is told to, counts whole answers, and says when one is none."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bench.inference_bodies import write
from bench.served import Served


class Server(ThreadingHTTPServer):
    """Remembers what it was asked."""

    daemon_threads = True

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                server.asked.append((self.path, self.headers["number"], body))
                answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Server]:
    """Serve by `answer`."""
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def whole(handler: BaseHTTPRequestHandler) -> None:
    """Answer with a length, in two parts."""
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b"x" * 2500)
    handler.wfile.flush()
    handler.wfile.write(b"x" * 2500)


def in_chunks(handler: BaseHTTPRequestHandler) -> None:
    """Answer in chunks."""
    handler.send_response(200)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"3\r\nabc\r\n")
    handler.wfile.flush()
    handler.wfile.write(b"2\r\nde\r\n0\r\n\r\n")


def refused(handler: BaseHTTPRequestHandler) -> None:
    """Answer with an error."""
    handler.send_response(503)
    handler.send_header("content-length", "4")
    handler.end_headers()
    handler.wfile.write(b"busy")


def served(server: Server, directory: Path, question: bytes = b"question") -> Served:
    """Return what is measured: this very process."""
    head, body = write(directory, "/ask", {"number": "@" * 32}, question)
    return Served("it", "none", int(server.server_port), head, body, lambda: [os.getpid()])


@pytest.mark.parametrize("answer", [whole, in_chunks])
def test_answers_are_counted_whole(answer: Callable[[BaseHTTPRequestHandler], None], tmp_path: Path) -> None:
    """Every request bears a number of its own; what is asked before the measurement is not counted."""
    with serving(answer) as server:
        point = served(server, tmp_path).measure(2, 0.3)
    assert point.answers == len(server.asked) - 2 > 0
    assert len({number for _, number, _ in server.asked}) == len(server.asked)
    assert {(path, body) for path, _, body in server.asked} == {("/ask", b"question")}
    assert 0 < point.p50_ms <= point.p99_ms


def test_a_body_that_no_socket_holds_is_sent_whole(tmp_path: Path) -> None:
    """Piece by piece, as the server takes it; no request is mixed with another."""
    question = os.urandom(1 << 20) * 16
    with serving(whole) as server:
        point = served(server, tmp_path, question).measure(2, 0.2)
    assert point.answers == len(server.asked) - 2 > 0
    assert all(body == question for _, _, body in server.asked)


def test_at_a_pace_as_much_is_asked_as_is_due(tmp_path: Path) -> None:
    """Neither more nor less, though the server could answer more; what is asked before it is not counted."""
    with serving(whole) as server:
        point = served(server, tmp_path).measure(2, 0.5, per_s=100)
    assert point.answers == 50
    assert len(server.asked) == 50 + 2


def test_what_waits_for_a_connection_waits_since_it_was_due(tmp_path: Path) -> None:
    """A server that takes longer than it has is not asked less for it: times grow, though each answer takes as long."""

    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.05)
        whole(handler)

    with serving(slow) as server:
        point = served(server, tmp_path).measure(1, 0.4, per_s=50)
    assert point.answers == 20  # due within 0.4 s, answered in a second at the least
    assert point.p50_ms > 200
    assert point.p99_ms > 500


def test_a_server_that_refuses_is_not_measured(tmp_path: Path) -> None:
    """What it said is told."""
    with serving(refused) as server, pytest.raises(RuntimeError, match="503"):
        served(server, tmp_path).measure(1, 0.2)
