"""`aigovtool connect`: a gateway on this machine, through which any program uses a lent model."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.address import LISTEN, Address
from aigovtool.cli.connect.kept import home_option, log, receipt
from aigovtool.cli.connect.status import status
from aigovtool.cli.logs import open_log
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, DefaultVerbGroup, Seconds, Verb, key_set_option, wrong_usage
from aigovtool.cli.words import short, tee_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aigovtool.attestation.policy import AppraisalPolicy
    from aigovtool.consumer.connect.app import Beside, Running

#: What is logged goes to this file of its home while people look at the gateway.
LOG: Final = "connect.log"


class ServedEnclave(Struct, frozen=True, kw_only=True):
    """One enclave, as it was when the gateway began to serve."""

    enclave: str
    state: str
    tee: str | None
    memory_encryption: bool
    instance: str | None
    models: dict[str, str]
    why: str | None


class Serving(Struct, frozen=True, kw_only=True):
    """Where programs find the gateway, and what is behind it."""

    url: str
    consumer: str
    simulated: bool
    enclaves: list[ServedEnclave]


@click.group(
    cls=DefaultVerbGroup,
    default="serve",
    example="aigovtool connect --enclave https://10.0.0.7:8443 --credential radiology.json",
)
def connect() -> None:
    """A gateway on this machine: any program uses a lent model, and never speaks to an enclave that is not verified."""


connect.add_command(log)
connect.add_command(receipt)
connect.add_command(status)


@connect.command(
    cls=Verb,
    example="aigovtool connect serve --enclave https://10.0.0.7:8443 --credential radiology.json",
)
@click.option(
    "--enclave", "enclaves", multiple=True, required=True, help="https://HOST:PORT of an enclave; repeat for more."
)
@click.option("--credential", type=FILE, required=True, help="Your consumer file.")
@click.option(
    "--policy", "policy_file", type=FILE, help="An appraisal policy of your own, instead of that in the consumer file."
)
@click.option("--policy-key", metavar="KEY", help="With --policy: the key (hexadecimal) that must have signed it.")
@click.option(
    "--model",
    "pins",
    multiple=True,
    metavar="NAME=DIGEST",
    help="The manifest digest that a model must have; repeat for more.",
)
@click.option(
    "--listen", type=LISTEN, default="127.0.0.1:8000", show_default=True, help="HOST:PORT of loopback for programs."
)
@home_option
@click.option(
    "--verify-every",
    "verify_every_s",
    type=Seconds(5, 86_400),
    default=300,
    show_default=True,
    help="Seconds until an enclave is verified again.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="A page that may ask from a browser, as https://HOST; repeat for more.",
)
@click.option(
    "--retry",
    type=click.Choice(["same-instance-only", "may-charge"]),
    default="same-instance-only",
    show_default=True,
    help="Where a request with an unknown outcome is repeated.",
)
@key_set_option
@click.option(
    "--sealed",
    is_flag=True,
    help="A load balancer ends TLS before the enclaves: have nobody but an attested enclave read what is asked.",
)
@click.option("--all-users", is_flag=True, help="Let other users of this machine ask as well, in your name.")
@click.option("--allow-simulated", is_flag=True, help="DEVELOPMENT ONLY: also accept a simulated TEE.")
@click.option("--tui", is_flag=True, help=f"Show on this terminal what it knows; its log is {LOG} in --home then.")
@click.pass_obj
def serve(
    screen: Screen,
    /,
    *,
    enclaves: tuple[str, ...],
    credential: Path,
    policy_file: Path | None,
    policy_key: str | None,
    pins: tuple[str, ...],
    listen: Address,
    home: Path,
    verify_every_s: float,
    origins: tuple[str, ...],
    retry: str,
    key_set_at_least: int,
    all_users: bool,
    allow_simulated: bool,
    sealed: bool,
    tui: bool,
) -> None:
    """Verify the enclaves, and serve their models to programs on this machine until interrupted.

    Programs use the printed address like that of any server of the Open Inference Protocol V2. Several enclaves share
    the load; one that is not accepted is left out, and tried again.
    """
    from aigovtool.consumer.connect.app import ConnectOptions  # noqa: PLC0415
    from aigovtool.consumer.connect.app import serve as serve_until_stopped  # noqa: PLC0415

    policy = _policy(policy_file, policy_key)
    beside = _view(screen, home) if tui else None
    if beside is None:
        screen.serve()
    options = ConnectOptions(
        enclaves=enclaves,
        credential_file=credential,
        home=home.absolute(),
        policy=policy,
        host=listen.host,
        port=listen.port,
        models=_pins(pins),
        verify_every_s=verify_every_s,
        origins=origins,
        retry=retry,
        key_set_at_least=key_set_at_least,
        all_users=all_users,
        allow_simulated=allow_simulated,
        sealed=sealed,
    )
    serve_until_stopped(options, ready=lambda running: _show(screen, running), beside=beside)


def _policy(file: Path | None, key: str | None) -> "AppraisalPolicy | None":
    """Return the policy in a file, which this key must have signed; None for that of the consumer file."""
    from aigovtool.cli.appraisal.policy_file import read_policy  # noqa: PLC0415

    if file is None and key is not None:
        raise wrong_usage("--policy-key goes with --policy")
    return None if file is None else read_policy(file, key, option="--policy-key")


def _view(screen: Screen, home: Path) -> "Beside":
    """Return what shows the gateway on this terminal; what it logs does not run across that."""
    from aigovtool.cli.connect.view import shown_beside  # noqa: PLC0415
    from aigovtool.crypto.keyfile import make_private_directory  # noqa: PLC0415

    canvas = screen.canvas
    if canvas is None:
        raise wrong_usage("--tui draws on a terminal, and the output goes to none that can be drawn on")
    make_private_directory(home.absolute())
    screen.serve(open_log(home / LOG))
    return shown_beside(canvas, home / LOG)


def _pins(pairs: tuple[str, ...]) -> "Mapping[str, str]":
    pins = {}
    for pair in pairs:
        name, sign, digest = pair.partition("=")
        if not sign:
            raise wrong_usage(f"{pair[:80]!r} is not NAME=DIGEST")
        pins[name] = digest
    return pins


def _show(screen: Screen, running: "Running") -> None:
    members = running.fleet.members
    serving = Serving(
        url=running.url,
        consumer=running.credential.consumer,
        simulated=any(one.session is not None and one.session.result.body.tee.value == "simulated" for one in members),
        enclaves=[
            ServedEnclave(
                enclave=one.url,
                state=one.state.value,
                tee=None if one.session is None else one.session.result.body.tee.value,
                memory_encryption=one.session is not None and one.session.result.body.memory_encryption,
                instance=None if one.session is None else one.session.instance,
                models={} if one.session is None else dict(sorted(one.session.models.items())),
                why=None if one.trouble is None else one.trouble.message,
            )
            for one in members
        ],
    )
    if serving.simulated:
        screen.banner()
    screen.show(serving, lambda: _render(screen, serving))


def _render(screen: Screen, serving: Serving) -> None:
    screen.line(f"{serving.consumer}: programs on this machine use {serving.url}", "bold")
    for one in serving.enclaves:
        if one.tee is None:
            screen.line(f"  {one.enclave}  {one.state}: {one.why}", "red")
            continue
        platform = tee_name(one.tee, encrypted=one.memory_encryption)
        screen.line(f"  {one.enclave}  {one.state}, {platform}, instance {short(one.instance or '')}")
        for model, manifest in one.models.items():
            screen.line(f"    {model}  {manifest}")
    screen.line(f"Status: {serving.url}/  Try: curl {serving.url}/v2/models/{_first(serving)}")


def _first(serving: Serving) -> str:
    return next((model for one in serving.enclaves for model in one.models), "MODEL")
