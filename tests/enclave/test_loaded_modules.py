"""What the enclave's parent process loads: loaded code is attack surface, and is measured."""

import json
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A library may load another that happens to be installed on this machine (httpx looks for rich). So the fresh
# interpreter finds only what the enclave's lock installs, as in the image.
CODE = """
import json, sys
hidden = set(json.loads(sys.argv[1]))
class OnlyTheLock:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(name, name=name)
        return None
sys.meta_path.insert(0, OnlyTheLock())
before = set(sys.modules)
import aigovtool.enclave.app
from aigovtool.transport.server import HttpServer, bind_loopback
from aigovtool.transport.routes import application
import httpx, ssl
with bind_loopback() as listener:
    HttpServer(application([], clock_ms=int), listener, None)
httpx.AsyncClient(verify=ssl.create_default_context(), trust_env=False)
print(json.dumps(sorted(set(sys.modules) - before)))
"""

#: Third parties, each with the reason why it is here.
FOREIGN = {
    "_cffi_backend": "cryptography",
    "_cython": "httptools",
    "_openssl": "cryptography",
    "anyio": "starlette, httpx",
    "certifi": "httpx",
    "click": "uvicorn imports its own command line with itself; nothing of ours does",
    "cryptography": "signatures, certificates, HPKE",
    "cython_runtime": "httptools",
    "h11": "httpcore: the client side",
    "httpcore": "httpx",
    "httptools": "the server's HTTP parser",
    "httpx": "the way to the custodian",
    "idna": "httpx",
    "msgspec": "strict JSON",
    "sniffio": "httpx",
    "starlette": "routing",
    "typing_extensions": "starlette",
    "uvicorn": "the HTTP server",
}
#: Of ours: whole layers below the role, and the role itself. A new entry is a decision.
OURS = {
    "aigovtool": {"codec", "crypto", "enclave", "errors", "ids", "ledger", "limits", "regular_file"}
    | {"attestation", "package", "protocol", "transport"},
    "aigovtool.attestation": {"attester", "binding", "model", "policy", "tee"},
    "aigovtool.attestation.tee": {"supplement"},
    "aigovtool.package": {"charge", "format", "manifest", "picture"},
    "aigovtool.ledger": {"answers", "budget", "checkpoint", "entry", "inputs", "merkle", "policy", "receipt", "units"},
    "aigovtool.crypto": {"aead", "frames", "identity", "keyfile", "locked", "memory", "secret", "sign", "tlskey"}
    | {"wrap", "x509"},
    "aigovtool.enclave": {
        "again",
        "app",
        "attestation",
        "boot",
        "charging",
        "clock",
        "computing",
        "control_groups",
        "custodian_link",
        "engines",
        "failed_runs",
        "gateway",
        "id_table",
        "instance_run",
        "kept_package",
        "listening",
        "memory",
        "package_download",
        "results",
        "roster",
        "session_quotes",
        "spent_ids",
        "trusted_keys",
        "unread",
        "turns",
    },
    # What talks to the engine child; what runs in it is not loaded here.
    "aigovtool.enclave.engines": {
        *("group", "groups", "interface", "ipc", "lanes", "link", "pending", "process"),
        *("private_files", "sandbox", "scheduling", "seccomp", "spawn", "tries"),
    },
    "aigovtool.enclave.gateway": {
        *("answer", "answer_size", "api", "asked", "batch", "fast_path", "inference", "padding", "sealed"),
        *("sealed_callers", "sending", "shape"),
    },
}
NEVER = (
    "aigovtool.cli",
    "aigovtool.consumer",
    "aigovtool.custodian",
    "aigovtool.operator",
    "aigovtool.testing",
    "jinja2",
    "numpy",
    "onnxruntime",
    "pygments",
    "rich",
    "sqlalchemy",
    "sqlite3",
    "uvloop",
)


def locked() -> set[str]:
    """Return the distributions in the enclave's lock."""
    lock = (ROOT / "requirements" / "enclave.txt").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))


@cache
def loaded() -> frozenset[str]:
    """Return what a fresh interpreter has loaded when an enclave is about to boot."""
    here = locked() | {"aigovtool"}
    hidden = [
        name
        for name, distributions in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", found).lower() for found in distributions} & here
    ]
    finished = subprocess.run(
        [sys.executable, "-I", "-c", CODE, json.dumps(hidden)], stdout=subprocess.PIPE, check=True, timeout=60
    )
    return frozenset(json.loads(finished.stdout))


def test_every_third_party_module_has_a_reason() -> None:
    """No library comes in unnoticed, for example as a new dependency of one that is wanted."""
    tops = {name.partition(".")[0] for name in loaded()} - set(sys.stdlib_module_names) - {"aigovtool", "__mp_main__"}
    assert {re.sub(r"^_cython_[0-9_]+$", "_cython", top) for top in tops} - set(FOREIGN) == set()


def test_of_ours_only_what_an_enclave_needs() -> None:
    """Each room of this project that is listed above is loaded in exactly the listed part."""
    for room, allowed in OURS.items():
        depth = room.count(".") + 1
        inside = {name.split(".")[depth] for name in loaded() if name.startswith(f"{room}.")}
        assert inside - allowed == set(), room


def test_what_has_no_business_in_an_enclave_is_not_there() -> None:
    """No database, template, engine, terminal or simulator, and no other role."""
    found = {name for name in loaded() for never in NEVER if name == never or name.startswith(f"{never}.")}
    assert found == set()


def test_the_list_is_of_a_working_enclave() -> None:
    """The fresh interpreter really loaded the role: an empty list would pass everything above."""
    assert {"aigovtool.enclave.app", "aigovtool.enclave.gateway.inference", "aigovtool.transport.guard"} <= loaded()
    assert {"httpx", "starlette", "httptools", "cryptography"} <= loaded()
