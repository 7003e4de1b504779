"""`aigovtool enclave`: run an enclave on this host, and say what it would measure."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from msgspec import Struct

from aigovtool.cli.address import LISTEN, Address
from aigovtool.cli.credentials import read_borrower
from aigovtool.cli.screen import UNENCRYPTED, Screen
from aigovtool.cli.verb import DIRECTORY, FILE, Verb, VerbGroup, wrong_usage
from aigovtool.limits import MAX_RUNS_AT_ONCE, MAX_THREADS_PER_RUN

if TYPE_CHECKING:
    from aigovtool.attestation.model import Evidence
    from aigovtool.enclave.app import TpmOptions
    from aigovtool.enclave.boot import Instance

_SIMULATED = "simulated"
_TPM = "tpm"
_EVENT_LOG = "/sys/kernel/security/tpm0/binary_bios_measurements"


class Found(Struct, frozen=True, kw_only=True):
    """Whether a platform is here to be used, and in words why so."""

    tee: str
    usable: bool
    detail: str


class Looked(Struct, frozen=True, kw_only=True):
    """Every platform that was looked for."""

    platforms: list[Found]


class Written(Struct, frozen=True, kw_only=True):
    """Evidence that was written to a file, in this program's own form."""

    tee: str
    file: str
    bytes: int
    endorsements: int


class Measured(Struct, frozen=True, kw_only=True):
    """What a TEE reports of this program."""

    tee: str
    simulated: bool
    measurement: str


class NotServing(Struct, frozen=True, kw_only=True):
    """A model that was asked for and is not served, and why."""

    model: str
    code: str
    reason: str | None


class Serving(Struct, frozen=True, kw_only=True):
    """An instance that serves: where, and the manifest digests of its models."""

    url: str
    instance: str
    tee: str
    simulated: bool
    models: dict[str, str]
    not_served: list[NotServing]


@click.group(cls=VerbGroup, example="aigovtool enclave measure")
def enclave() -> None:
    """Run borrowed models in an enclave on this host."""


_TEE_OPTIONS = (
    click.option(
        "--tee",
        type=click.Choice(["auto", "sev-snp", "tdx", "sgx", "nitro", _TPM, _SIMULATED]),
        default="auto",
        show_default=True,
        help="Which TEE; auto takes the one that is here, and never a TPM or the simulated one.",
    ),
    click.option("--allow-simulated", is_flag=True, help="DEVELOPMENT ONLY: confirm --tee simulated."),
    click.option(
        "--tpm", metavar="DEVICE", default="/dev/tpmrm0", show_default=True, help="With --tee tpm: a device, or a TCTI."
    ),
    click.option(
        "--tpm-bank",
        type=click.Choice(["sha256", "sha384"]),
        default="sha256",
        show_default=True,
        help="With --tee tpm: the bank of PCRs that is quoted.",
    ),
    click.option(
        "--tpm-event-log",
        metavar="FILE",
        default=_EVENT_LOG,
        show_default=True,
        help="With --tee tpm: the firmware's log of what it measured, or none.",
    ),
    click.option(
        "--tpm-issuers", type=FILE, help="With --tee tpm: the certificates between the TPM's and its maker's root."
    ),
    click.option("--tpm-certificate", type=FILE, help="With --tee tpm: the TPM's certificate, if it does not hold it."),
)


