"""Collateral has one encoding, made of what Intel answers without a byte of the signed documents written anew."""

import json
from urllib.parse import quote as percent

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.attestation.tee.intel import maker

from aigovtool.attestation.tee.intel.collateral import (
    PcsAnswer,
    collateral_from_json,
    read_collateral,
    read_document,
)
from aigovtool.attestation.tee.intel.wanted import merged, wanted
from aigovtool.attestation.tee.supplement import COLLATERAL_PREFIX
from aigovtool.codec import encode
from aigovtool.errors import EvidenceError
from aigovtool.limits import MAX_EVIDENCE_BYTES

COLLATERAL = maker.collateral(maker.TDX4)
DATA = encode(COLLATERAL)
PARTS = json.loads(DATA)
CHAINS = [member for member in PARTS if member.endswith("chain")]


def reason(data: bytes) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        read_collateral(data)
    return caught.value.reason


def written(parts: dict[str, object]) -> bytes:
    return json.dumps(parts, separators=(",", ":")).encode()


def pcs(**changes: PcsAnswer) -> bytes:
    """Assemble the collateral from the answers that the service would give."""
    body = '{"%s":%s,"signature":"%s"}'
    answers = {
        "tcb_info": PcsAnswer(
            (body % ("tcbInfo", COLLATERAL.tcb_info, COLLATERAL.tcb_info_signature)).encode(),
            {"TCB-Info-Issuer-Chain": percent(COLLATERAL.tcb_info_issuer_chain)},
        ),
        "qe_identity": PcsAnswer(
            (body % ("enclaveIdentity", COLLATERAL.qe_identity, COLLATERAL.qe_identity_signature.upper())).encode(),
            {"SGX-Enclave-Identity-Issuer-Chain": percent(COLLATERAL.qe_identity_issuer_chain)},
        ),
        "pck_crl": PcsAnswer(
            bytes.fromhex(COLLATERAL.pck_crl),
            {"sgx-pck-crl-issuer-chain": percent(COLLATERAL.pck_crl_issuer_chain), "Date": "today"},
        ),
        "root_ca_crl": PcsAnswer(bytes.fromhex(COLLATERAL.root_ca_crl), {}),
    }
    quoted = maker.quote(maker.TDX4)
    return merged(quoted, dict(zip(wanted(quoted), {**answers, **changes}.values(), strict=True)), None)


def test_the_only_encoding_is_read_and_recognised() -> None:
    """What was made is read back, and begins as collateral begins."""
    assert read_collateral(DATA) == COLLATERAL
    assert DATA.startswith(COLLATERAL_PREFIX)
    assert written(PARTS) == DATA


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        DATA + b"\n",
        b" " + DATA,
        json.dumps(PARTS).encode(),
        written(dict(reversed(PARTS.items()))),
        written({**PARTS, "more": 1}),
        written({key: value for key, value in PARTS.items() if key != "pck_crl"}),
        DATA.replace(b'"pck_crl":', b'"pck_crl":"00","pck_crl":', 1),
        DATA.replace(b"-----BEGIN", b"\\u002d----BEGIN", 1),
        DATA.replace(b"\xff", b"") + b"\xff",
        written({**PARTS, "pck_crl": PARTS["pck_crl"].upper()}),
        written({**PARTS, "pck_crl": PARTS["pck_crl"] + "0"}),
        written({**PARTS, "root_ca_crl": ""}),
        written({**PARTS, "tcb_info_signature": PARTS["tcb_info_signature"] + "00"}),
        written({**PARTS, "qe_identity_signature": PARTS["qe_identity_signature"].upper()}),
        written({**PARTS, "tcb_info": {}}),
        written({**PARTS, "tcb_info": "x" * MAX_EVIDENCE_BYTES}),
    ],
    ids=range(18),
)
def test_a_second_encoding_is_refused(data: bytes) -> None:
    """White space, order, case, escapes, further, missing and repeated members: each is another encoding."""
    assert reason(data) == "collateral_encoding"


@pytest.mark.parametrize("member", CHAINS)
def test_chains_are_in_their_usual_form(member: str) -> None:
    """PEM with other line ends, headers, padding or text around it is refused, and so is a chain that is none."""
    usual = PARTS[member]
    for chain in (
        "",
        usual.replace("\n", "\r\n"),
        usual.removesuffix("\n"),
        usual + "\n",
        "Bag Attributes\n" + usual,
        usual.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
        usual.replace("\n-----END", "=\n-----END", 1),
        usual[:200] + "\n" + usual[200:],
        usual.replace("M", "\u041c", 1),
    ):
        assert reason(encode(msgspec.structs.replace(COLLATERAL, **{member: chain}))) == "certificate_encoding"


@pytest.mark.parametrize("member", ["root_ca_crl", "pck_crl"])
def test_lists_are_lists(member: str) -> None:
    """A revocation list that is cut, prolonged or something else is refused."""
    usual = PARTS[member]
    for revoked in (usual[:-2], usual + "00", "30", maker.root_der().hex()):
        assert reason(written({**PARTS, member: revoked})) == "certificate_encoding"


