"""`aigovtool usage`: what was used, by model and consumer."""

from pathlib import Path

import click

from aigovtool.cli.credentials import connected
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import Verb, operator_option
from aigovtool.cli.words import count


@click.command(cls=Verb, example="aigovtool usage")
@operator_option
@click.pass_obj
def usage(screen: Screen, operator_file: Path | None) -> None:
    """Show what each consumer used of each model.

    Leased is what enclaves were given to use, also what they gave back. Charged is what the ledger holds against the
    budget: what was used, and all of a lease whose enclave has not yet closed it or never did.
    """
    with connected(operator_file) as client:
        view = client.usage()
    rows = [
        (
            f"{one.model} / {one.borrower} / {one.consumer}",
            count(one.granted),
            count(one.charged),
            count(one.used),
            count(one.ok),
            count(one.err),
            count(one.open_leases),
        )
        for one in view.usage
    ]
    columns = ("model / borrower / consumer", ">leased", ">charged", ">used", ">answers", ">failures", ">open leases")
    screen.show(view, lambda: screen.table(columns, rows, "nothing was used yet"))
