"""The command line: one module per verb, each a thin shell around a role.

Parses options, reads the environment (nothing below this layer does), prints tables for people and
`--json` for programs, and ends with the exit code of the error's class. It holds no rules of its own:
what it refuses, a role or a lower layer refused.

`app` the tree of verbs · `verb` what every verb has · `screen` output · `failure` errors and exit codes ·
`logs` logs of what serves · `isolation` its interpreter · `words` numbers and times for people · `credentials` party
files · `orders` what two operators sign · `public_file` files that hold no secret · the other modules, and the folders,
are the verbs.

A module of a verb imports what it needs inside its functions, so that `aigovtool --help` stays fast.
"""

import os
import signal
import sys
from io import TextIOWrapper


def main() -> None:
    """Run the command line; the console script."""
    # Until the program runs, and after it has, Ctrl-C ends it without a word: there is nothing to put in order.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_standard_streams()
    # Importing this package must stay free, and what serves must be isolated before it loads anything.
    from aigovtool.cli.isolation import isolate  # noqa: PLC0415

    isolate(sys.argv)
    from aigovtool.cli.app import app  # noqa: PLC0415

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(prog_name="aigovtool")
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _open_standard_streams() -> None:
    """Put nothing where whoever started this closed a standard stream, and have no letter be one too many.

    Else the next file or connection would get its number, and what is said would be written into that.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115 - for good
        stream = getattr(sys, name)
        if number and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
