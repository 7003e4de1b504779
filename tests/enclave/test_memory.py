"""How much memory an enclave may take on a machine, and that none of it is written to a disk in the clear."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from aigovtool.enclave.memory import AMPLE_BYTES, LEAST_BYTES, MemoryBounds, memory_bounds, require_no_plain_swap
from aigovtool.enclave.unread import Unread
from aigovtool.errors import ConfigurationError
from aigovtool.ids import ConsumerId
from aigovtool.limits import MAX_INFER_BODY_BYTES
from aigovtool.transport.room import Room

_HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


def machine(root: Path, *swaps: str, encrypted: str = "") -> Path:
    """Make the files of a machine with this swap space, of which one device may be encrypted."""
    (root / "proc").mkdir()
    lines = "".join(f"{name}    partition\t8388604\t0\t-2\n" for name in swaps)
    (root / "proc/swaps").write_text(_HEAD + lines, encoding="utf-8")
    if encrypted:
        place = root / "sys/block" / encrypted / "dm"
        place.mkdir(parents=True)
        (place / "uuid").write_text("CRYPT-PLAIN-swap\n", encoding="ascii")
    return root


@pytest.mark.parametrize("swap", ["/dev/sda2", "/swapfile", "/dev/dm-0", "/var/zram0", "/zram0", "CRYPT"])
def test_swap_in_the_clear_is_refused(swap: str, tmp_path: Path) -> None:
    """A partition, a file, a device that is mapped and not encrypted, a file with a telling name."""
    with pytest.raises(ConfigurationError) as caught:
        require_no_plain_swap(machine(tmp_path, "/dev/zram0", swap))
    assert caught.value.reason == "swap"
    assert swap in caught.value.message


@pytest.mark.parametrize(("behind", "taken"), [("none", True), ("/dev/sda3", False), ("", False)])
def test_compressed_memory_is_taken_if_no_device_is_behind_it(behind: str, taken: bool, tmp_path: Path) -> None:  # noqa: FBT001 -- case
    """What zram does not compress, or nobody used for long, it writes there in the clear."""
    machine(tmp_path, "/dev/zram0")
    (tmp_path / "sys/block/zram0").mkdir(parents=True)
    (tmp_path / "sys/block/zram0/backing_dev").write_text(f"{behind}\n", encoding="utf-8")
    if taken:
        require_no_plain_swap(tmp_path)
        return
    with pytest.raises(ConfigurationError) as caught:
        require_no_plain_swap(tmp_path)
    assert caught.value.reason == "swap"


def test_a_swap_file_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    """A name is bytes; whoever chose it hides nothing."""
    machine(tmp_path, "/dev/zram0")
    with (tmp_path / "proc/swaps").open("ab") as swaps:
        swaps.write(b"/swap\xff    file\t\t8388604\t0\t-2\n")
    with pytest.raises(ConfigurationError) as caught:
        require_no_plain_swap(tmp_path)
    assert caught.value.reason == "swap"


def test_swap_that_no_disk_can_read_is_taken(tmp_path: Path) -> None:
    """Compressed memory, and a device that dm-crypt encrypts."""
    require_no_plain_swap(machine(tmp_path, "/dev/zram0", "/dev/dm-3", encrypted="dm-3"))


def test_a_machine_without_swap_is_taken(tmp_path: Path) -> None:
    """Nothing in the list, or no list at all."""
    require_no_plain_swap(tmp_path)
    require_no_plain_swap(machine(tmp_path))


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("0::/", "memory.max"),
        ("0::/enclaves.slice/one.service", "enclaves.slice/one.service/memory.max"),
        ("0::/enclaves.slice/one.service", "enclaves.slice/memory.max"),
        ("4:memory:/docker/1", "memory/docker/1/memory.limit_in_bytes"),
        ("4:memory:/docker/1", "memory/memory.limit_in_bytes"),
        ("2:cpu,memory:/docker/1", "memory/docker/memory.limit_in_bytes"),
    ],
)
def test_what_this_process_may_use_is_what_counts(line: str, place: str, tmp_path: Path) -> None:
    """The bound of its own control group, or of one that this is in; of either version. None is that of the machine."""
    has = memory_bounds(tmp_path).has
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"1:name=systemd:/x\n{line}\n", encoding="utf-8")
    file = tmp_path / "sys/fs/cgroup" / place
    file.parent.mkdir(parents=True)
    for text in ("max", "9223372036854771712"):
        file.write_text(f"{text}\n", encoding="ascii")
        assert memory_bounds(tmp_path).has == has
    file.write_text("1073741824\n", encoding="ascii")
    assert memory_bounds(tmp_path).has == 1 << 30


def test_a_control_group_whose_name_is_no_text_hides_no_bound(tmp_path: Path) -> None:
    """A name is bytes, of another group as well as of one's own; a line that is none is passed over."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_bytes(b"4:cpu:/\xff\n\nnonsense\n0::/one\xfe\n")
    file = tmp_path / "sys/fs/cgroup" / os.fsdecode(b"one\xfe") / "memory.max"
    file.parent.mkdir(parents=True)
    file.write_text("1073741824\n", encoding="ascii")
    assert memory_bounds(tmp_path).has == 1 << 30


