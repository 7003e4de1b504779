"""`aigovtool evidence`: is evidence genuine, and is it acceptable; offline, with everything that was checked.

Two questions, kept apart: *verifying* asks whether a platform made this evidence, *appraising* whether a policy accepts
what it says. Everything that is checked is listed, also after something has failed. Exit code 5 is the answer no.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from aigovtool.cli.appraisal.policy_file import read_policy
from aigovtool.cli.endorsements.answers import read_answers, with_answers
from aigovtool.cli.evidence.advice import FIXES
from aigovtool.cli.evidence.files import read_evidence, read_roots
from aigovtool.cli.evidence.verdict import Verdict, checks_of, first_failed, said_of, show_verdict, steps_of
from aigovtool.cli.screen import Screen
from aigovtool.cli.seen import require_newest
from aigovtool.cli.verb import ANYTHING, FILE, Verb, VerbGroup, wrong_usage
from aigovtool.errors import EvidenceError, InvalidValueError, VerificationError

if TYPE_CHECKING:
    from aigovtool.attestation.examination import Examined
    from aigovtool.attestation.model import Evidence, TeeType
    from aigovtool.attestation.policy import AppraisalPolicy
    from aigovtool.attestation.verifier import Verifier

#: What evidence may be of.
TEES: Final = ("sev-snp", "tdx", "sgx", "nitro", "tpm", "simulated")
#: Seconds since 1970 have ten digits until the year 2286, milliseconds thirteen.
_SECONDS_BELOW: Final = 10**11
AT_HELP: Final = (
    "As of when it is judged: a day, ISO 8601 with a zone, or seconds or milliseconds since 1970.  [default: now]"
)
_ROOTS: Final = "Not the vendor's roots: whoever made these keys made what they certify."


@click.group(cls=VerbGroup, example="aigovtool evidence verify report.bin --tee sev-snp --endorsements vcek.der")
def evidence() -> None:
    """Evidence of TEEs: verify it, and appraise it by a policy."""


@evidence.command(cls=Verb, example="aigovtool evidence verify quote.bin --tee tdx --endorsements collateral.json")
@click.argument("file", metavar="FILE", type=ANYTHING)
@click.option("--tee", type=click.Choice(TEES), help="Whose evidence it is, where the file does not say.")
@click.option(
    "--endorsements",
    multiple=True,
    type=ANYTHING,
    help="Certificates, lists, certificate table or collateral: DER, PEM or JSON, or a directory of them; repeat.",
)
@click.option("--fetched", type=FILE, help="What `aigovtool endorsements fetch` wrote.")
@click.option("--event-log", type=FILE, help="The firmware's event log of a TD (CCEL), to compare with its RTMRs.")
@click.option("--at", metavar="TIME", help=AT_HELP)
@click.option("--policy", "policy_file", type=FILE, help="Appraise by the policy in this file, too.")
@click.option("--policy-signer", metavar="HEX", help="The public key that is to have signed that policy.")
@click.option("--policy-seen", type=FILE, help="Remember the newest version of that policy here; refuse an older one.")
@click.option("--report-data", metavar="HEX", help="The report data that you expect; zeros may be left out at its end.")
@click.option("--nonce", metavar="HEX", help="The nonce in a TPM quote that another program asked for.")
@click.option("--root", "roots", multiple=True, type=FILE, help="Believe these roots, not the vendor's; repeat.")
@click.pass_context
def verify(
    context: click.Context,
    *,
    file: Path,
    tee: str | None,
    endorsements: tuple[Path, ...],
    fetched: Path | None,
    event_log: Path | None,
    at: str | None,
    policy_file: Path | None,
    policy_signer: str | None,
    policy_seen: Path | None,
    report_data: str | None,
    nonce: str | None,
    roots: tuple[Path, ...],
) -> None:
    """Verify evidence, and appraise it if a policy is given.

    FILE is what the platform gave (a report, quote or document, also in base64), evidence in this program's own JSON,
    an attestation of go-tpm-tools, or a directory of files by tpm2-tools. Nothing is fetched. Every step is listed with
    the specification that demands it; exit code 5 says that one failed.
    """
    from aigovtool.attestation.model import TeeType  # noqa: PLC0415

    screen: Screen = context.obj
    _require_policy(policy_file, {"--policy-signer": policy_signer, "--policy-seen": policy_seen})
    at_ms = moment_ms(at)
    wanted = None if report_data is None else _report_data(report_data)
    policy = None if policy_file is None else read_policy(policy_file, policy_signer, option="--policy-signer")
    if policy is not None and policy_seen is not None:
        require_newest(policy, policy_seen)
    found = read_evidence(None if tee is None else TeeType(tee), file, endorsements, event_log)
    if fetched is not None:
        found = with_answers(found, read_answers(fetched))
    warn_roots(screen, found.tee, roots)
    verifier = verifier_for(found.tee, roots, nonce)
    verdict = judge(found, verifier.examine(found, at_ms), at_ms, policy)
    if wanted is not None and verdict.genuine:
        verdict = _compared(verdict, wanted)
    screen.show(verdict, lambda: show_verdict(screen, verdict))
    if not verdict.genuine or verdict.acceptable is False:
        context.exit(VerificationError.exit_code)


def _require_policy(policy_file: Path | None, options: Mapping[str, object]) -> None:
    """Refuse options that are about a policy where none is given: whoever gives them believes that one is checked."""
    idle = [name for name, value in options.items() if value is not None]
    if policy_file is None and idle:
        raise wrong_usage(f"{' and '.join(idle)} without --policy: there is no policy to look at")


def warn_roots(screen: Screen, tee: "TeeType", roots: Sequence[Path]) -> None:
    """Say in red that a verdict is not what it would be with the vendor's roots."""
    if tee.value == "simulated":
        screen.banner()
    if roots:
        screen.banner(_ROOTS)


