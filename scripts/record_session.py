# ruff: noqa: INP001, S603 - a program of its own, which runs the verbs of this one
"""Record a terminal session of the consumer's gateway, for the README.

    python scripts/record_session.py docs/session.svg

Everything in it happens: a model is lent on this machine, and each command is run and shows what it said. Addresses and
identifiers are those of this run. The picture holds no script and asks nobody for anything, fonts included.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from on_one_machine import AIGOVTOOL, Machine, free_port, machine  # noqa: E402
from risk_score import trained  # noqa: E402

_WIDTH: Final = 104
#: What rich's own form of the picture fetches from elsewhere.
_FONTS: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main() -> None:
    """Run the session, and write the picture."""
    out = Path(sys.argv[1])
    console = Console(record=True, width=_WIDTH, file=sys.stderr, force_terminal=True, color_system="truecolor")
    with machine() as here:
        model, one = trained(here)
        here.lend(model, "risk", budget=100)
        here.consumer("oncology")
        _record(console, here, one)
    picture = console.export_svg(title="a lent model, and a program that knows nothing of it", clear=True)
    out.write_text(_FONTS.sub("", picture).replace("Fira Code", "ui-monospace"), encoding="utf-8")


def _record(console: Console, here: Machine, one: str) -> None:
    port = free_port()
    url, words = f"127.0.0.1:{port}", ("connect", "--enclave", here.enclave, "--credential", "oncology.json")
    _prompt(console, "aigovtool " + " ".join(words) + f" --listen {url} --allow-simulated &")
    here.serve(*words, "--listen", url, "--allow-simulated", documents=False)
    lines = here.path("connect.log").read_text().splitlines()
    _said(console, "\n".join(line for line in lines if not line.startswith("{")))  # what is in JSON is its log
    here.path("patient.json").write_text(one)
    _shown(console, here, f"curl -s {url}/v2/models/risk/infer -d @patient.json")
    _shown(console, here, f"aigovtool connect status --gateway {url}")
    _shown(console, here, "aigovtool connect log")


def _shown(console: Console, here: Machine, line: str) -> None:
    _prompt(console, line)
    name, *rest = line.split()
    command = [*AIGOVTOOL, *rest] if name == "aigovtool" else [name, *rest]
    done = subprocess.run(command, cwd=here.directory, capture_output=True, text=True, check=True, timeout=60)
    _said(console, done.stdout)


def _prompt(console: Console, line: str) -> None:
    console.print(Text("$ ", "bold green") + Text(line, "bold"))


def _said(console: Console, text: str) -> None:
    for line in text.strip().splitlines():
        console.print(Text(line.rstrip(), "bold white on red" if "SIMULATED TEE" in line else ""), soft_wrap=False)
    console.print()


if __name__ == "__main__":
    main()