def bounds(root: Path, has: int) -> MemoryBounds:
    """Return those of a container with so much memory, which this machine has."""
    file = root / "sys/fs/cgroup/memory.max"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{has}\n", encoding="ascii")
    return memory_bounds(root)


@pytest.fixture(autouse=True)
def _large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this one has: as many pages as make 64 GiB."""
    known = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 24}
    monkeypatch.setattr("os.sysconf", known.__getitem__)


@pytest.mark.parametrize(
    "has", [LEAST_BYTES, 3 << 30, 4 << 30, 5 << 30, 6 << 30, 8 << 30, AMPLE_BYTES - 1, AMPLE_BYTES, 64 << 30]
)
def test_all_bounds_together_are_within_the_memory_that_there_is(has: int, tmp_path: Path) -> None:
    """Of the engine what it can use: 280 MiB of its addresses hold nothing. For the rest half a gigabyte is left.

    The engine has three quarters, but of less than 4.2 GiB.
    """
    found = bounds(tmp_path, has)
    used = found.engine_addresses - (280 << 20)
    held = found.bodies + found.unread + found.kept + found.ids * 14
    assert used + held <= has - (512 << 20)
    engine = found.engine_addresses - (512 << 20)
    assert engine == has * 3 // 4 if has > 4.2 * 2**30 else has // 2 <= engine < has * 3 // 4
    assert found.is_enough
    assert found.is_ample is (has >= AMPLE_BYTES)


def test_a_large_machine_has_the_bounds_that_are_documented(tmp_path: Path) -> None:
    """A gigabyte of bodies and so on, and not more on a larger one; on one that is smaller, less."""
    ample = bounds(tmp_path, AMPLE_BYTES)
    assert replace(bounds(tmp_path, 32 << 30), has=0, engine_addresses=0) == replace(ample, has=0, engine_addresses=0)
    assert (ample.bodies, ample.bodies_per_consumer) == (1 << 30, 256 << 20)
    assert (ample.unread, ample.unread_per_consumer) == (512 << 20, 128 << 20)
    assert (ample.kept, ample.kept_per_consumer) == (512 << 20, 64 << 20)
    assert (ample.ids, ample.ids_per_consumer) == (24_000_000, 18_000_000)
    half = bounds(tmp_path, 7 << 30)
    assert half.bodies < ample.bodies
    assert half.unread < ample.unread
    assert half.kept < ample.kept
    assert half.ids < ample.ids


@pytest.mark.parametrize("has", [1 << 28, 1 << 30, LEAST_BYTES - 1, LEAST_BYTES, 5 << 30])
def test_however_little_there_is_one_of_the_largest_requests_finds_room(has: int, tmp_path: Path) -> None:
    """Else it could never be asked. With less than the least that is a risk, which is told."""
    found = bounds(tmp_path, has)
    assert found.is_enough is (has >= LEAST_BYTES)
    with Room(found.bodies_per_consumer, found.bodies, "open_bodies").take("ann", MAX_INFER_BODY_BYTES):
        pass
    unread = Unread(found.unread_per_consumer, found.unread)
    unread.require_few(ConsumerId("ann"))
    assert min(found.kept, found.kept_per_consumer) >= MAX_INFER_BODY_BYTES
    assert found.engine_addresses - (512 << 20) >= has // 2