def _tee_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which TEE, and where it is; `_require_fitting` looks at them."""
    for option in reversed(_TEE_OPTIONS):
        function = option(function)
    return function


@enclave.command(
    cls=Verb,
    example="aigovtool enclave serve --borrower-file st-mary.json --model xray --listen 0.0.0.0:8443",
)
@_tee_options
@click.option("--borrower-file", type=FILE, required=True, help="The file from `aigovtool borrower add`.")
@click.option("--model", "models", multiple=True, required=True, help="Model to serve; repeat for more.")
@click.option("--listen", type=LISTEN, default="127.0.0.1:8443", show_default=True, help="HOST:PORT to accept on.")
@click.option("--cache", type=DIRECTORY, default=Path("aigovtool-cache"), show_default=True, help="For ciphertext.")
@click.option(
    "--runs-at-once",
    type=click.IntRange(1, MAX_RUNS_AT_ONCE),
    help="How many inferences are computed at once; each takes memory.  [default: one for each core, at least 2]",
)
@click.option(
    "--threads-per-run",
    type=click.IntRange(1, MAX_THREADS_PER_RUN),
    default=1,
    show_default=True,
    help="Threads of one inference: more give answers sooner while few ask, and fewer answers while many do.",
)
@click.pass_obj
def serve(
    screen: Screen,
    /,
    *,
    tee: str,
    borrower_file: Path,
    models: tuple[str, ...],
    listen: Address,
    cache: Path,
    allow_simulated: bool,
    runs_at_once: int | None,
    threads_per_run: int,
    **tpm: Any,  # noqa: ANN401 - click's
) -> None:
    """Attest to the custodian, get the models' keys, and serve until interrupted.

    A model that the custodian refuses, that is damaged or that ends the engine again and again is left out, and said to
    be; the others are served. Models are loaded in the order in which they are named.

    A TPM shows what was booted and encrypts no memory, so it is used only if it is named.
    """
    from aigovtool.enclave.app import EnclaveOptions  # noqa: PLC0415
    from aigovtool.enclave.app import serve as run  # noqa: PLC0415

    _require_fitting(tee, allow_simulated=allow_simulated)
    options = EnclaveOptions(
        tee=tee,
        allow_simulated=allow_simulated,
        borrower_file=borrower_file,
        models=models,
        host=listen.host,
        port=listen.port,
        cache=cache,
        tpm=_tpm_options(**tpm),
        runs_at_once=runs_at_once,
        threads_per_run=threads_per_run,
    )
    read_borrower(borrower_file)  # says which kind of file it is, if it is another
    screen.serve()
    screen.go_on()  # each boot is told
    _warn(screen, tee)
    run(options, ready=lambda url, instance: _tell(screen, url, instance))


@enclave.command(cls=Verb, example="aigovtool enclave evidence -o evidence.json")
@_tee_options
@click.option("-o", "--out", type=FILE, required=True, help="Where the evidence is written.")
@click.pass_obj
def evidence(screen: Screen, /, *, tee: str, allow_simulated: bool, out: Path, **tpm: Any) -> None:  # noqa: ANN401
    """Write down what this platform says of itself, for whoever makes a policy.

    `evidence verify`, `appraisal draft`, `reference-values add --from` and `endorsements fetch` take the file. It is
    bound to nobody's keys, so nobody is admitted with it.
    """
    from aigovtool.cli.document import write_document  # noqa: PLC0415
    from aigovtool.enclave.app import attester_for  # noqa: PLC0415
    from aigovtool.enclave.sample import sample_evidence  # noqa: PLC0415

    _require_fitting(tee, allow_simulated=allow_simulated)
    _warn(screen, tee)
    made = sample_evidence(attester_for(tee, _tpm_options(**tpm), allow_simulated=allow_simulated))
    write_document(out, made, replace=False)
    _say_events(screen, made)
    shown = Written(tee=made.tee.value, file=str(out), bytes=len(made.data), endorsements=len(made.endorsements))
    screen.show(
        shown,
        lambda: screen.facts(
            [
                ("tee", shown.tee),
                ("evidence", f"{shown.bytes:,} bytes, with {shown.endorsements} endorsements"),
                ("written to", shown.file),
            ]
        ),
    )


def _require_fitting(tee: str, *, allow_simulated: bool) -> None:
    """Refuse options of another TEE than the one that is named, and keep the library of TPMs quiet."""
    context = click.get_current_context()
    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name.startswith("tpm") and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given and tee != _TPM:
        raise wrong_usage(f"{' and '.join(given)} without --tee tpm: no TPM would be used")
    if allow_simulated and tee != _SIMULATED:
        raise wrong_usage("--allow-simulated without --tee simulated: no simulated TEE would be used")
    # Read when the library is loaded. What it would print is told again by our own errors.
    os.environ.setdefault("TSS2_LOG", "all+none")


def _say_events(screen: Screen, evidence: "Evidence") -> None:
    """Say of how many registers of a TPM the events are sent; who makes a policy would look for them."""
    from aigovtool.attestation.tee.tpm.evidence import unwrap  # noqa: PLC0415

    if evidence.tee.value != _TPM:
        return
    made = unwrap(evidence.data)
    told, quoted = len(made.events.registers), len(made.pcrs)
    screen.note(f"the event log gives {told} of {quoted} registers: {'their' if told else 'no'} events are sent")


def _tpm_options(
    *, tpm: str, tpm_bank: str, tpm_event_log: str, tpm_issuers: Path | None, tpm_certificate: Path | None
) -> "TpmOptions":
    from aigovtool.enclave.app import TpmOptions  # noqa: PLC0415

    return TpmOptions(
        tcti=tpm,
        bank=tpm_bank,
        event_log=None if tpm_event_log == "none" else Path(tpm_event_log),
        issuers=tpm_issuers,
        ek_certificate=tpm_certificate,
    )


def _tell(screen: Screen, url: str, instance: "Instance") -> None:
    """Say what is served, and what of that which was asked for is not."""
    screen.note(f"serving {', '.join(instance.models)} on {url}")
    for one in instance.not_served.values():
        why = f"{one.code}: {one.reason}" if one.reason else one.code
        screen.note(f"NOT serving {one.model} ({why})")
    tee = instance.admission.tee.value
    screen.announce(
        Serving(
            url=url,
            instance=instance.instance,
            tee=tee,
            simulated=tee == _SIMULATED,
            models={name: served.offer.manifest for name, served in instance.models.items()},
            not_served=[
                NotServing(model=one.model, code=one.code, reason=one.reason or None)
                for one in instance.not_served.values()
            ],
        )
    )


def _warn(screen: Screen, tee: str) -> None:
    if tee == _SIMULATED:
        screen.banner()
    elif tee == _TPM:
        screen.banner(UNENCRYPTED)


@enclave.command(cls=Verb, example="aigovtool enclave measure --json")
@click.pass_obj
def measure(screen: Screen) -> None:
    """Show what the simulated TEE measures of this installation: its reference value.

    Reference values of hardware TEEs belong to an enclave image, not to an installation.
    """
    from aigovtool.testing.simulated_tee.attester import measure as measure_program  # noqa: PLC0415

    found = Measured(tee=_SIMULATED, simulated=True, measurement=measure_program())
    screen.banner()
    screen.show(found, lambda: screen.facts([("tee", found.tee), ("measurement", found.measurement)]))


@enclave.command(cls=Verb, example="aigovtool enclave detect")
@click.pass_obj
def detect(screen: Screen) -> None:
    """Show which TEEs are here: what `serve --tee auto` looks for, and what it finds."""
    from aigovtool.enclave.attesters.detect import look  # noqa: PLC0415

    found = [Found(tee=one.tee.value, usable=one.usable, detail=one.detail) for one in look()]

    def render() -> None:
        rows = [(one.tee, "yes" if one.usable else "no", one.detail) for one in found]
        screen.table(("tee", "usable", "found"), rows, "")

    screen.show(Looked(platforms=found), render)