def test_names_in_lists_and_chains_are_parsed_when_they_are_read() -> None:
    """The X.509 library looks at a name when it is asked for: too late, in the middle of another step."""
    for member, common in (("root_ca_crl", b"Intel SGX Root CA"), ("pck_crl", b"Intel SGX PCK Platform CA")):
        usual = bytes.fromhex(PARTS[member])
        at = usual.index(common) - 2
        broken = usual[:at] + b"\x07" + usual[at + 1 :]
        assert reason(written({**PARTS, member: broken.hex()})) == "certificate_encoding"
    der = maker.certificate(maker.TDX4, "signing").public_bytes(Encoding.DER)
    at = der.index(b"Intel SGX TCB Signing") - 2
    other = x509.load_der_x509_certificate(der[:at] + b"\x07" + der[at + 1 :])
    chain = other.public_bytes(Encoding.PEM).decode() + maker.pem(maker.certificate(maker.TDX4, "root"))
    assert reason(written({**PARTS, "tcb_info_issuer_chain": chain})) == "certificate_encoding"


def test_what_other_tools_write_becomes_the_only_encoding() -> None:
    """White space, order, case, line ends and a PCK chain beside the rest do not matter to the converter."""
    chains = {member: PARTS[member].replace("\n", "\r\n") for member in CHAINS}
    lists = {member: PARTS[member].upper() for member in ("pck_crl", "root_ca_crl", "tcb_info_signature")}
    other = dict(reversed({**PARTS, **chains, **lists, "pck_certificate_chain": "not looked at"}.items()))
    assert collateral_from_json(json.dumps(other, indent=3).encode()) == DATA
    assert collateral_from_json(json.dumps({**PARTS, "pck_certificate_chain": None}).encode()) == DATA


@pytest.mark.parametrize(
    "change", [{"pck_crl": "zz"}, {"tcb_info_signature": "00"}, {"more": 1}, {"pck_crl": 7}, {"tcb_info": None}]
)
def test_the_converter_refuses_what_is_no_collateral(change: dict[str, object]) -> None:
    """It changes spelling, never content."""
    with pytest.raises(EvidenceError) as caught:
        collateral_from_json(json.dumps({**PARTS, **change}).encode())
    assert caught.value.reason == "collateral_encoding"
    with pytest.raises(EvidenceError):
        collateral_from_json(b"not JSON")


def test_answers_of_the_service_become_the_only_encoding() -> None:
    """The signed documents are cut out of the answers byte for byte, and chains are decoded from their headers."""
    assert pcs() == DATA
    spaced = maker.tcb_info(maker.TDX4).replace('"version":3', '"version": 3')
    answer = PcsAnswer(
        b'{"tcbInfo":%s,"signature":"%s"}' % (spaced.encode(), b"00" * 64),
        {"TCB-INFO-ISSUER-CHAIN": percent(COLLATERAL.tcb_info_issuer_chain)},
    )
    assert read_collateral(pcs(tcb_info=answer)).tcb_info == spaced
    pem = x509.load_der_x509_crl(bytes.fromhex(COLLATERAL.root_ca_crl)).public_bytes(Encoding.PEM)
    assert pcs(root_ca_crl=PcsAnswer(pem, {})) == DATA


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("tcb_info", PcsAnswer(b"{}", {"tcb-info-issuer-chain": ""})),
        ("tcb_info", PcsAnswer(b'{"tcbInfo":{},"signature":"00"}', {"tcb-info-issuer-chain": ""})),
        (
            "tcb_info",
            PcsAnswer(b'{"tcbInfo":{"\xff":1},"signature":"%s"}' % (b"00" * 64), {"tcb-info-issuer-chain": ""}),
        ),
        ("tcb_info", PcsAnswer(b'{"tcbInfo":{},"signature":"%s"}' % (b"00" * 64), {})),
        ("qe_identity", PcsAnswer(b"\xff", {"sgx-enclave-identity-issuer-chain": ""})),
        ("pck_crl", PcsAnswer(b"", {})),
        ("pck_crl", PcsAnswer(b"", {"sgx-pck-crl-issuer-chain": "", "SGX-PCK-CRL-Issuer-Chain": ""})),
    ],
    ids=range(7),
)
def test_an_answer_of_another_form_is_refused(name: str, answer: PcsAnswer) -> None:
    """An error page, a missing header or a header sent twice makes no collateral."""
    with pytest.raises(EvidenceError) as caught:
        pcs(**{name: answer})
    assert caught.value.reason in {"pcs_answer", "certificate_encoding"}
    assert caught.value.reason == "pcs_answer" or not answer.headers.get("tcb-info-issuer-chain", "x")


@pytest.mark.parametrize(
    "change",
    [
        {"issueDate": "2027-01-10 08:00:00Z"},
        {"issueDate": "2027-01-10T08:00:00+00:00"},
        {"nextUpdate": "2027-02-30T08:00:00Z"},
        {"nextUpdate": "\u0662027-02-20T08:00:00Z"},
        {"nextUpdate": 7},
    ],
)
def test_a_document_says_its_times_in_one_way(change: dict[str, object]) -> None:
    """Times are those of RFC 3339 in UTC with seconds, as Intel writes them, or the document is not understood."""
    said = {**json.loads(maker.tcb_info(maker.TDX4)), **change}
    with pytest.raises(EvidenceError) as caught:
        read_document(json.dumps(said))
    assert caught.value.reason == "document_encoding"
