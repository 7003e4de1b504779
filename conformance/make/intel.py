"""Vectors of Intel TDX and Intel SGX."""
# ruff: noqa: ANN401 - a maker takes any value of any field

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import msgspec
from cryptography.hazmat.primitives.hashes import SHA384
from tests.attestation.tee.intel import maker
from tests.attestation.tee.intel.maker import DAY, NOW, NOW_MS, SGX, TDX4, TDX5, TDX15, Recipe, but

from aigovtool.attestation.model import Evidence, TeeType, VerifiedEvidence
from aigovtool.attestation.tee.intel.verify import SgxVerifier, TdxVerifier
from aigovtool.codec import encode
from conformance.make.case import Case
from conformance.make.policies import policy_for

_SEPT = 1 << 28
_HOUR = timedelta(hours=1)
STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)


def roots() -> tuple[tuple[str, bytes], ...]:
    """Return the root of the self-made Intel."""
    return (("intel-root.der", maker.root_der()),)


def _case(name: str, title: str, made: Recipe | Evidence, **more: Any) -> Case:
    evidence = maker.evidence(made) if isinstance(made, Recipe) else made
    return Case(name, title, evidence, **{"at_ms": NOW_MS, "roots": roots(), **more})


def cases(tee: TeeType) -> Iterator[Case]:
    """Yield all vectors of one of the two; what both have in common is there for TDX, and for SGX in part."""
    usual = TDX4 if tee is TeeType.TDX else SGX
    yield from _genuine(tee)
    yield from _quotes(tee)
    yield from _chains(usual)
    yield from _documents(usual)
    yield from _times(usual)
    yield from _quoting(usual)
    yield from _platform(tee)
    yield from _judged(tee)
    if tee is TeeType.TDX:
        yield from _attributes()
        yield from _events()


def _genuine(tee: TeeType) -> Iterator[Case]:
    if tee is TeeType.SGX:
        says = {"measurements": {"mr_enclave": "e1" * 32, "mr_signer": "e2" * 32}, "facts": {"tcb_status": "UpToDate"}}
        yield _case("genuine", "version 3, without a defect", SGX, says=says)
        processor = but(SGX, certificate={"authority": {"name": "Intel SGX PCK Processor CA"}}, pck={"platform": None})
        yield _case("genuine-processor", "by the Processor CA", processor, says={"facts": {"ca": "processor"}})
        return
    says = {"measurements": {"mr_td": "d2" * 48}, "facts": {"tcb_status": "UpToDate", "td_flags": "sept_ve_disable"}}
    yield _case("genuine-4", "version 4, without a defect", TDX4, says=says)
    yield _case("genuine-5", "version 5, TD report 1.0", TDX5, says=says)
    yield _case("genuine-15", "version 5, TD report 1.5, followed by zeros", TDX15, says=says)
    yield _case("genuine-events", "with a list of events", maker.TDX4_EVENTS, says=says)


