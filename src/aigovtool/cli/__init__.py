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

import sys


def main() -> None:
    """Run the command line; the console script."""
    # Importing this package must stay free, and what serves must be isolated before it loads anything.
    from aigovtool.cli.isolation import isolate  # noqa: PLC0415

    isolate(sys.argv)
    from aigovtool.cli.app import app  # noqa: PLC0415

    app(prog_name="aigovtool")
