"""`aigovtool demo`."""

import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import DIRECTORY, Verb
from aigovtool.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aigovtool.cli.demo.story import Story, Summary


@click.command(cls=Verb, example="aigovtool demo\naigovtool demo --stay --keep ./demo-files")
@click.option("--keep", type=DIRECTORY, help="Play in this new directory and leave everything there.")
@click.option("--stay", is_flag=True, help="Go on afterwards, until interrupted, for whoever wants to ask the model.")
@click.pass_obj
def demo(screen: Screen, *, keep: Path | None, stay: bool) -> None:
    """Play the whole story on this machine: lend a model, use it up, supply more, stop it, audit.

    With --stay custodian and enclave go on with more units, and it says how to ask the model from another terminal.
    """
    from aigovtool.cli.demo.stage import Stage, ending_signals, program  # noqa: PLC0415
    from aigovtool.cli.demo.story import Story  # noqa: PLC0415

    if keep is not None:
        _require_new(keep)
    screen.banner()
    say = screen.note if screen.json else screen.line

    def tell(text: str) -> None:
        say("")
        say(text)

    with ending_signals() as ignore_more:
        stage = Stage(_made(keep), show=lambda text: say(f"    {text}"))
        try:
            say(f"Below, `aigovtool` stands for `{program()}`." if program() != "aigovtool" else "")
            story = Story(stage, tell=tell, draw=say)
            summary = story.play()
            if stay:
                _stay(story, keep or stage.directory, tell=tell, say=say)
        finally:
            ignore_more()
            stage.close()
            if keep is None:
                shutil.rmtree(stage.directory, ignore_errors=True)
    screen.show(summary, lambda: _render(screen, summary, program(), keep))


def _stay(story: "Story", files: Path, *, tell: "Callable[[str], None]", say: "Callable[[str], None]") -> None:
    """Leave the model to whoever has played the demo, until interrupted."""
    from aigovtool.cli.demo.stage import program  # noqa: PLC0415
    from aigovtool.cli.demo.story import MODEL, QUESTION  # noqa: PLC0415

    story.stay()
    ward = f"--credential {files}/ward7.json --allow-simulated"
    tell("As the ward, in another terminal: a gateway for any program (it serves until Ctrl-C),")
    say(f"    {program()} connect --enclave {story.enclave} {ward} --home {files}/gateway")
    say("and in a third one:")
    say(f"    curl http://127.0.0.1:8000/v2/models/{MODEL}/infer -d @{files}/{QUESTION}")
    say(f"    {program()} connect status")
    say("or once, without a gateway:")
    say(f"    {program()} infer {MODEL} --enclave {story.enclave} {ward} --input {files}/picture-0.json")
    tell("Ctrl-C ends custodian and enclave.")
    with suppress(KeyboardInterrupt):
        while True:
            signal.pause()


def _require_new(keep: Path) -> None:
    if keep.exists() or keep.is_symlink():
        raise ConfigurationError(f"{keep} exists already", reason="file_exists", fix="choose a new directory")
    if not keep.absolute().parent.is_dir():
        parent = keep.absolute().parent
        raise ConfigurationError(f"there is no directory {parent}", reason="no_directory", fix=f"mkdir -p {parent}")


def _made(keep: Path | None) -> Path:
    """Make the directory to play in."""
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="aigovtool-demo-")).absolute()
    try:
        keep.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make {keep}: {error.strerror}", reason="unwritable_directory", fix="choose another directory"
        ) from None
    return keep.absolute()


def _render(screen: Screen, summary: "Summary", program: str, keep: Path | None) -> None:
    screen.line()
    screen.line(
        f"Every step held, in {summary.seconds} s: {summary.answers} answers ({summary.right} right), "
        f"{summary.refused_402} x 402, {summary.refused_423} x 423, "
        f"ledger = enclave = receipts = {summary.ledger_used}.",
        style="green",
    )
    if keep is None:
        screen.line(f"Next: `{program} --help`, or `{program} demo --stay` to ask the model yourself.")
    else:
        proof = f"{program} audit verify {keep}/audit.jsonl --operator {keep}/ward7.json"
        screen.line(f"Keys, ledger, party files, receipts and the audit log are in {keep}. For example: `{proof}`")