def _quotes(tee: TeeType) -> Iterator[Case]:
    usual = TDX4 if tee is TeeType.TDX else SGX

    def bad(name: str, title: str, reason: str, **changes: Any) -> Case:
        return _case(f"quote-{name}", title, but(usual, **changes), reason=reason)

    def altered(name: str, title: str, reason: str, data: bytes) -> Case:
        evidence = msgspec.structs.replace(maker.evidence(usual), data=data)
        return _case(f"quote-{name}", title, evidence, reason=reason)

    yield bad("version", "an unknown version", "quote_version", header={"version": 6})
    yield bad("key-type", "another kind of attestation key", "quote_key_type", header={"key_type": 3})
    yield bad("platform", "an unknown platform", "quote_tee", header={"tee": 0x80})
    yield bad("vendor", "another vendor's quoting enclave", "quote_vendor", header={"vendor": bytes(16)})
    yield bad(
        "reserved-qe", "a reserved byte of the quoting enclave's report", "quote_reserved", qe={"reserved1": b"\1"}
    )
    yield bad("auth", "authentication data of another size", "quote_length", qe_auth=bytes(31))
    if tee is TeeType.SGX:
        for field in ("reserved1", "reserved2", "reserved3", "reserved4"):
            yield bad(field, "a reserved byte of the report, signed", "quote_reserved", body={field: b"\1"})
    else:
        yield bad("reserved-header", "a reserved byte of the header, signed", "quote_reserved", header={"qe_svn": 1})
        wrong = bytearray(maker.quote(TDX5))
        wrong[48] = 3
        yield altered("body-type", "a body whose type and size differ", "quote_body", bytes(wrong))
    data = maker.quote(usual)
    yield altered("cut", "the last byte is missing", "quote_length", data[:-1])
    yield altered("trailing", "a byte behind the quote", "quote_trailing", data + b"\1")
    start = 432 if tee is TeeType.SGX else 632
    longer = int.from_bytes(data[start : start + 4], "little") + 1
    lying = data[:start] + longer.to_bytes(4, "little") + data[start + 4 :]
    yield altered("length", "an announced length that is one too large", "quote_length", lying)
    place = 436 + 128 + 448 + 34 if tee is TeeType.SGX else 636 + 134 + 448 + 34
    identified = data[:place] + b"\1" + data[place + 1 :]
    title = "an identifier of the platform in place of its certificates"
    yield altered("certification", title, "quote_certification", identified)
    other = TeeType.SGX if tee is TeeType.TDX else TeeType.TDX
    swapped = msgspec.structs.replace(maker.evidence(SGX if tee is TeeType.TDX else TDX4), tee=tee)
    yield _case("label", f"a quote of {other.value} under this label", swapped, reason="tee_mismatch")
    part = encode(maker.collateral(usual))
    for name, title, reason, given in (
        ("none", "no collateral", "endorsement_count", ()),
        ("twice", "two collaterals", "endorsement_count", (part, part)),
        ("unknown", "something beside the collateral", "endorsement_unknown", (part, b"{}")),
        ("spaces", "white space in the collateral", "collateral_encoding", (part.replace(b'","', b'", "', 1),)),
        ("trailing", "a byte behind the collateral", "collateral_encoding", (part + b"\n",)),
        ("crlf", "a chain with other line ends", "certificate_encoding", (part.replace(b"\\n", b"\\r\\n", 1),)),
        (
            "twice-member",
            "a member twice",
            "collateral_encoding",
            (part.replace(b'"pck_crl":', b'"pck_crl":"00","pck_crl":', 1),),
        ),
    ):
        evidence = Evidence(tee=tee, data=data, endorsements=given)
        yield _case(f"collateral-{name}", title, evidence, reason=reason)


_CHAINS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("leaf-forged", "chain_signature", {"signed_by": {"leaf": "stranger"}}),
    ("leaf-by-signing", "chain_signature", {"signed_by": {"leaf": "signing"}}),
    ("authority-forged", "chain_signature", {"signed_by": {"authority": "stranger"}}),
    ("signing-forged", "chain_signature", {"signed_by": {"signing": "stranger"}}),
    ("leaf-issuer", "chain_issuer", {"certificate": {"leaf": {"issuer": "Intel SGX Root CA"}}}),
    ("signing-issuer", "chain_issuer", {"certificate": {"signing": {"issuer": "Intel SGX PCK Platform CA"}}}),
    ("leaf-name", "chain_name", {"certificate": {"leaf": {"name": "Intel SGX TCB Signing"}}}),
    ("signing-name", "chain_name", {"certificate": {"signing": {"name": "Intel SGX PCK Platform CA"}}}),
    ("authority-name", "chain_name", {"certificate": {"authority": {"name": "Intel SGX PCK Other CA"}}}),
    ("authority-no-ca", "chain_ca", {"certificate": {"authority": {"ca": False}}}),
    ("authority-usage", "chain_usage", {"certificate": {"authority": {"usage": False}}}),
    ("leaf-critical", "chain_extension", {"certificate": {"leaf": {"critical": True}}}),
    ("leaf-sha384", "chain_algorithm", {"certificate": {"leaf": {"hash": SHA384()}}}),
    ("signing-sha384", "chain_algorithm", {"certificate": {"signing": {"hash": SHA384()}}}),
    (
        "leaf-p384",
        "chain_algorithm",
        {"certificate": {"leaf": {"key": "leaf@p384"}}, "signed_by": {"qe_report": "leaf"}},
    ),
    ("signing-p384", "chain_algorithm", {"certificate": {"signing": {"key": "signing@p384"}}}),
    ("root-other", "chain_root", {"certificate": {"root": {"key": "stranger"}}, "signed_by": {"root": "stranger"}}),
)


