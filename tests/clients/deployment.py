"""A lent model behind `aigovtool connect`, all in processes of their own, for clients that know nothing of it.

The model takes numbers and texts, and gives twice the numbers and the same texts: so every form of a tensor that the
protocol has goes both ways.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto, helper
from tests.e2e.party_files import consumer_file
from tests.e2e.world import World, free_port, wait_for
from tests.product_process import environment

from aigovtool.ledger.policy import Dial, default_policy

BUDGET: Final = 10**12


@dataclass(frozen=True)
class Gateway:
    """What programs are given: an address. `world` is behind it."""

    url: str
    world: World
    credential: Path
    home: Path

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    @property
    def enclave(self) -> str:
        """The address of the enclave."""
        return f"https://127.0.0.1:{self.world.enclave_port}"


def model() -> bytes:
    """Return the model: `x` FP32 [n, 2] to `y`, `s` BYTES [m] to `t`."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Identity", ["s"], ["t"])],
        "both",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("s", TensorProto.STRING, ["m"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("t", TensorProto.STRING, ["m"]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


@contextmanager
def deployed(directory: Path, *options: str) -> Iterator[Gateway]:
    """Lend the model, run a gateway in front of its enclave, and end everything afterwards."""
    directory.mkdir(mode=0o700, exist_ok=True)
    world = World(directory)
    try:
        world.prepare(model(), default_policy(Dial.BALANCED))
        world.grant(BUDGET)
        world.start_enclave()
        credential, home = consumer_file(world), directory / "home"
        with connecting(world, credential, home, *options) as url:
            yield Gateway(url, world, credential, home)
    finally:
        world.close()


@contextmanager
def connecting(world: World, credential: Path, home: Path, *options: str) -> Iterator[str]:
    """Run `aigovtool connect`; yields its address."""
    port, log = free_port(), world.directory / "connect.log"
    command = [
        *(sys.executable, "-m", "aigovtool", "connect"),
        *("--enclave", f"https://127.0.0.1:{world.enclave_port}", "--credential", str(credential)),
        *("--listen", f"127.0.0.1:{port}", "--home", str(home), "--allow-simulated", *options),
    ]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment(), start_new_session=True)
    try:
        wait_for(lambda: f":{port}" in log.read_text() or process.poll() is not None, "the gateway serves")
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
