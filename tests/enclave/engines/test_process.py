import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import pytest

from aigovtool.enclave.engines.ipc import Setup
from aigovtool.enclave.engines.link import Link
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess
from aigovtool.enclave.engines.sandbox import ALWAYS_REQUIRED
from aigovtool.enclave.engines.spawn import spawn
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    DeadlineError,
    EngineError,
)
from aigovtool.ids import ConsumerId

SECOND_MS = 1_000
MINUTE_MS = 60_000
ANN = ConsumerId("ann")


async def test_all_layers_hold_in_every_thread(kit: Any, process: EngineProcess) -> None:
    """The child reports its sandbox, and the kernel says the same of each of its threads."""
    assert process.sandbox >= ALWAYS_REQUIRED
    threads = kit.statuses(process.pid)
    assert len(threads) > 1
    for status in threads:
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0


async def test_it_holds_no_descriptor_of_ours(kit: Any, process: EngineProcess) -> None:
    """Three times /dev/null and the channel: nothing inherited, nothing left open by a library."""
    held = kit.held(process.pid)
    assert held[:3] == ["/dev/null"] * 3
    assert len(held) == 4
    assert held[3].startswith("socket:")


async def test_its_environment_says_nothing(kit: Any, process: EngineProcess) -> None:
    """No variable of the parent reaches the child, and no secret stands in its arguments."""
    names = {entry.split(b"=")[0] for entry in kit.environ(process.pid)}
    assert names <= {b"", b"ORT_DISABLE_TELEMETRY", b"OMP_NUM_THREADS", b"OPENBLAS_NUM_THREADS"}


async def test_it_is_ended_before_others_where_memory_is_lacking(kit: Any, process: EngineProcess) -> None:
    """The gateway goes on, and with it what it has counted: the kernel is told before the child reads a word."""
    ours, theirs = socket.socketpair()
    with ours, theirs, spawn(theirs) as waiting:
        while kit.oom_score(waiting.pid) != 1000:
            assert waiting.poll() is None
            await asyncio.sleep(0.01)
        waiting.kill()
    assert kit.oom_score(process.pid) == 1000
    assert kit.oom_score("self") < 1000


async def test_every_child_has_its_own_key(process: EngineProcess, single: EngineProcess) -> None:
    """The key that models are wrapped to is born in the child."""
    assert len(process.hpke_public_key) == len(single.hpke_public_key) == 32
    assert process.hpke_public_key != single.hpke_public_key


@pytest.mark.parametrize("layers", ["(Layer.SECCOMP,)", "tuple(ALWAYS_REQUIRED | {Layer.MEMORY_LOCKED})"])
async def test_an_incomplete_sandbox_is_refused(layers: str) -> None:
    """A child that reports fewer layers than required, landlock among them, is killed before it is used."""
    script = _speaker(f"encode_frame(Hello(bytes(32), {layers}))")
    with pytest.raises(ConfigurationError) as caught:
        await _begin(script)
    assert caught.value.reason == "sandbox_incomplete"


async def test_a_child_that_cannot_start_says_why() -> None:
    """The last line of a child that ends before its hello is in the error."""
    with pytest.raises(ConfigurationError) as caught:
        await _begin("import sys; sys.exit('no such library')")
    assert caught.value.reason == "engine_start"
    assert "no such library" in caught.value.message


async def test_a_child_that_says_nothing_is_given_up() -> None:
    """A start that hangs ends at its time, and leaves no process."""
    with pytest.raises(ConfigurationError) as caught:
        await _begin("import sys; sys.stdin.buffer.raw.read(1 << 20); import time; time.sleep(600)", timeout_s=0.3)
    assert caught.value.reason == "engine_start"


async def test_too_little_memory_is_a_typed_refusal() -> None:
    """A bound below what the libraries need fails the start or the first load; it never hangs."""
    with pytest.raises(AIGovToolError):
        process = await EngineProcess.start(EngineConfig(memory_bytes=1 << 20))
        await process.kill_and_wait()


async def test_kill_9_in_the_middle_of_a_run_is_a_typed_error(
    kit: Any, process: EngineProcess, double: Any, slow: Any
) -> None:
    """Every pending call ends, and every later one is refused at once."""
    short, long = await double.load(process), await slow.load(process)
    running = [asyncio.ensure_future(process.run(long, kit.steps(kit.FOR_EVER), [], MINUTE_MS, consumer=ANN))]
    assert await kit.doubles(process, short)
    running += [
        asyncio.ensure_future(process.run(long, kit.steps(kit.FOR_EVER), [], MINUTE_MS, consumer=ANN)) for _ in range(5)
    ]
    await asyncio.sleep(0)
    os.kill(process.pid, signal.SIGKILL)
    results = await asyncio.gather(*running, return_exceptions=True)
    assert {type(result) for result in results} == {EngineError}
    assert {result.reason for result in results if isinstance(result, EngineError)} == {"engine_died"}
    assert process.running_at_end == {long.handle}
    with pytest.raises(EngineError):
        await kit.doubles(process, short)
    await process.died.wait()


