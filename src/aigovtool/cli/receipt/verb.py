"""`aigovtool receipt verify`: check a saved receipt offline; `prove` is a module of its own."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from aigovtool.cli.receipt.prove import prove
from aigovtool.cli.screen import SIMULATED, Screen
from aigovtool.cli.verb import FILE, Verb, VerbGroup
from aigovtool.cli.words import amount, tee_name, when

if TYPE_CHECKING:
    from aigovtool.ledger.units import UnitVector


class VerifiedReceipt(Struct, frozen=True, kw_only=True):
    """A receipt that verifies."""

    request_id: str
    model: str
    manifest: str
    consumer: str
    instance: str
    tee: str
    simulated: bool
    units: "UnitVector"
    remaining: "UnitVector"
    lease: str
    sequence: int
    at_ms: int
    bodies_checked: list[str]


@click.group(cls=VerbGroup, example="aigovtool receipt verify receipt.json --credential radiology.json")
def receipt() -> None:
    """Signed proof of single inferences."""


receipt.add_command(prove)


@receipt.command(cls=Verb, example="aigovtool receipt verify receipt.json --credential radiology.json")
@click.argument("file", type=FILE)
@click.option("--credential", type=FILE, required=True, help="The consumer file: its root key and appraisal policy.")
@click.option("--manifest", metavar="DIGEST", help="The manifest digest that the model should have.")
@click.option("--request", "request_path", type=FILE, help="The file from `infer --save-request`, to compare.")
@click.option("--response", "response_path", type=FILE, help="The file from `infer --save-response`, to compare.")
@click.option("--allow-simulated", is_flag=True, help="DEVELOPMENT ONLY: also accept a simulated TEE.")
@click.pass_obj
def verify(
    screen: Screen,
    *,
    file: Path,
    credential: Path,
    manifest: str | None,
    request_path: Path | None,
    response_path: Path | None,
    allow_simulated: bool,
) -> None:
    """Check a receipt that `aigovtool infer --save-receipt` wrote."""
    from aigovtool.consumer.verify import verify_receipt_file  # noqa: PLC0415

    verdict = verify_receipt_file(
        file,
        credential,
        allow_simulated=allow_simulated,
        manifest=manifest,
        request_path=request_path,
        response_path=response_path,
    )
    said = verdict.receipt
    simulated = verdict.result.tee.value == "simulated"
    if verdict.warning is not None:
        screen.banner(SIMULATED if simulated else verdict.warning)
    found = VerifiedReceipt(
        request_id=said.request_key,
        model=said.model,
        manifest=said.manifest,
        consumer=said.consumer,
        instance=said.instance,
        tee=said.tee,
        simulated=simulated,
        units=said.units,
        remaining=said.remaining,
        lease=said.lease_id,
        sequence=said.sequence,
        at_ms=said.at_ms,
        bodies_checked=list(verdict.bodies_checked),
    )
    screen.show(found, lambda: _render(screen, file, found, encrypted=verdict.result.memory_encryption))


def _render(screen: Screen, file: Path, found: VerifiedReceipt, *, encrypted: bool) -> None:
    screen.line(f"{file} verifies: signed by an attested enclave", style="green")
    screen.facts(
        [
            ("model", f"{found.model} ({found.manifest})"),
            ("request", found.request_id),
            ("consumer", found.consumer),
            ("tee", tee_name(found.tee, encrypted=encrypted)),
            ("enclave", found.instance),
            ("at (enclave's clock)", when(found.at_ms)),
            ("charged", amount(found.units)),
            ("left afterwards", amount(found.remaining)),
            ("lease", f"{found.lease}, number {found.sequence}"),
            ("bodies compared", ", ".join(found.bodies_checked) or "none were given"),
        ]
    )
