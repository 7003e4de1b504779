"""`aigovtool reference-values`: which builds of the enclave exist, who measured them, and which are retired.

A library is a file that belongs under version control. Records are added and retired, never changed or removed; what a
policy accepts is taken from those in use. Whoever publishes one signs it, and others check the signature.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from msgspec import Struct

from aigovtool.cli.appraisal.policy_file import read_policy
from aigovtool.cli.document import write_document
from aigovtool.cli.evidence.genuine import genuine, genuine_options, require_idle
from aigovtool.cli.evidence.verb import TEES
from aigovtool.cli.reference.library import read_library
from aigovtool.cli.reference.names import named_values
from aigovtool.cli.screen import Screen
from aigovtool.cli.seen import require_newest
from aigovtool.cli.signing import sign_document
from aigovtool.cli.verb import ANYTHING, FILE, Verb, VerbGroup, operator_option
from aigovtool.cli.words import when
from aigovtool.errors import ConfigurationError

if TYPE_CHECKING:
    from aigovtool.attestation.policy import ReferenceSet
    from aigovtool.attestation.reference_values import ReferenceRecord

_FILE: Final = Path("reference-values.json")
library_option = click.option("--library", type=FILE, default=_FILE, show_default=True, help="The library's file.")
tee_option = click.option("--tee", type=click.Choice(TEES), required=True, help="For which TEE.")


class Record(Struct, frozen=True, kw_only=True):
    """One build for one TEE; `retired_ms` and `retired_because` are null while it is in use."""

    tee: str
    entry: str | None
    label: str
    values: dict[str, str]
    origin: str
    added_ms: int
    retired_ms: int | None
    retired_because: str | None


class Library(Struct, frozen=True, kw_only=True):
    """A library of reference values; `signed_by` is the key that was checked, and null where none was given."""

    version: int
    records: list[Record]
    signed_by: str | None = None


class Applied(Struct, frozen=True, kw_only=True):
    """A policy that was made of another one and a library: its builds by entry, and which are accepted no more."""

    version: int
    file: str
    builds: dict[str, list[str]]
    gone: dict[str, list[str]]


@click.group("reference-values", cls=VerbGroup, example="aigovtool reference-values list")
def reference_values() -> None:
    """Which builds of the enclave are known: add, list, retire, sign, and put into a policy."""


@reference_values.command(
    cls=Verb,
    example='aigovtool reference-values add "release 7" --tee sev-snp --from report.bin --origin "our lab"',
)
@click.argument("label")
@tee_option
@click.option("--value", "values", multiple=True, metavar="NAME=HEX", help="A measurement of this build; repeat.")
@click.option("--from", "source", type=ANYTHING, help="Take them from genuine evidence of it.")
@genuine_options
@click.option("--entry", metavar="LABEL", help="For which entry of the policy, where it has several for this TEE.")
@click.option("--origin", required=True, help="Who measured this build, and how: it is for auditors.")
@library_option
@click.pass_obj
def add(
    screen: Screen,
    /,
    *,
    label: str,
    tee: str,
    values: tuple[str, ...],
    source: Path | None,
    entry: str | None,
    origin: str,
    library: Path,
    **options: Any,  # noqa: ANN401 - those of `genuine_options`
) -> None:
    """Add the measurements of a build, as they were computed or as genuine evidence of it says.

    A label is given once, also after its build was retired.
    """
    from aigovtool.attestation.reference_values import ReferenceLibrary, ReferenceRecord, added  # noqa: PLC0415
    from aigovtool.codec import convert  # noqa: PLC0415

    if (source is None) == (not values):
        # Options that do not go together are wrong usage, not a wrong value.
        raise ConfigurationError(
            "measurements come from --value or from --from", reason="no_values", fix="give one of the two"
        )
    if source is None:
        require_idle(options)
        found = named_values(tee, values)
    else:
        found = {part.name: part.digest for part in genuine(screen, source, tee, **options).measurements}
    known = read_library(library) if library.exists() else ReferenceLibrary()
    record = convert(
        {
            "tee": tee,
            "values": {"label": label, "values": [{"name": name, "digest": hex_} for name, hex_ in found.items()]},
            "origin": origin,
            "added_at_ms": time.time_ns() // 1_000_000,
            "entry": entry,
        },
        ReferenceRecord,
    )
    changed = added(known, record)
    write_document(library, changed, replace=library.exists())
    shown = _of(record)

    def render() -> None:
        screen.facts([(name, digest) for name, digest in shown.values.items()])
        screen.line(f"{label} is in {library}, version {changed.version}", style="green")

    screen.show(shown, render)


@reference_values.command("list", cls=Verb, example="aigovtool reference-values list --library reference-values.json")
@library_option
@click.option("--signer", metavar="HEX", help="Only if it is signed with this key.")
@click.pass_obj
def list_(screen: Screen, *, library: Path, signer: str | None) -> None:
    """List all builds, with those that were retired and why."""
    found = read_library(library, signer, option="--signer")
    shown = Library(version=found.version, records=[_of(record) for record in found.records], signed_by=signer)

    def render() -> None:
        rows = [
            (one.tee, one.entry or "-", one.label, _values(one), one.origin, when(one.added_ms), _state(one))
            for one in shown.records
        ]
        signed = "" if signer is None else ", signed with that key"
        screen.line(f"version {shown.version}{signed}")
        screen.table(("tee", "entry", "build", "measurements", "origin", "added", "state"), rows, "no builds yet")

    screen.show(shown, render)


@reference_values.command(
    cls=Verb, example='aigovtool reference-values retire "release 6" --tee sev-snp --reason "CVE-2026-1"'
)
@click.argument("label")
@tee_option
@click.option("--reason", required=True, help="Why it is not accepted any more.")
@library_option
@click.pass_obj
def retire(screen: Screen, *, label: str, tee: str, reason: str, library: Path) -> None:
    """Take a build out of use; its record stays, with the reason.

    Enclaves are refused once a policy without it is in force: `reference-values apply`, then `appraisal set`.
    """
    from aigovtool.attestation.model import TeeType  # noqa: PLC0415
    from aigovtool.attestation.reference_values import Retirement, retired  # noqa: PLC0415
    from aigovtool.codec import convert  # noqa: PLC0415

    retirement = convert({"at_ms": time.time_ns() // 1_000_000, "reason": reason}, Retirement)
    changed = retired(read_library(library), TeeType(tee), label, retirement)
    write_document(library, changed, replace=True)
    record = next(one for one in changed.records if (one.tee.value, one.values.label) == (tee, label))
    screen.show(
        _of(record),
        lambda: screen.line(f"{label} is retired; {library} is version {changed.version} now", style="green"),
    )


@reference_values.command(cls=Verb, example="aigovtool reference-values sign -o reference-values.signed.json")
@library_option
@click.option("-o", "--out", type=FILE, required=True, help="Where the signed library is written.")
@operator_option
@click.pass_obj
def sign(screen: Screen, *, library: Path, out: Path, operator_file: Path | None) -> None:
    """Sign a library with an operator's key, so that others can check who vouches for it."""
    from aigovtool.attestation.reference_values import REFERENCE_VALUES  # noqa: PLC0415

    found = read_library(library)
    sign_document(screen, out, REFERENCE_VALUES, found, version=found.version, operator_file=operator_file)


