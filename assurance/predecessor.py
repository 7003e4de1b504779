"""How the predecessor of this project counted, written anew: what happens to it when several ask at once.

Its custodian kept one number as text in one JSON file. A threaded HTTP server read the file, took one off and wrote it
again, without a lock, through `open(..., "w")`, which empties the file first. Its enclave asked for each inference, and
answered the consumer whatever came back. So each debit that is not in the file afterwards is a free inference.

Standard library only; nothing of the product is used here. Run `python -m assurance.predecessor` to see it happen.
"""

import http.client
import json
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUDGET = 1_000_000


@dataclass(frozen=True)
class Outcome:
    """What came of so many requests of so many clients; `torn` says that the file cannot be read any more."""

    clients: int
    requests: int
    recorded: int
    server_errors: int
    torn: bool

    def lost(self) -> int:
        """Return how many inferences were given and not debited."""
        return self.requests - self.recorded


def _debit(path: Path) -> int:
    """Take one off, the predecessor's way."""
    with path.open(encoding="ascii") as file:
        left = int(json.load(file)["inferences"])
    left -= 1
    with path.open("w", encoding="ascii") as file:
        json.dump({"inferences": str(left)}, file)
    return left


@contextmanager
def _custodian(path: Path) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is one packet; otherwise each waits for the acknowledgement of its first half

        def do_POST(self) -> None:
            try:
                status, said = 200, str(_debit(path)).encode()
            except (ValueError, KeyError, TypeError):  # the file was empty, or half written
                status, said = 500, b"error"
            self.send_response(status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _enclave(port: int, requests: int, errors: list[int]) -> None:
    """Ask for each inference, and answer whatever comes back."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(requests):
        connection.request("POST", "/consume")
        response = connection.getresponse()
        response.read()
        if response.status != http.client.OK:
            errors.append(response.status)
    connection.close()


def measure(clients: int, requests: int) -> Outcome:
    """Let `clients` make `requests` requests each, and compare what was given with what was recorded."""
    with tempfile.TemporaryDirectory(prefix="predecessor-") as folder:
        path = Path(folder) / "inferences.json"
        path.write_text(json.dumps({"inferences": str(BUDGET)}), encoding="ascii")
        errors: list[int] = []
        with _custodian(path) as port:
            threads = [threading.Thread(target=_enclave, args=(port, requests, errors)) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        text = path.read_text(encoding="ascii")
        left = re.search(r"\d+", text)
        recorded = 0 if left is None else BUDGET - int(left[0])
        torn = re.fullmatch(r'\{"inferences": "\d+"\}', text) is None
        return Outcome(clients, clients * requests, recorded, len(errors), torn)


if __name__ == "__main__":
    for number in (8, 20):
        print(measure(number, 1_000))
