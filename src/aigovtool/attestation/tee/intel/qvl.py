"""Intel's rules for platforms, by the library dcap-qvl (spec: attestation/intel, section 3, step `platform`).

The library verifies a quote as a whole, and once more everything that the other steps have verified. What only it
judges is Intel's own: whether the quoting enclave has the identity that Intel published, and which TCB level a platform
has. It ends at its first objection, in words; here each kind of objection has a stable reason.

It is compiled code (Rust), is asked only about bytes that were read strictly and whose signatures hold, fetches
nothing, and is told the time.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import dcap_qvl  # type: ignore[import-untyped]  # it has stubs, but does not say so
import msgspec

from aigovtool.attestation.tee.intel.collateral import Collateral
from aigovtool.errors import EvidenceError

T = TypeVar("T")

#: How an objection begins, and its reason. The first that fits counts.
_OBJECTIONS: Final = (
    ("No matching TCB level found", "tcb_level"),
    ("SGX component count mismatch", "tcb_level"),
    ("TDX component count mismatch", "tcb_level"),
    ("Failed to evaluate the current TDX TCB", "tcb_level"),
    ("TCB status is invalid: Revoked", "tcb_revoked"),
    ("Fmspc mismatch", "tcb_platform"),
    ("TDX quote with non-TDX TCB info", "tcb_kind"),
    ("SGX quote with non-SGX TCB info", "tcb_kind"),
    ("TDX module", "tdx_module"),
    ("Unsupported QE Identity", "qe_identity"),
    ("QE MRSIGNER mismatch", "qe_identity"),
    ("QE ISVPRODID mismatch", "qe_identity"),
    ("QE MISCSELECT mismatch", "qe_identity"),
    ("QE ATTRIBUTES mismatch", "qe_identity"),
    ("QE report validation failed", "qe_identity"),
    ("QE ISVSVN", "qe_level"),
    ("No TCB levels found in QE Identity", "qe_level"),
    ("Failed to decode TcbInfo", "document_encoding"),
    ("Failed to decode QeIdentity", "document_encoding"),
    ("Unrecognized TCB status", "document_encoding"),
    ("Failed to parse platform TCB date", "document_encoding"),
    ("Debug mode is enabled", "debug"),
    ("SEPT_VE_DISABLE is not enabled", "td_sept_ve"),
    ("TD profiling is enabled", "td_attributes"),
    ("TD migration is enabled", "td_attributes"),
    ("SERVTD_EXT is enabled", "td_attributes"),
    ("Reserved bits in TD attributes", "td_attributes"),
    ("Invalid MR service TD", "td_service"),
)

#: What a TCB can be called when a part of it is out of date.
_OUT_OF_DATE: Final = frozenset(
    {
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "TDRelaunchAdvised",
        "TDRelaunchAdvisedConfigurationNeeded",
    }
)


class Level(msgspec.Struct, frozen=True, rename="camel"):
    """A TCB level, as Intel writes it: of a platform or of a quoting enclave."""

    tcb_status: str
    advisory_ids: tuple[str, ...] = msgspec.field(name="advisoryIDs")


class _QuotingEnclave(msgspec.Struct, frozen=True):
    tcb_level: Level


class _Tcb(msgspec.Struct, frozen=True):
    status: str
    advisory_ids: tuple[str, ...]
    eval_data_number: int


class Pck(msgspec.Struct, frozen=True):
    """What the PCK certificate says of the platform. Flags are `True`, `False` or `Undefined`."""

    ppid: tuple[int, ...]
    pce_svn: int
    pce_id: tuple[int, ...]
    fmspc: tuple[int, ...]
    sgx_type: int
    dynamic_platform: str
    cached_keys: str
    smt_enabled: str


class _Platform(msgspec.Struct, frozen=True):
    pck: Pck
    tcb_level: Level
    tcb_date_tag: int


class Claims(msgspec.Struct, frozen=True):
    """What the library found.

    `tcb` is its verdict over platform and quoting enclave together; `report` has the fields of the quote's body, by the
    library's name for the kind of body.
    """

    tcb: _Tcb
    platform: _Platform
    qe: _QuotingEnclave
    report: dict[str, dict[str, object]]


def judged(quote: bytes, collateral: Collateral, root: bytes, now_ms: int) -> Claims:
    """Return what the library finds in a quote that it holds to be genuine at `now_ms`.

    Args:
        quote: as it came.
        collateral: as it was read.
        root: the pinned root's DER encoding.
        now_ms: milliseconds since 1970; the library counts whole seconds.

    Raises:
        EvidenceError: with the reason of the objection, `quote_not_genuine` for one that is not known here.
    """
    parts = dcap_qvl.QuoteCollateralV3(
        collateral.pck_crl_issuer_chain,
        bytes.fromhex(collateral.root_ca_crl),
        bytes.fromhex(collateral.pck_crl),
        collateral.tcb_info_issuer_chain,
        collateral.tcb_info,
        bytes.fromhex(collateral.tcb_info_signature),
        collateral.qe_identity_issuer_chain,
        collateral.qe_identity,
        bytes.fromhex(collateral.qe_identity_signature),
    )
    seconds = now_ms // 1000
    # Nothing is allowed or refused by the library's policy: ours judges what it found.
    policy = dcap_qvl.QuotePolicy.claims_only(seconds)
    verifier = dcap_qvl.QuoteVerifier(root)
    found = _guarded(lambda: verifier.verify_with_policy(quote, parts, seconds, policy).to_json())
    claims = msgspec.json.decode(found, type=Claims)
    _require_consistent(claims)
    return claims


def _require_consistent(claims: Claims) -> None:
    """Require that the verdict is no better than its parts: what is out of date must show in it."""
    parts = {claims.platform.tcb_level.tcb_status, claims.qe.tcb_level.tcb_status}
    if parts & _OUT_OF_DATE and claims.tcb.status not in _OUT_OF_DATE:
        raise EvidenceError("the verdict hides that a part of the TCB is out of date", reason="verdict_inconsistent")


def platform_of(pck_chain: bytes) -> str:
    """Return the FMSPC (12 hexadecimal digits, upper case) in the leaf of a PCK chain in PEM; nothing is verified.

    Raises:
        EvidenceError: `pck_extension`.
    """
    try:
        return bytes(_guarded(lambda: dcap_qvl.parse_pck_extension_from_pem(pck_chain).fmspc)).hex().upper()
    except EvidenceError:
        raise EvidenceError("the PCK certificate names no platform", reason="pck_extension") from None


def _guarded(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except ValueError as error:
        objection = str(error).removeprefix("Verification failed: ")
        reason = next((name for start, name in _OBJECTIONS if objection.startswith(start)), "quote_not_genuine")
        raise EvidenceError(f"Intel's rules: {_plain(objection)}", reason=reason) from None
    except BaseException as error:
        # A failed assertion in compiled code is no `Exception`; to us it is one more way to say no.
        if type(error).__name__ != "PanicException":
            raise
        raise EvidenceError("the library for Intel's quotes broke off", reason="quote_not_genuine") from None


def _plain(objection: str) -> str:
    """Return the first line, printable and short."""
    line = objection.split("\n", 1)[0][:200]
    return "".join(character if character.isprintable() else "?" for character in line)