async def test_kill_and_wait_returns_when_the_process_is_gone(kit: Any, process: EngineProcess, slow: Any) -> None:
    """A busy child is gone, reaped, and stays gone however often it is asked."""
    model = await slow.load(process)
    running = asyncio.ensure_future(process.run(model, kit.steps(kit.FOR_EVER), [], MINUTE_MS, consumer=ANN))
    await asyncio.sleep(0)
    await asyncio.gather(process.kill_and_wait(), process.kill_and_wait())
    await process.kill_and_wait()
    assert process.running_at_end == {model.handle}
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    with pytest.raises(EngineError):
        await running


async def test_a_child_that_answers_nonsense_is_killed(double: Any) -> None:
    """After a bad model the child may be anybody's: bytes that are no frame end it."""
    process = await _begin(_speaker("HELLO", "READ", "b'\\xff' * 64"))
    with pytest.raises(EngineError) as caught:
        await double.load(process)
    assert caught.value.reason == "engine_died"
    await process.died.wait()


@pytest.mark.parametrize(
    "message", ["Unloaded(99)", "Hello(bytes(32), ())", "Unload(1, 1)", "Failed(1, 'forbidden', None, 'no')"]
)
async def test_a_child_that_answers_what_nobody_asked_is_killed(double: Any, message: str) -> None:
    """An unknown id, a second hello, a message of the parent's own: each ends the child."""
    process = await _begin(_speaker("HELLO", "READ", f"encode_frame({message})"))
    with pytest.raises(EngineError):
        await double.load(process)
    await process.died.wait()


async def test_another_answer_than_asked_for_kills(double: Any) -> None:
    """A load that is answered as an unload is not an answer."""
    process = await _begin(_speaker("HELLO", "READ", "encode_frame(Unloaded(1))"))
    with pytest.raises(EngineError) as caught:
        await double.load(process)
    assert caught.value.reason == "engine_died"
    await process.died.wait()


async def test_an_answer_that_is_not_the_models_kills(kit: Any, double: Any) -> None:
    """Tensors that do not fit the model's interface never reach the consumer."""
    loaded = "encode_frame(Loaded(1, (T,), (T,)))"
    process = await _begin(_speaker("HELLO", "READ", loaded, "READ", "encode_frame(Answered(2, (), 0))"))
    model = await double.load(process)
    with pytest.raises(EngineError) as caught:
        await process.run(model, [kit.fp32("t", [1.0])], [], SECOND_MS, consumer=ANN)
    assert caught.value.reason == "bad_answer"
    await process.died.wait()
    assert process.running_at_end == {model.handle}


@pytest.mark.parametrize(("compute_us", "believed"), [(0, True), (3_600 * 10**6, False)])
async def test_a_child_that_worked_longer_than_it_was_asked_for_is_killed(
    kit: Any,
    double: Any,
    compute_us: int,
    believed: bool,  # noqa: FBT001 -- case
) -> None:
    """Compute is what consumers pay: a claim of an hour, a moment after the question, ends the child."""
    loaded = "encode_frame(Loaded(1, (T,), (T,)))"
    tensor = "TensorHeader('t', Datatype.FP32, (1, 1), 4)"
    answered = f"encode_frame(Answered(2, ({tensor},), {compute_us}), [bytes(4)])"
    process = await _begin(_speaker("HELLO", "READ", loaded, "READ", answered))
    model = await double.load(process)
    if believed:
        assert (await process.run(model, [kit.fp32("t", [1.0])], [], MINUTE_MS, consumer=ANN)).compute_us == compute_us
        await process.kill_and_wait()
        return
    with pytest.raises(EngineError) as caught:
        await process.run(model, [kit.fp32("t", [1.0])], [], MINUTE_MS, consumer=ANN)
    assert caught.value.reason == "bad_answer"
    await process.died.wait()


async def test_a_late_answer_is_an_error_in_time(kit: Any, double: Any) -> None:
    """A child that ignores a deadline does not make its caller wait for ever."""
    loaded = "encode_frame(Loaded(1, (T,), (T,)))"
    process = await _begin(_speaker("HELLO", "READ", loaded))
    model = await double.load(process)
    with pytest.raises(DeadlineError) as caught:
        await process.run(model, [kit.fp32("t", [1.0])], [], 1, consumer=ANN)
    assert caught.value.reason == "engine_overdue"
    await process.kill_and_wait()