@reference_values.command(cls=Verb, example="aigovtool reference-values apply policy.json -o next.json")
@click.argument("policy_file", metavar="POLICY.json", type=FILE)
@library_option
@click.option("--signer", metavar="HEX", help="Only if the library is signed with this key.")
@click.option("--seen", type=FILE, help="Remember the newest version of the library here; refuse an older one.")
@click.option("-o", "--out", type=FILE, required=True, help="Where the next version of the policy is written.")
@click.pass_obj
def apply(
    screen: Screen, *, policy_file: Path, library: Path, signer: str | None, seen: Path | None, out: Path
) -> None:
    """Make the next version of a policy, which accepts the builds in use and no other.

    `aigovtool appraisal set` puts it in force. Give --seen where the library comes from somebody else: an older copy of
    it does not know yet what was retired since.
    """
    from aigovtool.attestation.reference_values import with_reference_values  # noqa: PLC0415

    known = read_library(library, signer, option="--signer")
    old = read_policy(policy_file)
    policy = with_reference_values(old, known)
    if seen is not None:
        require_newest(known, seen)
    write_document(out, policy, replace=False)
    builds = {entry.name: [known.label for known in entry.reference_values] for entry in policy.accepted}
    before = {entry.name: [known.label for known in entry.reference_values] for entry in old.accepted}
    gone = {name: [label for label in labels if label not in builds[name]] for name, labels in before.items()}
    shown = Applied(version=policy.version, file=str(out), builds=builds, gone=gone)

    def render() -> None:
        rows = [(name, ", ".join(labels), ", ".join(gone[name]) or "-") for name, labels in builds.items()]
        screen.table(("tee", "builds accepted", "no more"), rows, "")
        screen.line(f"version {shown.version} is in {out}; next: aigovtool appraisal set {out}")

    screen.show(shown, render)


def _of(record: "ReferenceRecord") -> Record:
    return Record(
        tee=record.tee.value,
        entry=record.entry,
        label=record.values.label,
        values=_digests(record.values),
        origin=record.origin,
        added_ms=record.added_at_ms,
        retired_ms=None if record.retired is None else record.retired.at_ms,
        retired_because=None if record.retired is None else record.retired.reason,
    )


def _digests(values: "ReferenceSet") -> dict[str, str]:
    found = {str(one.name): str(one.digest) if isinstance(one.digest, str) else "not checked" for one in values.values}
    return {**found, **{str(rule.register): "by its log" for rule in values.events}}


def _values(record: Record) -> str:
    return ", ".join(f"{name} {digest}" for name, digest in record.values.items())


def _state(record: Record) -> str:
    if record.retired_ms is None:
        return "in use"
    return f"retired {when(record.retired_ms)}: {record.retired_because}"
