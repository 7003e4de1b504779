"""What the predecessor's metering cost for each inference, without inference: two fresh TLS round trips to Flask."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.world import free_port, wait_for

from aigovtool.crypto.tlskey import TlsKey, key_to_pem
from aigovtool.crypto.x509 import self_signed_server_certificate, to_pem
from bench.fresh import Fresh
from bench.peer import WHERE, answers_on
from bench.served import ROOT, Point, memory_mib, processor_s, told

NAME = "predecessor's metering"


def installed() -> bool:
    """Return whether its environment is there."""
    return (WHERE / "predecessor" / ".ready").exists()


@contextmanager
def predecessor() -> Iterator["Predecessor"]:
    """Serve the counter."""
    with tempfile.TemporaryDirectory(prefix="aigovtool-bench-") as folder:
        counter, certificate, key_file = (Path(folder) / name for name in ("counter.json", "cert.pem", "key.pem"))
        counter.write_text(json.dumps({"inferences": str(10**9)}), encoding="ascii")
        key = TlsKey.generate()
        certificate.write_bytes(to_pem(self_signed_server_certificate(key)))
        with key_to_pem(key) as pem:
            key_file.write_bytes(pem.reveal())
        port = free_port()
        python, program = WHERE / "predecessor" / "bin" / "python", ROOT / "bench" / "peers" / "predecessor_server.py"
        with subprocess.Popen(
            [str(python), str(program), str(counter), str(port), str(certificate), str(key_file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                wait_for(lambda: answers_on(port), "the predecessor answers")
                yield Predecessor(port, process.pid)
            finally:
                process.kill()


class Predecessor:
    """The counter that is served."""

    def __init__(self, port: int, pid: int) -> None:
        self._port, self._pid = port, pid

    def measure(self, connections: int, seconds: float) -> Point:
        """Ask for some seconds."""
        fresh = Fresh(port=self._port, connections=connections, seconds=seconds)
        seen, cpu_s = told("bench.fresh", fresh, lambda: processor_s(self._pid))
        return Point.of(NAME, "none", connections, seen, cpu_s=cpu_s, memory_mib=memory_mib(self._pid))