async def test_a_run_with_a_limit_is_late_by_that_and_the_child_stuck_by_its_deadline(
    kit: Any, double: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller is told soon that an operator outlasts the limit; the child is not ended sooner for it."""
    monkeypatch.setattr("aigovtool.enclave.engines.process.OVERDUE_MS", 0)
    monkeypatch.setattr("aigovtool.enclave.engines.process.STUCK_MS", 0)
    monkeypatch.setattr("aigovtool.enclave.engines.lanes.MIDDLE_MS", 100)
    loaded = "encode_frame(Loaded(1, (T,), (T,)))"
    process = await _begin(_speaker("HELLO", "READ", loaded))
    model, began = await double.load(process), time.monotonic()
    with pytest.raises(DeadlineError) as caught:
        await process.run(model, [kit.fp32("t", [1.0])], [], 4_000, 200, consumer=ANN)
    assert caught.value.reason == "engine_overdue"
    assert time.monotonic() - began < 4.0  # 0.2 s, and slack for the machine
    assert not process.died.is_set()
    await process.died.wait()
    assert time.monotonic() - began >= 4.0


def test_the_child_dies_with_its_parent(slow: Any) -> None:
    """Kill -9 of the parent leaves no child behind, not even one that is stopped and cannot see its channel close."""
    script = """
import asyncio, os, struct, sys
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.wrap import wrap
from aigovtool.enclave.engines.process import EngineConfig, EngineProcess
from aigovtool.protocol.tensor import Datatype, Tensor

async def main():
    path, key, digest, sealer = sys.argv[1:]
    process = await EngineProcess.start(EngineConfig(workers=1))
    model = await process.load(
        os.open(path, os.O_RDONLY),
        wrapped_key=wrap(Secret(bytes.fromhex(key)), process.hpke_public_key, b""),
        info=b"",
        manifest_digest=digest,
        sealer=bytes.fromhex(sealer),
    )
    steps = Tensor("count", Datatype.INT64, (), struct.pack("<q", 1 << 40))
    running = process.run(model, [steps, Tensor("x", Datatype.FP32, (64,), bytes(256))], [], 300_000, consumer="ann")
    asyncio.get_running_loop().call_later(0, lambda: print(process.pid, flush=True))
    await running

asyncio.run(main())
"""
    arguments = [str(slow.path), slow.key.secret.reveal().hex(), slow.digest, slow.sealer.hex()]
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        pidfd = os.pidfd_open(child)
        os.kill(child, signal.SIGSTOP)
        parent.kill()
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        try:
            assert poll.poll(20_000)
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


async def test_a_child_of_a_parent_that_died_early_ends() -> None:
    """The death signal is not sent for a parent that died before it was asked for: the child looks."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        child = spawn(theirs)
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    link = Link(ours, lambda frame: lost.set_result(repr(frame)), lost.set_result)
    link.send(Setup(os.getpid() + 1, 1, 1, None, own_files=True))
    assert await asyncio.wait_for(lost, 30) == "it closed its channel"
    assert await asyncio.to_thread(child.wait, 30) == 0
    assert child.stderr is not None
    child.stderr.close()


def _speaker(*parts: str) -> str:
    """Return a child that says `parts` in turn and then waits: HELLO a good hello, READ wait for a request."""
    lines = [
        "import socket, time",
        "from aigovtool.enclave.engines.ipc import *",
        "from aigovtool.enclave.engines.sandbox import ALWAYS_REQUIRED, Layer",
        "from aigovtool.package.manifest import Datatype, TensorSpec",
        "T = TensorSpec(name='t', datatype=Datatype.FP32, shape=(1, 1))",
        "sock = socket.socket(fileno=0)",
        "sock.recv(1 << 16)",
    ]
    for part in parts:
        if part == "READ":
            lines.append("sock.recv(1 << 16)")
        else:
            said = "encode_frame(Hello(b'\\x09' + bytes(31), tuple(Layer)))" if part == "HELLO" else part
            lines.append(f"said = {said}; sock.sendall(said if isinstance(said, bytes) else b''.join(said))")
    return "\n".join([*lines, "time.sleep(600)"])


async def _begin(script: str, timeout_s: float = 60.0) -> EngineProcess:
    """Start `script` as if it were the engine child."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        popen = subprocess.Popen(  # noqa: ASYNC220 - as the product does
            [sys.executable, "-c", script], stdin=theirs.fileno(), stderr=subprocess.PIPE
        )
    process = EngineProcess(popen, ours, EngineConfig(start_timeout_s=timeout_s))
    try:
        await process._begin()
    except BaseException:
        await process.kill_and_wait()
        raise
    finally:
        assert popen.stderr is not None
        popen.stderr.close()
    return process
