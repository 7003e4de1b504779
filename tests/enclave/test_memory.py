"""How much memory the engine may take, and that none of it is written to a disk in the clear."""

from pathlib import Path

import pytest

from aigovtool.enclave.memory import engine_address_bytes, require_no_plain_swap
from aigovtool.errors import ConfigurationError

_HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


def machine(root: Path, *swaps: str, encrypted: str = "", limit: str = "") -> Path:
    """Make the files of a machine with this swap space, of which one device may be encrypted."""
    (root / "proc").mkdir()
    lines = "".join(f"{name}    partition\t8388604\t0\t-2\n" for name in swaps)
    (root / "proc/swaps").write_text(_HEAD + lines, encoding="utf-8")
    if encrypted:
        place = root / "sys/block" / encrypted / "dm"
        place.mkdir(parents=True)
        (place / "uuid").write_text("CRYPT-PLAIN-swap\n", encoding="ascii")
    if limit:
        (root / "sys/fs/cgroup").mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup/memory.max").write_text(f"{limit}\n", encoding="ascii")
    return root


@pytest.mark.parametrize("swap", ["/dev/sda2", "/swapfile", "/dev/dm-0", "/var/zram0", "/zram0", "CRYPT"])
def test_swap_in_the_clear_is_refused(swap: str, tmp_path: Path) -> None:
    """A partition, a file, a device that is mapped and not encrypted, a file with a telling name."""
    with pytest.raises(ConfigurationError) as caught:
        require_no_plain_swap(machine(tmp_path, "/dev/zram0", swap))
    assert caught.value.reason == "swap"
    assert swap in caught.value.message


def test_swap_that_no_disk_can_read_is_taken(tmp_path: Path) -> None:
    """Compressed memory, and a device that dm-crypt encrypts."""
    require_no_plain_swap(machine(tmp_path, "/dev/zram0", "/dev/dm-3", encrypted="dm-3"))


def test_a_machine_without_swap_is_taken(tmp_path: Path) -> None:
    """Nothing in the list, or no list at all."""
    require_no_plain_swap(tmp_path)
    require_no_plain_swap(machine(tmp_path))


def test_the_engine_gets_three_quarters_of_the_memory_that_it_may_use(tmp_path: Path) -> None:
    """Of the machine's, or of what its container has; and what is reserved without being used."""
    of_machine = engine_address_bytes(tmp_path)
    assert engine_address_bytes(machine(tmp_path, limit="max")) == of_machine
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("1073741824\n", encoding="ascii")
    assert engine_address_bytes(tmp_path) == (3 << 28) + (2 << 30)
