"""What else a long ledger could make slow: starting, proofs, what operators look at, and copies of the log."""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import httpx

from aigovtool.codec import Message, decode
from aigovtool.protocol.views import ConsistencyProof, InclusionProof
from bench.deployment import Deployment

_PROOFS: Final = 200
_LOOKS: Final = 20
_LOOK_S: Final = 0.1
VIEWS: Final = ("/v1/usage", "/v1/budgets", "/v1/enclaves", "/v1/asks")


class Proofs(Message):
    """Proofs at random places. `hashes` is the largest number in one."""

    cpu_ms: float
    p50_ms: float
    bytes: int
    hashes: int


class Copy(Message):
    """`aigovtool audit export` and `verify` of a whole log, each a process: processor time and largest memory."""

    size_mib: int
    export_cpu_s: float
    export_mib: int
    served_cpu_s: float
    verify_cpu_s: float
    verify_mib: int


class Ledger(Message):
    """One ledger. `views_cpu_ms` is the custodian's processor time for each of `VIEWS`."""

    store: str
    log_entries: int
    size_mib: int
    laid_per_cpu_s: float | None
    start_s: float
    start_cpu_s: float
    inclusion: Proofs
    consistency: Proofs
    views_cpu_ms: list[float]
    copy: Copy | None


def look_at(made: Deployment, *, copied: bool) -> Ledger:
    """Measure a custodian that runs; `copied` also takes a copy of the log and verifies it."""
    with made.world.custodian_client() as client:
        return Ledger(
            store=made.store,
            log_entries=made.entries,
            size_mib=made.size_mib(),
            laid_per_cpu_s=made.laid_per_cpu_s,
            start_s=made.start_s,
            start_cpu_s=made.start_cpu_s,
            inclusion=_proofs(made, client, "index", InclusionProof),
            consistency=_proofs(made, client, "old", ConsistencyProof),
            views_cpu_ms=[_view(made, client, path) for path in VIEWS],
            copy=_copy(made) if copied else None,
        )


def _proofs(
    made: Deployment, client: httpx.Client, place: str, kind: type[InclusionProof] | type[ConsistencyProof]
) -> Proofs:
    route = "inclusion" if kind is InclusionProof else "consistency"
    seconds, sizes, hashes = [], [], []
    cpu_s = made.cpu_s() + made.store_cpu_s()
    for _ in range(_PROOFS):
        at = 1 + secrets.randbelow(made.entries - 1)
        began = time.perf_counter()
        response = client.get(f"/v1/log/{route}?{place}={at}&size={made.entries}")
        seconds.append(time.perf_counter() - began)
        sizes.append(len(response.content))
        hashes.append(len(decode(response.content, kind).path))
    cpu_s = made.cpu_s() + made.store_cpu_s() - cpu_s
    return Proofs(
        cpu_ms=1000 * cpu_s / _PROOFS,
        p50_ms=1000 * sorted(seconds)[_PROOFS // 2],
        bytes=max(sizes),
        hashes=max(hashes),
    )


def _view(made: Deployment, client: httpx.Client, path: str) -> float:
    cpu_s = made.cpu_s() + made.store_cpu_s()
    for _ in range(_LOOKS):
        client.get(path).raise_for_status()
    return 1000 * (made.cpu_s() + made.store_cpu_s() - cpu_s) / _LOOKS


def _copy(made: Deployment) -> Copy:
    file, operator = made.world.directory / "log.jsonl", made.directory / "operator.json"
    served_s = made.cpu_s() + made.store_cpu_s()
    export_cpu_s, export_mib = _command("export", "-o", str(file), "--operator", str(operator))
    served_s = made.cpu_s() + made.store_cpu_s() - served_s
    verify_cpu_s, verify_mib = _command("verify", str(file), "--operator", str(operator))
    size_mib = file.stat().st_size >> 20
    file.unlink()
    return Copy(
        size_mib=size_mib,
        export_cpu_s=export_cpu_s,
        export_mib=export_mib,
        served_cpu_s=served_s,
        verify_cpu_s=verify_cpu_s,
        verify_mib=verify_mib,
    )


def _command(*words: str) -> tuple[float, int]:
    """Run `aigovtool audit ...`; return its processor time in seconds and its largest memory in MiB."""
    program = Path(sys.executable).parent / "aigovtool"
    process = subprocess.Popen([program, "audit", *words], stdout=subprocess.DEVNULL)
    largest_kib = 0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        largest_kib = max(largest_kib, _largest_kib(process.pid))
        time.sleep(_LOOK_S)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"audit {words[0]} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, largest_kib >> 10


def _largest_kib(pid: int) -> int:
    """Return the largest resident memory of a process until now; rusage would count what its parent had, too."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0  # it has just ended
