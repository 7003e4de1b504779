"""`aigovtool model add`: upload a sealed package and lend its model."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from aigovtool.cli import orders
from aigovtool.cli.credentials import connected
from aigovtool.cli.model.answers import AnswerWishes, answer_facts, answer_options, changed
from aigovtool.cli.model.bounds import BoundWishes, bound_facts, bound_options, bounded
from aigovtool.cli.model.charge import SIZED, charge_fact
from aigovtool.cli.model.dial import EXAMPLE, compute_option, consequence_facts, dial_option, meaning, ttl_option
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb, operator_option
from aigovtool.errors import ConfigurationError, SignatureInvalidError

if TYPE_CHECKING:
    from aigovtool.ids import BorrowerId
    from aigovtool.ledger.policy import ServingPolicy
    from aigovtool.operator.client import OperatorClient
    from aigovtool.package.sealing import PackageReader


class Lent(Struct, frozen=True, kw_only=True):
    """A model that was added, what a request costs, and what its dial means for a budget of `example_budget_units`.

    If it needs two operators it is only uploaded: `entry` is null, and `order` says what a second one has to cosign.
    """

    model: str
    manifest: str
    package: str
    charged_per: str
    of_any_size: list[str]
    entry: int | None
    order: orders.SavedOrder | None
    dial: str
    example_budget_units: int
    units_lost_on_crash_max: int
    outage_survived_ms: int
    stop_bound_ms: int
    per_request: bool


@click.command(cls=Verb, example="aigovtool model add xray.aigov --borrower st-mary --dial balanced")
@click.argument("package", metavar="FILE.aigov", type=FILE)
@click.option("--key", "key_path", type=FILE, help="The wrapped model key.  [default: FILE.aigov.key]")
@dial_option("balanced")
@ttl_option
@compute_option
@bound_options
@answer_options
@click.option("--borrower", "borrowers", multiple=True, required=True, help="Who may serve it; repeat for more.")
@orders.save_if_two_option
@operator_option
@click.pass_obj
def add(
    screen: Screen,
    *,
    package: Path,
    key_path: Path | None,
    dial: str,
    ttl_s: int | None,
    compute_ms: int | None,
    bounds: BoundWishes,
    answers: AnswerWishes,
    borrowers: tuple[str, ...],
    save: Path | None,
    operator_file: Path | None,
) -> None:
    """Upload a sealed package and lend its model.

    The island dial lets enclaves go on for hours without the custodian, so it needs two operators: --save the order,
    and have another one `aigovtool cosign` it.
    """
    from msgspec.structs import replace  # noqa: PLC0415

    from aigovtool.ids import BorrowerId, parse_name  # noqa: PLC0415
    from aigovtool.ledger.policy import Dial, default_policy  # noqa: PLC0415

    ttl_ms = None if ttl_s is None else ttl_s * 1_000
    policy = default_policy(Dial(dial), ttl_ms=ttl_ms, compute_ms=compute_ms)
    policy = bounded(replace(policy, answers=changed(None, answers)), bounds)
    names = [BorrowerId(parse_name(name, "borrower")) for name in borrowers]
    key_file = key_path or package.with_name(package.name + ".key")
    with connected(operator_file) as client:
        done = _lend(screen, client, package, key_file, policy=policy, names=names, save=save)

    def render() -> None:
        if done.order is None:
            screen.line(f"{done.model} is lent to {', '.join(names)} (audit log entry {done.entry})")
        else:
            screen.line(f"{done.model} is uploaded, and not lent yet to {', '.join(names)}")
        screen.facts([charge_fact(done.charged_per, done.of_any_size)])
        if done.charged_per == "request" and done.of_any_size:
            screen.line(SIZED)
        screen.line(EXAMPLE.words() + ":")
        facts = consequence_facts(meaning(policy, names, EXAMPLE))
        if bounds.any:
            facts += bound_facts(policy.max_run_ms, finite=policy.finite, batch=policy.batch)
        screen.facts(facts + (answer_facts(policy.answers) if answers.any else []))
        _say_next(screen, done, compute_ms)

    screen.show(done, render)


def _say_next(screen: Screen, done: Lent, compute_ms: int | None) -> None:
    if done.order is not None:
        orders.say_saved(screen, done.order)
        return
    screen.line(f"next: aigovtool budget grant --model {done.model} {EXAMPLE.limit}")
    if compute_ms is not None:  # absent means deny, in each dimension
        limit = EXAMPLE.limit * compute_ms
        screen.line(f"and:  aigovtool budget grant --model {done.model} --dimension compute_ms {limit}")


def _lend(
    screen: Screen,
    client: "OperatorClient",
    package: Path,
    key_file: Path,
    *,
    policy: "ServingPolicy",
    names: "list[BorrowerId]",
    save: Path | None,
) -> Lent:
    from aigovtool.operator.deposit import read_deposit  # noqa: PLC0415
    from aigovtool.package.charge import charged_per, of_any_size  # noqa: PLC0415
    from aigovtool.protocol.commands import AddModel  # noqa: PLC0415

    reader = _opened(package, client)
    deposit = read_deposit(key_file, custodian=client.root.key_id, manifest=reader.manifest_digest)
    orders.require_way(policy, save)
    with screen.progress("uploading") as progress:
        stored = client.upload_package(package, progress)
    act = AddModel(
        model=reader.manifest.model,
        manifest=reader.manifest_digest,
        package=stored.package,
        wrapped_key=deposit.wrapped_key,
        policy=policy,
        borrowers=names,
    )
    order = None if save is None else orders.saved(client, act, save)
    meant = meaning(policy, names, EXAMPLE)
    return Lent(
        model=act.model,
        manifest=act.manifest,
        package=act.package,
        charged_per=charged_per(reader.manifest.inputs).value,
        of_any_size=of_any_size(reader.manifest.inputs),
        entry=client.command(act).entry if save is None else None,
        order=order,
        dial=policy.dial.value,
        example_budget_units=EXAMPLE.limit,
        units_lost_on_crash_max=meant.units_lost_on_crash_max,
        outage_survived_ms=meant.outage_survived_ms,
        stop_bound_ms=meant.stop_bound_ms,
        per_request=meant.per_request,
    )


def _opened(package: Path, client: "OperatorClient") -> "PackageReader":
    """Return what a package says of itself, if this operator sealed it."""
    from aigovtool.package.sealing import PackageReader  # noqa: PLC0415

    try:
        with package.open("rb") as stream:
            return PackageReader(stream, client.key.public)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {package}: {error.strerror}",
            reason="unreadable_package",
            fix="name the .aigov file that `aigovtool model seal` wrote",
        ) from None
    except SignatureInvalidError as error:
        raise SignatureInvalidError(
            f"{package} was not sealed by operator {client.file.operator}: {error.message}",
            reason=error.reason,
            fix="use the file of the operator who sealed it, or seal the model again",
        ) from None