_CHAINS_OF_BOTH = {"leaf-forged", "signing-forged", "authority-name", "leaf-p384", "root-other"}


def _chains(usual: Recipe) -> Iterator[Case]:
    for name, reason, changes in _CHAINS:
        if usual is SGX and name not in _CHAINS_OF_BOTH:
            continue
        yield _case(f"chain-{name}", f"one defect of a chain: {name}", but(usual, **changes), reason=reason)
    title = "a self-made chain before Intel's own root"
    yield _case("chain-vendor-roots", title, usual, roots=(), reason="chain_root")
    if usual is SGX:
        return
    made, root = maker.collateral(usual), maker.certificate(usual, "root")
    signing, authority = maker.certificate(usual, "signing"), maker.certificate(usual, "authority")
    for name, reason, chain in (
        ("short", "chain_length", [signing]),
        ("long", "chain_length", [signing, root, root]),
        ("reversed", "chain_name", [root, signing]),
        ("swapped", "chain_name", [authority, root]),
    ):
        parts = encode(msgspec.structs.replace(made, tcb_info_issuer_chain=maker.pem(*chain)))
        evidence = Evidence(tee=usual.tee, data=maker.quote(usual), endorsements=(parts,))
        yield _case(f"chain-signers-{name}", f"the chain of the TCB information is {name}", evidence, reason=reason)
    other = maker.certificate(but(usual, certificate={"authority": {"until": NOW + 800 * DAY}}), "authority")
    parts = encode(msgspec.structs.replace(made, pck_crl_issuer_chain=maker.pem(other, root)))
    evidence = Evidence(tee=usual.tee, data=maker.quote(usual), endorsements=(parts,))
    yield _case("chain-list-authority", "the PCK list's chain is another", evidence, reason="chain_mismatch")


def _documents(usual: Recipe) -> Iterator[Case]:
    for part in ("tcb_info", "qe_identity"):
        for signer in ("stranger", "root") if usual is TDX4 else ("stranger",):
            made = but(usual, signed_by={part: signer})
            title = f"{part} signed by the key of: {signer}"
            yield _case(f"document-{part}-{signer}", title, made, reason=f"{part}_signature")
    old = maker.collateral(but(usual, status="OutOfDate"))
    better = msgspec.structs.replace(old, tcb_info=old.tcb_info.replace("OutOfDate", "UpToDate"))
    evidence = Evidence(tee=usual.tee, data=maker.quote(usual), endorsements=(encode(better),))
    yield _case("document-improved", "a status improved after signing", evidence, reason="tcb_info_signature")
    for revoked in ("leaf", "authority", "signing", "root") if usual is TDX4 else ("leaf", "signing"):
        made = but(usual, revoked=frozenset({revoked}))
        yield _case(f"revocation-{revoked}", f"the {revoked} certificate is revoked", made, reason="revoked")
    for part in ("root_crl", "pck_crl"):
        rules: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("forged", "revocation_signature", {"signed_by": {part: "stranger"}}),
            ("sha384", "revocation_signature", {"lists": {part: {"hash": SHA384()}}}),
            ("issuer", "revocation_issuer", {"lists": {part: {"issuer": "Intel SGX TCB Signing"}}}),
            ("delta", "revocation_extension", {"lists": {part: {"delta": True}}}),
            ("endless", "revocation_stale", {"lists": {part: {"endless": True}}}),
        )
        for name, reason, changes in rules if usual is TDX4 else ():
            title = f"one defect of the list {part}: {name}"
            yield _case(f"revocation-{part}-{name}", title, but(usual, **changes), reason=reason)
    if usual is SGX:
        return
    swapped = maker.collateral(usual)
    swapped = msgspec.structs.replace(swapped, root_ca_crl=swapped.pck_crl, pck_crl=swapped.root_ca_crl)
    evidence = Evidence(tee=usual.tee, data=maker.quote(usual), endorsements=(encode(swapped),))
    yield _case("revocation-swapped", "the two lists swapped", evidence, reason="revocation_issuer")


