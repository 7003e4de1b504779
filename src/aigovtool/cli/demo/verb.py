"""`aigovtool demo`."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import DIRECTORY, Verb

if TYPE_CHECKING:
    from aigovtool.cli.demo.story import Summary


@click.command(cls=Verb, example="aigovtool demo\naigovtool demo --keep ./demo-files")
@click.option("--keep", type=DIRECTORY, help="Play in this new directory and leave everything there.")
@click.pass_obj
def demo(screen: Screen, keep: Path | None) -> None:
    """Play the whole story on this machine: lend a model, use it up, supply more, stop it, audit."""
    from aigovtool.cli.demo.stage import Stage  # noqa: PLC0415
    from aigovtool.cli.demo.story import Story  # noqa: PLC0415

    screen.banner()
    directory = (keep or Path(tempfile.mkdtemp(prefix="aigovtool-demo-"))).absolute()
    directory.mkdir(mode=0o700, exist_ok=keep is None)
    say = screen.note if screen.json else screen.line
    stage = Stage(directory, show=lambda text: say(f"    {text}"))

    def tell(text: str) -> None:
        say("")
        say(text)

    try:
        summary = Story(stage, tell=tell, draw=say).play()
    finally:
        stage.close()
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    screen.show(summary, lambda: _render(screen, summary))


def _render(screen: Screen, summary: "Summary") -> None:
    screen.line()
    screen.line(
        f"Every step held, in {summary.seconds} s: {summary.answers} answers ({summary.right} right), "
        f"{summary.refused_402} x 402, {summary.refused_423} x 423, "
        f"ledger = enclave = receipts = {summary.ledger_used}.",
        style="green",
    )
    screen.line("Next: `aigovtool --help`, or `aigovtool demo --keep DIR` to look around in what it left.")
