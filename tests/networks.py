"""A network, or clocks, of its own for a process, where the tests' user may make such."""

import os
import shutil
import subprocess


def own_network() -> list[str]:
    """Return what starts a command in a network namespace of its own."""
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]


def cut_off() -> list[str]:
    """Return the beginning of a command that runs where there is a loopback interface and nothing else."""
    script = 'ip link set lo up && test "$(ip -o link | wc -l)" = 1 && exec "$@"'
    return [*own_network(), "bash", "-c", script, "-"]


def own_network_works() -> bool:
    """Return whether that, and looking at its links, is possible here."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run([*own_network(), "ip", "link"], capture_output=True, check=False).returncode == 0


def own_clocks_work() -> bool:
    """Return whether a process can be started in a time namespace of its own here."""
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run(["unshare", "--time", "--monotonic", "1", "true"], capture_output=True, check=False).returncode
        == 0
    )