def _window(part: str, since: datetime, until: datetime) -> dict[str, Any]:
    if part in {"tcb_info", "qe_identity"}:
        return {part: {"issueDate": maker.stamp(since), "nextUpdate": maker.stamp(until)}}
    kind = "lists" if part.endswith("crl") else "certificate"
    return {kind: {part: {"since": since, "until": until}}}


def _times(usual: Recipe) -> Iterator[Case]:
    parts = ("leaf", "authority", "signing", "root_crl", "pck_crl", "tcb_info", "qe_identity")
    for part in parts if usual is TDX4 else ("leaf", "tcb_info"):
        for name, reason, since, until in (
            ("expired", "collateral_expired", NOW - _HOUR, NOW - timedelta(seconds=1)),
            ("early", "not_yet_valid", NOW + timedelta(seconds=1), NOW + _HOUR),
        ):
            made = but(usual, **_window(part, since, until))
            yield _case(f"time-{part}-{name}", f"{part} is not valid at that time", made, reason=reason)


def _quoting(usual: Recipe) -> Iterator[Case]:
    stranger = maker.raw_key("stranger")
    for name, title, reason, changes in (
        (
            "qe-forged",
            "a report by another key than the PCK",
            "qe_report_signature",
            {"signed_by": {"qe_report": "stranger"}},
        ),
        ("qe-key", "an attestation key that is not vouched for", "qe_key", {"qe_key": "stranger"}),
        (
            "own-key",
            "the attacker's own attestation key",
            "qe_key",
            {"quoted_key": stranger, "signed_by": {"quote": "stranger"}},
        ),
        ("forged", "a quote by another key", "quote_signature", {"signed_by": {"quote": "stranger"}}),
        ("no-point", "an attestation key outside its curve", "quote_signature", {"quoted_key": bytes(64)}),
    ):
        yield _case(f"signature-{name}", title, but(usual, **changes), reason=reason)


