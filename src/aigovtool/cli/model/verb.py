"""`aigovtool model`: seal models, lend them, withdraw them."""

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from aigovtool.cli.confirm import confirm, yes_option
from aigovtool.cli.credentials import connected, read_operator, require_free
from aigovtool.cli.model.add import add
from aigovtool.cli.model.answers import answer_facts
from aigovtool.cli.model.bounds import bound_facts
from aigovtool.cli.model.charge import charge_fact
from aigovtool.cli.model.terms import terms
from aigovtool.cli.scope import find_model
from aigovtool.cli.screen import Progress, Screen
from aigovtool.cli.stop import stopped
from aigovtool.cli.verb import FILE, Verb, VerbGroup, operator_option
from aigovtool.cli.words import short, size, span
from aigovtool.errors import ConfigurationError, ConflictError

if TYPE_CHECKING:
    from aigovtool.crypto.secret import ModelKey
    from aigovtool.ids import ModelId
    from aigovtool.package.manifest import Description
    from aigovtool.package.picture import Picture
    from aigovtool.package.sealing import SealedPackage
    from aigovtool.protocol.party import OperatorFile


class Sealed(Struct, frozen=True, kw_only=True):
    """A model that was sealed."""

    model: str
    package: str
    package_bytes: int
    key_file: str
    manifest: str
    charged_per: str
    of_any_size: list[str]


class Withdrawn(Struct, frozen=True, kw_only=True):
    """A model that is no longer lent, and what became of the enclaves that held it."""

    model: str
    entry: int
    epoch: int | None
    stop: stopped.StopReport


@click.group(cls=VerbGroup, example="aigovtool model list")
def model() -> None:
    """Seal models and lend them."""


model.add_command(add)
model.add_command(terms)


@model.command(cls=Verb, example="aigovtool model seal xray.onnx --name xray -o xray.aigov")
@click.argument("source", metavar="MODEL.onnx", type=FILE)
@click.option("--name", required=True, help="Name of the model at the custodian.")
@click.option("-o", "--out", type=FILE, required=True, help="Package to write; its wrapped key goes to OUT.key.")
@click.option("--external-data", multiple=True, help="File with weights that the model refers to; repeat for more.")
@click.option(
    "--description", "described", type=FILE, help="JSON: names of the classes, how a picture becomes an input, notes."
)
@operator_option
@click.pass_obj
def seal(
    screen: Screen,
    *,
    source: Path,
    name: str,
    out: Path,
    external_data: tuple[str, ...],
    described: Path | None,
    operator_file: Path | None,
) -> None:
    """Encrypt and sign MODEL.onnx, offline, under a fresh key that only the custodian can open.

    External data are named relative to the model's folder, as the model names them. With --description, whoever asks
    may give a picture as it is, and reads the names of classes; it is signed with the rest, and everybody sees it.
    """
    from aigovtool.cli.model.description import read_description  # noqa: PLC0415
    from aigovtool.crypto.secret import ModelKey, Secret  # noqa: PLC0415
    from aigovtool.ids import ModelId, key_id_of, parse_name  # noqa: PLC0415
    from aigovtool.operator.deposit import make_deposit, write_deposit  # noqa: PLC0415

    party = read_operator(operator_file)
    model_id = ModelId(parse_name(name, "model"))
    key_path = out.with_name(out.name + ".key")
    require_free(out)
    require_free(key_path)
    said = read_description(described)
    _check_model(screen, source)
    with Secret(secrets.token_bytes(ModelKey.SIZE_BYTES)) as fresh, screen.progress("sealing") as progress:
        model_key = ModelKey(fresh)
        sealed = _write_package(
            source,
            external_data=external_data,
            out=out,
            model_id=model_id,
            model_key=model_key,
            party=party,
            said=said,
            progress=progress,
        )
        deposit = make_deposit(model_key, sealed.manifest_digest, key_id_of(party.custodian.root), party.keystore)
        write_deposit(key_path.absolute(), deposit)
    done = _told(name, out, key_path, sealed)
    screen.show(done, lambda: _render_sealed(screen, done))


def _told(name: str, out: Path, key_path: Path, sealed: "SealedPackage") -> Sealed:
    from aigovtool.package.charge import charged_per, of_any_size  # noqa: PLC0415

    return Sealed(
        model=name,
        package=str(out),
        package_bytes=sealed.size_bytes,
        key_file=str(key_path),
        manifest=sealed.manifest_digest,
        charged_per=charged_per(sealed.manifest.inputs).value,
        of_any_size=of_any_size(sealed.manifest.inputs),
    )


def _render_sealed(screen: Screen, done: Sealed) -> None:
    screen.line(f"{done.model} is sealed: {done.package} ({size(done.package_bytes)})")
    charge = charge_fact(done.charged_per, done.of_any_size)
    screen.facts([("manifest digest", done.manifest), ("wrapped key", done.key_file), charge])
    screen.line(f"next: aigovtool model add {done.package} --borrower NAME")


def _check_model(screen: Screen, source: Path) -> None:
    """Inspect the graph, then load it once in a process of its own."""
    from aigovtool.package.inspect import inspect_onnx  # noqa: PLC0415
    from aigovtool.package.loadcheck import check_loads  # noqa: PLC0415

    try:
        with source.open("rb") as stream:
            inspected = inspect_onnx(stream)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {source}: {error.strerror}", reason="unreadable_model", fix="name an ONNX file"
        ) from None
    screen.note("checking that the model loads")
    check_loads(source, inspected)