def judge(evidence: "Evidence", examined: "Examined", at_ms: int, policy: "AppraisalPolicy | None") -> Verdict:
    """Return what an examination found, and what a policy says about it."""
    from aigovtool import __version__  # noqa: PLC0415
    from aigovtool.attestation.appraisal import examine  # noqa: PLC0415
    from aigovtool.attestation.ear import claims_of  # noqa: PLC0415

    verified = examined.verified
    steps = steps_of(examined)
    failed = first_failed(steps)
    reason = None if failed is None else failed.reason
    verdict = Verdict(
        tee=evidence.tee.value,
        at_ms=at_ms,
        genuine=verified is not None,
        reason=reason,
        fix=None if reason is None else FIXES.get(reason),
        steps=steps,
        says=None if verified is None else said_of(verified),
    )
    if verified is None or policy is None:
        return verdict
    body = examine(verified, policy, at_ms)
    checks = checks_of(body)
    refused = first_failed(checks)
    return Verdict(
        tee=verdict.tee,
        at_ms=at_ms,
        genuine=True,
        reason=None,
        steps=steps,
        says=verdict.says,
        policy=body.appraisal_policy,
        policy_version=body.policy_version,
        acceptable=refused is None,
        refused=None if refused is None else refused.name,
        checks=checks,
        result=claims_of(body, verified, build=__version__),
    )


def verifier_for(tee: "TeeType", root_files: Sequence[Path] = (), nonce: str | None = None) -> "Verifier":
    """Return the verifier of a platform, with the vendor's roots or with those in files.

    Raises:
        ConfigurationError: a file cannot be read (`unreadable_file`).
        InvalidValueError: such roots cannot be given for it, or are no certificates (`bad_root`); `bad_hex`.
        click.UsageError: a nonce is given for another platform than a TPM.
    """
    asked = None if nonce is None else _unhex(nonce)
    if asked is not None and tee.value != "tpm":
        raise wrong_usage(f"--nonce is for quotes of a TPM, and this is evidence of {tee.value}")
    try:
        return _verifier(tee, read_roots(root_files), asked)
    except (EvidenceError, ValueError) as error:
        # It is not the evidence that is wrong, so this is no verdict.
        raise InvalidValueError(f"a root cannot be read: {error}", reason="bad_root") from None