_LEVEL: dict[str, Any] = {
    "tcb": {"sgxtcbcomponents": [{"svn": 255}] * 16, "tdxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 11},
    "tcbDate": "2026-05-13T00:00:00Z",
    "tcbStatus": "UpToDate",
}


#: The same code decides for both; a second vector of each would double the size of the suite.
_RULES_OF_TDX_ALONE = {"no-levels", "other-pce", "qe-product", "qe-misc", "unknown-status", "no-time"}


def _platform(tee: TeeType) -> Iterator[Case]:
    usual, mine = (TDX4, "TDX") if tee is TeeType.TDX else (SGX, "SGX")
    rules: list[tuple[str, str, dict[str, Any]]] = [
        ("revoked", "tcb_revoked", {"status": "Revoked"}),
        ("qe-revoked", "tcb_revoked", {"qe_status": "Revoked"}),
        ("no-levels", "tcb_level", {"tcb_info": {"tcbLevels": []}}),
        ("too-old", "tcb_level", {"tcb_info": {"tcbLevels": [_LEVEL]}}),
        ("old-pce", "tcb_level", {"pck": {"pce_svn": 10}}),
        ("other-fmspc", "tcb_platform", {"tcb_info": {"fmspc": "00906EA10001"}}),
        ("other-pce", "tcb_platform", {"tcb_info": {"pceId": "0001"}}),
        ("other-kind", "tcb_kind", {"tcb_info": {"id": "SGX" if mine == "TDX" else "TDX"}}),
        ("qe-signer", "qe_identity", {"qe": {"mr_signer": b"\x01" * 32}}),
        ("qe-product", "qe_identity", {"qe": {"isv_prod_id": 1}}),
        ("qe-debug", "qe_identity", {"qe": {"attributes": 0x17}}),
        ("qe-misc", "qe_identity", {"qe": {"misc_select": 1}}),
        ("qe-kind", "qe_identity", {"qe_identity": {"id": "QE" if mine == "TDX" else "TD_QE"}}),
        ("qe-old", "qe_level", {"qe": {"isv_svn": 3}}),
        ("unknown-status", "document_encoding", {"status": "Fine"}),
        ("no-time", "document_encoding", {"tcb_info": {"issueDate": 7}}),
    ]
    if tee is TeeType.TDX:
        rules += [
            ("module-signer", "tdx_module", {"body": {"mr_signer_seam": b"\x01"}}),
            ("module-attributes", "tdx_module", {"body": {"seam_attributes": 1}}),
            ("module-version", "tdx_module", {"body": {"tee_tcb_svn": bytes([6, 2, 3])}}),
            ("module-old", "tcb_level", {"body": {"tee_tcb_svn": bytes([6, 1, 2])}}),
        ]
    for name, reason, changes in rules:
        if usual is SGX and name in _RULES_OF_TDX_ALONE:
            continue
        yield _case(f"tcb-{name}", f"refused by Intel's rules: {name}", but(usual, **changes), reason=reason)
    other = encode(maker.collateral(SGX if tee is TeeType.TDX else TDX4))
    evidence = Evidence(tee=tee, data=maker.quote(usual), endorsements=(other,))
    yield _case("tcb-collateral", "the collateral of the other TEE", evidence, reason="qe_identity")
    if tee is TeeType.SGX:
        yield _case("debug", "debug mode", but(SGX, body={"attributes": 0x07}), reason="debug")


def _attributes() -> Iterator[Case]:
    told = {16, 27, 28, 30, 31, 62, 63}
    for bit in range(64):
        if bit in told:
            continue
        reason = "debug" if bit == 0 else "td_attributes"
        if bit in {0, 4, 29, 47}:
            title = f"attribute {bit} of the TD is set"
            yield _case(f"attribute-{bit}", title, but(TDX4, body={"td_attributes": _SEPT | 1 << bit}), reason=reason)
    yield _case(
        "attribute-sept", "SEPT_VE_DISABLE is not set", but(TDX4, body={"td_attributes": 0}), reason="td_sept_ve"
    )
    service = but(TDX15, body={"mr_service_td": b"\x01" * 48})
    yield _case("attribute-service", "a service TD is bound", service, reason="td_service")


def _events() -> Iterator[Case]:
    def case(name: str, title: str, reason: str | None, events: bytes) -> Case:
        parts = (encode(maker.collateral(TDX4)), events)
        return _case(
            f"events-{name}",
            title,
            Evidence(tee=TeeType.TDX, data=maker.quote(TDX4), endorsements=parts),
            reason=reason,
        )

    usual = maker.event_list(1, 2, 3)
    yield case("one-register", "events of one register only", None, maker.event_list(1))
    for name, counts in (
        ("one-more", (2, 2, 3)),
        ("one-less", (1, 1, 3)),
        ("none", (0, 2, 3)),
        ("rtmr3", (1, 2, 3, 1)),
    ):
        yield case(name, "the replay gives another register", "event_replay", maker.event_list(*counts))
    first, second = (event.encode() for event in maker.EVENTS[:2])
    turned = usual.replace(b'"%b","%b"' % (first, second), b'"%b","%b"' % (second, first))
    yield case("order", "the same events in another order", "event_replay", turned)
    yield case("register", "an unknown register", "event_register", usual.replace(b'"rtmr0"', b'"rtmr4"', 1))
    yield case("twice", "a register twice", "event_register", usual.replace(b'"rtmr1"', b'"rtmr0"', 1))
    yield case("spaces", "white space", "event_encoding", usual.replace(b'"digests":', b'"digests": ', 1))
    short = b'{"registers":[{"register":"rtmr0","digests":["%s"]}]}' % (b"00" * 32)
    yield case("algorithm", "a digest of another algorithm", "event_digest", short)


@cache
def _usual(tee: TeeType) -> VerifiedEvidence:
    recipe = TDX4 if tee is TeeType.TDX else SGX
    verifier = TdxVerifier(maker.root_der()) if tee is TeeType.TDX else SgxVerifier(maker.root_der())
    return verifier.examine(maker.evidence(recipe), NOW_MS).genuine()


def _judged(tee: TeeType) -> Iterator[Case]:
    """Yield genuine evidence that the policy for a platform that is up to date refuses."""
    usual = TDX4 if tee is TeeType.TDX else SGX
    policy = (f"{tee.value}.json", policy_for(_usual(tee)))

    def judged(name: str, title: str, refused: str | None, says: dict[str, Any] | None = None, **changes: Any) -> Case:
        made = but(usual, **changes)
        return _case(f"policy-{name}", title, made, policy=policy, refused=refused, says=says or {})

    yield judged("accepted", "what the policy was made for", None)
    for status in STATUSES[1:]:
        says = {"facts": {"tcb_status": status}}
        yield judged(
            f"status-{status}", "genuine; whether it will do is the policy's business", "facts", says, status=status
        )
    yield judged("qe-out-of-date", "an outdated quoting enclave", "facts", qe_status="OutOfDate")
    yield judged(
        "advisory", "an advisory that the policy does not accept", "advisories", advisories=("INTEL-SA-00615",)
    )
    yield judged("chip", "another platform", "chip", pck={"ppid": b"\x07" * 16})
    yield judged("evaluation", "older TCB information", "tcb", tcb_info={"tcbEvaluationDataNumber": 19})
    old = _window("tcb_info", NOW - 31 * DAY, NOW + DAY)
    yield judged("collateral-age", "TCB information that is 31 days old", "collateral_age", **old)
    for index, name in enumerate(("dynamic", "cached-keys", "smt")):
        flags = [True, False, True]
        flags[index] = not flags[index]
        yield judged(f"platform-{name}", "a property of the platform differs", "facts", pck={"platform": tuple(flags)})
    body: list[tuple[str, str, dict[str, Any]]]
    if tee is TeeType.TDX:
        body = [(f"td-bit-{bit}", "facts", {"td_attributes": _SEPT | 1 << bit}) for bit in (16, 27, 30, 31, 62, 63)]
        body += [
            (name.replace("_", "-"), "measurements", {name: b"\x0f" * 48}) for name in ("mr_td", "rtmr3", "mr_owner")
        ]
        body += [("xfam", "facts", {"xfam": 0xE7})]
    else:
        body = [(f"flag-{bit}", "facts", {"attributes": 0x05 | 1 << bit}) for bit in (4, 7, 10)]
        body += [
            ("mr-enclave", "measurements", {"mr_enclave": b"\x0f" * 32}),
            ("mr-signer", "measurements", {"mr_signer": b"\x0f" * 32}),
        ]
        body += [("isv-svn", "tcb", {"isv_svn": 2}), ("product", "facts", {"isv_prod_id": 8})]
    for name, refused, fields in body:
        yield judged(name, "a field of the report differs", refused, body=fields)
