"""What a verb prints: one JSON document for programs, or text and tables for people.

Results go to standard output; warnings, progress and errors to standard error. Colour only on a terminal, and not
when NO_COLOR is set. Whatever is shown loses its control characters first, because names and reasons come from
others. A verb that serves has its log on standard error: where that is no terminal, whatever it says there is a line of
the log too, so that a program can read all of it.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final, TextIO

from aigovtool.cli.words import plain, told

if TYPE_CHECKING:
    from rich.console import Console

#: Without a terminal nothing is wrapped: programs and files have no width.
_WIDTH_OFF_TERMINAL: Final = 400
SIMULATED: Final = "SIMULATED TEE: development only. It protects nothing: whoever runs the host can read the model."

UNENCRYPTED: Final = (
    "TPM: boot integrity, no memory encryption. It shows what was booted; whoever runs the host can read the model."
)

#: What nobody may overlook.
LOUD: Final = "bold white on red"
Progress = Callable[[int, int], None]


class Screen:
    """Where one verb writes. `json` says for whom."""

    def __init__(self, *, json: bool) -> None:
        self.json: Final = json
        self._log: logging.Logger | None = None
        self._many = False

    def serve(self, log: TextIO | None = None) -> None:
        """Show log lines from now on, and say there what else would be said on standard error, unless people look.

        Where they look, the lines go to `log`, if there is one.
        """
        from aigovtool.cli.logs import log_to  # noqa: PLC0415

        log_to(log if log is not None and sys.stderr.isatty() else sys.stderr)
        if not sys.stderr.isatty():
            self._log = logging.getLogger(__name__)

    @cached_property
    def _out(self) -> "Console":
        return _console(stderr=False)

    @cached_property
    def _err(self) -> "Console":
        return _console(stderr=True)

    def go_on(self) -> None:
        """Say that there will be more than one document: each has a line of its own, so that programs can part them."""
        self._many = True

    def show(self, document: object, render: Callable[[], None]) -> None:
        """Print `document` for programs, or let `render` print for people."""
        if self.json:
            self._print_document(document)
        else:
            render()

    def announce(self, document: object) -> None:
        """Print a document of what serves, for programs. That nobody reads it is no reason to end."""
        if self.json:
            with suppress(OSError):
                self._print_document(document)

    def line(self, text: str = "", style: str | None = None) -> None:
        """Print a line for people."""
        self._out.print(plain(text), style=style, soft_wrap=True)

    def facts(self, pairs: Sequence[tuple[str, object]], styles: Mapping[str, str] | None = None) -> None:
        """Print names and values below each other, some names in a style; a value that is a pair has two columns."""
        rows = [
            (told(name), tuple(map(told, value if isinstance(value, tuple) else (value,)))) for name, value in pairs
        ]
        width = max((len(name) for name, _ in rows), default=0)
        first = max((len(cells[0]) for _, cells in rows if cells[1:]), default=0)
        for name, cells in rows:
            shown = f"{cells[0]:<{first}}  {cells[1]}" if cells[1:] else cells[0]
            self.line(f"{name:<{width}}  {shown}", (styles or {}).get(name))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
        """Print rows under a header, or the sentence `empty`; a column named `>x` is aligned to the right."""
        from rich.table import Table  # noqa: PLC0415 - only when there is a table

        if not rows:
            self.line(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            justify = "right" if column.startswith(">") else "left"
            table.add_column(
                column.removeprefix(">"), justify="right" if justify == "right" else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*(told(cell) for cell in row))
        self._out.print(table)

    @property
    def canvas(self) -> "Console | None":
        """The terminal, if what is printed goes to one, and it can be drawn on."""
        drawn_on = not self.json and sys.stdout.isatty() and not self._out.is_dumb_terminal
        return self._out if drawn_on else None

    def note(self, text: str) -> None:
        """Say something beside the result."""
        if self._log is not None:
            self._log.info("%s", text)
            return
        self._err.print(plain(text), soft_wrap=True)

    def banner(self, text: str = SIMULATED) -> None:
        """Say in red that something is dangerous; also when a program reads the result."""
        if self._log is not None:
            self._log.warning("%s", text)
            return
        self._err.print(plain(text), style=LOUD, soft_wrap=True)

    def failure(self, message: str, reason: str | None, fix: str | None, document: object) -> None:
        """Print an error: what happened, why, what to do next."""
        if self.json:
            self._print_document(document)
            return
        if self._log is not None:
            known = {name: value for name, value in (("reason", reason), ("fix", fix)) if value}
            self._log.error("%s", message, extra=known)
            return
        self._err.print("error: " + plain(message), style="red", soft_wrap=True)
        if reason:
            self._err.print("why:   " + plain(reason), soft_wrap=True)
        if fix:
            self._err.print("fix:   " + plain(fix), soft_wrap=True)

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """Yield `progress(done_bytes, total_bytes)`; shows a bar on a terminal, and nothing elsewhere."""
        if self.json or not sys.stderr.isatty():
            yield lambda _done, _total: None
            return
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415 - only on a terminal

        columns = (TextColumn(plain(what)), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
        with Bar(*columns, console=self._err, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def _print_document(self, document: object) -> None:
        sys.stdout.write(_escaped(_json(document, indent=None if self._many else 2)) + "\n")
        sys.stdout.flush()


def _json(document: object, *, indent: int | None) -> str:
    import msgspec  # noqa: PLC0415 - the parser is not needed for --help

    from aigovtool.codec import encode  # noqa: PLC0415
    from aigovtool.errors import InvalidValueError  # noqa: PLC0415

    try:
        content = encode(document)
    except InvalidValueError:
        # A file name that is not UTF-8: JSON has escapes for what Python makes of it.
        return json.dumps(msgspec.to_builtins(document), indent=indent)
    return (content if indent is None else msgspec.json.format(content, indent=indent)).decode()


def _escaped(text: str) -> str:
    """Return JSON in which whatever a terminal might act on is escaped: it may come from a peer, and means the same.

    So is what standard output has no letters for.
    """
    all_letters = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    return "".join(
        one if one == "\n" or (one.isprintable() and (all_letters or one.isascii())) else json.dumps(one)[1:-1]
        for one in text
    )


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console  # noqa: PLC0415 - only when something is printed

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDTH_OFF_TERMINAL
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)
