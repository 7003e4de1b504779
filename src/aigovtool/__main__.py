"""`python -m aigovtool`: the command line."""

from aigovtool.cli import main

main()
