"""`aigovtool audit witness enrol | retire | list`: what operators do with witnesses."""

from pathlib import Path

import click
from msgspec import Struct

from aigovtool.cli.confirm import confirm, yes_option
from aigovtool.cli.credentials import connected
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import Verb, operator_option
from aigovtool.cli.words import count, when


class Enrolled(Struct, frozen=True, kw_only=True):
    """A witness that was enrolled."""

    name: str
    key: str
    entry: int


class Retired(Struct, frozen=True, kw_only=True):
    """A witness that was retired."""

    name: str
    entry: int


class Listed(Struct, frozen=True, kw_only=True):
    """A witness; the last three are null when it has co-signed nothing."""

    name: str
    key: str
    retired: bool
    entries: int | None
    generation: int | None
    time_s: int | None


class Witnesses(Struct, frozen=True, kw_only=True):
    """All witnesses, and how many entries the log has now."""

    entries: int
    witnesses: list[Listed]


@click.command(
    cls=Verb,
    example="aigovtool audit witness enrol "
    "'witness.example.com/w1+b55d92ec+BO4x+DyIpxIZpvz5vuDam8ImIFiPWhWmFFVTUE35ZJ5c'",
)
@click.argument("verifier_key", metavar="KEY")
@operator_option
@click.pass_obj
def enrol(screen: Screen, verifier_key: str, operator_file: Path | None) -> None:
    """Take and show the co-signatures of a witness; KEY is the verifier key that `audit witness init` printed.

    Get it from the witness's keeper on a path on which nobody can change it. At most 15 can be enrolled. Nothing waits
    for a witness: one that is late or gone holds up no grant.
    """
    from aigovtool.ledger.cosignature import parse_witness_key  # noqa: PLC0415
    from aigovtool.protocol.commands import EnrolWitness  # noqa: PLC0415

    name = parse_witness_key(verifier_key).name
    with connected(operator_file) as client:
        result = client.command(EnrolWitness(witness=verifier_key))
    done = Enrolled(name=name, key=verifier_key, entry=result.entry)
    screen.show(done, lambda: screen.line(f"witness {name} is enrolled (audit log entry {done.entry})", style="green"))


@click.command(cls=Verb, example="aigovtool audit witness retire witness.example.com/w1")
@click.argument("name")
@yes_option
@operator_option
@click.pass_obj
def retire(screen: Screen, *, name: str, operator_file: Path | None, yes: bool) -> None:
    """Neither take nor show the co-signatures of a witness any more. What it signed stays true.

    Neither its name nor its key can be enrolled again.
    """
    from aigovtool.protocol.commands import RetireWitness  # noqa: PLC0415

    if not yes:
        confirm(screen, f"retire {name}", ["who demands its co-signature will refuse exports from now on"])
    with connected(operator_file) as client:
        result = client.command(RetireWitness(name=name))
    done = Retired(name=name, entry=result.entry)
    screen.show(done, lambda: screen.line(f"witness {name} is retired (audit log entry {done.entry})", style="green"))


@click.command("list", cls=Verb, example="aigovtool audit witness list")
@operator_option
@click.pass_obj
def list_witnesses(screen: Screen, operator_file: Path | None) -> None:
    """Show all witnesses, and how far each has co-signed the log."""
    with connected(operator_file) as client:
        _, checkpoint = client.verified_head()
        found = client.witnesses().witnesses
    done = Witnesses(
        entries=checkpoint.size,
        witnesses=[
            Listed(
                name=one.name,
                key=one.key,
                retired=one.retired,
                entries=one.size,
                generation=one.generation,
                time_s=one.time_s,
            )
            for one in found
        ],
    )

    def render() -> None:
        rows = [
            (
                one.name,
                "retired" if one.retired else "enrolled",
                "-" if one.entries is None else count(one.entries),
                "-" if one.time_s is None else when(one.time_s * 1000),
                one.key,
            )
            for one in done.witnesses
        ]
        screen.table(("witness", "state", ">co-signed", "at", "key"), rows, "no witness is enrolled")
        if rows:
            screen.line(f"the log has {count(done.entries)} entries now")

    screen.show(done, render)