def _write_package(
    source: Path,
    *,
    external_data: tuple[str, ...],
    out: Path,
    model_id: "ModelId",
    model_key: "ModelKey",
    party: "OperatorFile",
    said: "tuple[Description | None, tuple[Picture, ...]]",
    progress: Progress,
) -> "SealedPackage":
    """Write the package, whole or not at all."""
    from aigovtool.crypto.secret import Secret  # noqa: PLC0415
    from aigovtool.crypto.sign import SigningKey  # noqa: PLC0415
    from aigovtool.package.sealing import seal as seal_files  # noqa: PLC0415
    from aigovtool.package.source import open_sources  # noqa: PLC0415
    from aigovtool.regular_file import give_name, new_beside  # noqa: PLC0415

    partial: Path | None = None
    try:
        stream, partial = new_beside(out)
        with Secret(party.key) as seed, stream:
            sealer = SigningKey.from_secret(seed)
            with open_sources(source.absolute().parent, [source.name, *external_data]) as sources:
                sealed = seal_files(
                    sources,
                    stream,
                    model=model_id,
                    model_key=model_key,
                    salt=secrets.token_bytes(32),
                    sealer=sealer,
                    now_ms=time.time_ns() // 1_000_000,
                    description=said[0],
                    pictures=said[1],
                    progress=progress,
                )
        give_name(partial, out)
    except OSError as error:
        raise ConfigurationError(f"cannot write {out}: {error.strerror}", reason="unwritable_package") from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    return sealed


@model.command("list", cls=Verb, example="aigovtool model list")
@operator_option
@click.pass_obj
def list_models(screen: Screen, operator_file: Path | None) -> None:
    """Show every model that is or was lent."""
    with connected(operator_file) as client:
        view = client.models()
    rows = [
        (
            found.model,
            short(found.manifest.removeprefix("sha256:")),
            size(found.package_bytes),
            found.policy.dial.value,
            ", ".join(found.borrowers),
            "withdrawn" if found.withdrawn else "lent",
        )
        for found in view.models
    ]
    columns = ("model", "manifest", ">size", "dial", "borrowers", "state")
    screen.show(view, lambda: screen.table(columns, rows, "no model is lent"))


@model.command(cls=Verb, example="aigovtool model show xray")
@click.argument("name")
@operator_option
@click.pass_obj
def show(screen: Screen, name: str, operator_file: Path | None) -> None:
    """Show one model: digests, inputs, outputs, policy."""
    with connected(operator_file) as client:
        found = find_model(client.models().models, name)
    policy = found.policy
    pairs: list[tuple[str, object]] = [
        ("model", found.model),
        ("state", "withdrawn" if found.withdrawn else "lent"),
        ("borrowers", ", ".join(found.borrowers)),
        ("manifest digest", found.manifest),
        ("package", f"{found.package} ({size(found.package_bytes)})"),
        ("sealed by key", found.sealer),
        ("inputs", "; ".join(found.inputs)),
        ("outputs", "; ".join(found.outputs)),
        ("dial", f"{policy.dial.value}, leases live {span(policy.ttl_ms)}"),
        ("counts", " and ".join(policy.counts)),
        charge_fact(found.charged_per, found.of_any_size),
        *bound_facts(policy.max_run_ms, finite=policy.finite, batch=policy.batch),
        *answer_facts(policy.answers),
        ("wipes itself without contact after", span(policy.wipe_after_ms)),
    ]
    screen.show(found, lambda: screen.facts(pairs))


@model.command(cls=Verb, example="aigovtool model withdraw xray")
@click.argument("name")
@yes_option
@stopped.wait_option
@operator_option
@click.pass_obj
def withdraw(screen: Screen, *, name: str, wait_s: int, operator_file: Path | None, yes: bool) -> None:
    """Stop lending a model for good, after asking: no key, no lease; enclaves that hold it are stopped.

    This cannot be undone: not even its name can be used again. What may go on later is stopped with `aigovtool stop`.
    """
    from aigovtool.ids import ModelId, parse_name  # noqa: PLC0415
    from aigovtool.ledger.entry import StopTarget  # noqa: PLC0415
    from aigovtool.protocol.commands import WithdrawModel  # noqa: PLC0415

    model_id = ModelId(parse_name(name, "model"))
    with connected(operator_file) as client:
        found = find_model(client.models().models, name)
        if found.withdrawn:
            raise ConflictError(
                f"{name} was withdrawn before", reason="already_withdrawn", fix="see `aigovtool model list`"
            )
        if not yes:
            what = f"{name} is lent to {', '.join(found.borrowers)}; withdrawn it is never lent again, under any budget"
            confirm(screen, "withdraw", [what, "to stop it for a while: aigovtool stop --model " + name])
        result = client.command(WithdrawModel(model=model_id))
        if not screen.json:
            screen.line(f"{name} is withdrawn (epoch {result.epoch}, audit log entry {result.entry})")
        report = stopped.watch(client, StopTarget.MODEL, model_id, result, wait_s)
    stopped.warn(screen, report)
    done = Withdrawn(model=name, entry=result.entry, epoch=result.epoch, stop=report)
    screen.show(done, lambda: stopped.render(screen, report))