def _verifier(tee: "TeeType", roots: Sequence[bytes], asked: bytes | None) -> "Verifier":
    from aigovtool.attestation.model import TeeType  # noqa: PLC0415
    from aigovtool.attestation.tee.catalogue import HARDWARE  # noqa: PLC0415

    match tee:
        case TeeType.SIMULATED:
            from aigovtool.testing.simulated_tee.verify import SimulatedVerifier  # noqa: PLC0415

            return SimulatedVerifier()
        case TeeType.TPM:
            return _tpm_verifier(roots, asked)
        case _ if not roots:
            return HARDWARE[tee]()
        case TeeType.NITRO:
            from hashlib import sha256  # noqa: PLC0415

            from aigovtool.attestation.tee.nitro.verify import NitroVerifier  # noqa: PLC0415

            return NitroVerifier(roots=[sha256(root).hexdigest() for root in roots])
        case TeeType.SEV_SNP:
            from aigovtool.attestation.tee.snp.authorities import authorities_of  # noqa: PLC0415
            from aigovtool.attestation.tee.snp.verify import SnpVerifier  # noqa: PLC0415

            return SnpVerifier(authorities_of(roots))
        case TeeType.SGX | TeeType.TDX if len(roots) == 1:
            from aigovtool.attestation.tee.intel.verify import SgxVerifier, TdxVerifier  # noqa: PLC0415

            return SgxVerifier(roots[0]) if tee is TeeType.SGX else TdxVerifier(roots[0])
        case _:
            raise InvalidValueError(f"other roots for {tee.value} cannot be given so", reason="bad_root")


def _tpm_verifier(roots: Sequence[bytes], nonce: bytes | None) -> "Verifier":
    from cryptography import x509  # noqa: PLC0415

    from aigovtool.attestation.tee.tpm.verify import TpmVerifier  # noqa: PLC0415

    certificates = [x509.load_der_x509_certificate(root) for root in roots]
    return TpmVerifier(roots=certificates or None, foreign_nonce=nonce)


def moment_ms(text: str | None) -> int:
    """Return a moment in milliseconds since 1970: now, ISO 8601 with a zone, or a number of seconds or milliseconds.

    Raises:
        InvalidValueError: `bad_time`.
    """
    if text is None:
        return time.time_ns() // 1_000_000
    if text.isdecimal() and len(text) <= 14:
        number = int(text)
        return number * 1000 if number < _SECONDS_BELOW else number
    try:
        moment = datetime.fromisoformat(text)
        if len(text) == len("2026-06-01"):
            moment = moment.replace(tzinfo=UTC)
        return int(_with_zone(moment, text).timestamp() * 1000)
    except ValueError:
        raise InvalidValueError(
            f"{text[:40]!r} is no time", reason="bad_time", fix="use 2026-06-01, 2026-06-01T12:00Z or 1780315200"
        ) from None


def _with_zone(moment: datetime, text: str) -> datetime:
    if moment.tzinfo is None:
        raise InvalidValueError(
            f"{text[:40]!r} does not say its zone", reason="bad_time", fix="add the zone: Z for UTC, or +02:00"
        )
    return moment


def _compared(verdict: Verdict, wanted: bytes) -> Verdict:
    """Add the comparison of the report data as a last step."""
    from msgspec.structs import replace  # noqa: PLC0415

    from aigovtool.attestation.model import REPORT_DATA_BYTES  # noqa: PLC0415
    from aigovtool.cli.evidence.verdict import Made  # noqa: PLC0415

    says = verdict.says
    same = says is not None and says.report_data == wanted.ljust(REPORT_DATA_BYTES, b"\0").hex()
    step = Made(
        name="report_data",
        outcome="passed" if same else "failed",
        detail="" if same else "the report data is not what was expected",
        number=len(verdict.steps) + 1,
        title="the report data is what was expected",
        source="--report-data",
        reason=None if same else "report_data",
    )
    found = replace(verdict, steps=[*verdict.steps, step])
    return found if same else replace(found, genuine=False, reason="report_data", says=None, acceptable=None)


def _report_data(text: str) -> bytes:
    """Return report data that is expected; nothing, or zeros alone, would be found where nothing was bound."""
    from aigovtool.attestation.model import REPORT_DATA_BYTES  # noqa: PLC0415

    data = _unhex(text)
    if not any(data) or len(data) > REPORT_DATA_BYTES:
        raise InvalidValueError(
            f"report data has 1 to {REPORT_DATA_BYTES} bytes, which are not all zero", reason="bad_report_data"
        )
    return data


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise InvalidValueError(f"{text[:40]!r} is not hexadecimal", reason="bad_hex") from None
