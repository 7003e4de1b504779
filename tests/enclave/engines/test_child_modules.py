import json
import subprocess
import sys


def test_what_the_child_loads_is_known() -> None:
    """Loaded code is attack surface: no HTTP, SQL, template or command-line library, and of ours only what it uses."""
    code = """
import json, sys
from aigovtool.enclave.engines import worker
from aigovtool.enclave.engines.onnx import OnnxEngine
from aigovtool.enclave.engines.rehearsal import rehearse
from aigovtool.enclave.engines.watchdog import Watchdog
rehearse(OnnxEngine(1, Watchdog()))
print(json.dumps(sorted(sys.modules)))
"""
    finished = subprocess.run(
        [sys.executable, "-I", "-c", code],
        env={"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    modules = set(json.loads(finished.stdout))
    foreign = {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"__main__", "aigovtool"}
    # What Python itself loads on this machine (Debian's `sitecustomize`, a developer's *.pth files) is not our doing.
    bare = subprocess.run(
        [sys.executable, "-I", "-c", "import json, sys; print(json.dumps(list(sys.modules)))"],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    foreign -= {name.split(".")[0] for name in json.loads(bare.stdout)}
    assert foreign <= {
        "_cffi_backend",
        "_openssl",
        "cryptography",
        "msgspec",
        "numpy",
        "onnxruntime",
        "typing_extensions",
    }
    assert not modules & {"http.client", "urllib.request", "sqlite3", "ssl", "asyncio", "subprocess", "multiprocessing"}
    ours = {name for name in modules if name.startswith("aigovtool.")}
    allowed = (
        "codec",
        "crypto",
        "enclave.engines",
        "errors",
        "ids",
        "limits",
        "package",
        "protocol.tensor",
        "regular_file",
    )
    beyond = {name for name in ours if not name.removeprefix("aigovtool.").startswith(allowed)}
    assert beyond <= {"aigovtool.enclave", "aigovtool.protocol"}
    assert not ours & {"aigovtool.crypto.x509", "aigovtool.package.loadcheck", "aigovtool.enclave.engines.process"}
