"""Evidence as other tools and vendors write it, before it is in the one form that verifiers read.

Event logs, bundles of TPM tools, files of evidence with endorsements beside them in any spelling, answers of vendors'
services, and the files in which those are kept. What is made of them must be what a reading by hand finds in them.
"""

import json
import re
from base64 import b64decode, b64encode, encodebytes
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final, cast

from conformance.malformed import structured

from aigovtool.attestation.event_list import EventList
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.cli.evidence.files import read_evidence, read_roots
from aigovtool.codec import encode
from aigovtool.errors import ConfigurationError, EvidenceError
from assurance.parsers import documents, event_logs, kept_answers, tpm_bundles, vendor_answers
from assurance.parsers.certificates import pem
from assurance.parsers.event_logs import NoLogError
from assurance.parsers.files import in_file, in_folder
from assurance.parsers.parser import Kind, Parser, Parts
from assurance.parsers.reading import NotJsonError, by_hand, unlike, unwrapped
from assurance.parsers.vendor_answers import vector

_REFUSALS: Final = (EvidenceError, ConfigurationError)
_DASHES: Final = b"-----"
_SPACE: Final = b" \t\n\r\x0b\f"
_LABELS: Final = (b"CERTIFICATE", b"X509 CRL")


class NoEvidenceError(Exception):
    """The files hold no evidence."""


# --- Genuine -------------------------------------------------------------------------------------


@cache
def _evidence() -> tuple[Parts, ...]:
    """Return whose evidence it is, if that is said, and what is in three files; an empty one is not there."""
    quote, report = vector("tdx/genuine-4.bin"), vector("sev-snp/genuine-milan-vcek.bin")
    leaf, revoked = vector("sev-snp/genuine-milan-vcek.1.end"), vector("sev-snp/genuine-chain-and-list.4.end")
    collateral = vector("tdx/genuine-4.1.end")
    logs = event_logs.log(0x0C, register=1), event_logs.log(0x04, 0x0B, 0x0C, register=1)
    own = Evidence(tee=TeeType.TDX, data=quote, endorsements=(collateral,))
    simple = Evidence(tee=TeeType.NITRO, data=vector("nitro/genuine.bin"))
    spaced = json.dumps({**vendor_answers.collateral(), "pck_certificate_chain": None}, indent=1).encode()
    return (
        (b"", encode(own), b"", logs[0]),
        (b"nitro", json.dumps(json.loads(encode(simple)), indent=2).encode(), b"", b""),
        (b"tdx", quote, spaced, b""),
        (b"tdx", encodebytes(quote), collateral, logs[1]),
        (b"sev-snp", report, b"For people.\n" + pem(leaf) + _armoured(b"X509 CRL", revoked), b""),
        (b"sev-snp", b64encode(report), leaf, b""),
        (b"nitro", encodebytes(vector("nitro/genuine.bin")), b"", b""),
        (b"tpm", tpm_bundles.bundles()[1], pem(vector("tpm/genuine-ecdsa.1.end")), event_logs.log(0x0B)),
        (b"tpm", tpm_bundles.bundles()[0], vector("tpm/genuine-ecdsa.1.end"), b""),
    )


def _armoured(label: bytes, der: bytes) -> bytes:
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, encodebytes(der), label)


@cache
def _roots() -> tuple[Parts, ...]:
    amd = [vector(f"roots/amd-milan-{name}.der") for name in ("ark", "ask", "asvk")]
    intel = vector("roots/intel-root.der")
    return (intel,), (pem(intel),), (b"Three of AMD's:\n" + b"and\n".join(map(pem, amd)) + b"end\n",)


# --- Edits ---------------------------------------------------------------------------------------


def _edit_evidence(parts: Parts, chance: Random) -> Parts:
    """Change a file by what is in it, leave it out, or take another's; or say that it is of another platform."""
    tee, *files = parts
    other = chance.choice(_evidence())
    for _ in range(chance.choice((1, 1, 2))):
        at = chance.choice((0, 0, 1, 1, 2))
        if chance.random() < 0.1:
            files[at] = chance.choice((b"", other[at + 1]))
        elif at == 1:
            files[1] = _edit_armoured(files[1], chance)
        elif at == 2:
            files[2] = event_logs.edit(files[2] or event_logs.log(0x0C), chance)
        elif tee == b"tpm" and files[0][:1] != b"{":
            files[0] = tpm_bundles.edit_bundle(files[0], chance)
        elif files[0][:1] == b"{" or chance.random() < 0.6:
            files[0] = structured.edit(files[0], chance)
        else:
            ways = b64encode(files[0]), encodebytes(files[0]), files[0] + b"\n", b" " + files[0].replace(b"\n", b"\r\n")
            files[0] = chance.choice(ways)
    if chance.random() < 0.05:
        tee = other[0]
    return (tee, *files)


def _edit_armoured(data: bytes, chance: Random) -> bytes:
    """Change blocks, or what stands around them."""
    if _DASHES not in data or chance.random() < 0.5:
        return structured.edit(data, chance)
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    texts = (
        b"",
        b"text",
        b"-----",
        b"------",
        b" ",
        b"-----BEGIN X509 CRL-----",
        b"Proc-Type: 4,ENCRYPTED",
        b"\r",
        b"--",
    )
    match chance.randrange(4):
        case 0:
            lines.insert(at, chance.choice(texts))
        case 1:
            lines[at] = chance.choice((lines[at] + chance.choice(texts), chance.choice(texts) + lines[at]))
        case 2:
            lines = (
                b"\n".join(lines)
                .replace(b"CERTIFICATE", chance.choice((b"X509 CRL", b"certificate", b"KEY")), 1)
                .split(b"\n")
            )
        case _:
            return structured.pem(data[data.index(_DASHES) :], chance)
    return b"\n".join(lines)


# --- Reading -------------------------------------------------------------------------------------


def blocks_of(data: bytes) -> list[bytes]:
    """Return what is in a file: that of its PEM blocks, with any text around them, or all of it as it is.

    Raises:
        NoEvidenceError: a block is none.
    """
    if b"-----BEGIN " not in data:
        return [data]
    # Of more dashes than five the last five begin a block, and the first five end it.
    pieces = re.sub(b"-{5,}BEGIN ", b"-----BEGIN ", data).split(_DASHES)
    found = []
    if len(pieces) % 4 != 1:
        raise NoEvidenceError("a block without an end")
    for begin, body, end in zip(pieces[1::4], pieces[2::4], pieces[3::4], strict=True):
        label = begin.removeprefix(b"BEGIN ")
        if label not in _LABELS or begin == label or end != b"END " + label:
            raise NoEvidenceError("another block")
        try:
            found.append(b64decode(b"".join(body.split()), validate=True))
        except ValueError:
            raise NoEvidenceError("a block of something else") from None
    return found


def _said(parts: Parts) -> tuple[bytes, bytes, list[bytes]]:
    """Return whose evidence it is, the data, and the endorsements that came with it."""
    tee, content, _, _ = parts
    if content.lstrip(_SPACE)[:1] != b"{":
        return tee, _unwrapped(content), []
    read = by_hand(content)
    if (where := unlike(read, Evidence)) is not None or tee not in {b"", read["tee"].encode()}:
        raise NoEvidenceError(where or "of another platform")
    endorsements = [unwrapped(one) or b"" for one in read.get("endorsements", [])]
    return read["tee"].encode(), _unwrapped(unwrapped(read["data"]) or b""), endorsements


def _unwrapped(content: bytes) -> bytes:
    """Return what is in base64, in lines of any length, where it is more than a few characters.

    Behind whole groups there may be padding that nobody needs: nobody signs how a file is written.
    """
    text = bytes(byte for byte in content if byte not in _SPACE).decode("latin-1")
    digits = text.rstrip("=")
    whole = len(digits) % 4 == 0 and len(text) - len(digits) <= 2
    found = unwrapped(digits if whole else text) if len(text) > 64 else None
    return content if found is None else found


def _events(log: bytes) -> dict[str, Any]:
    read = event_logs.by_hand(log)
    registers = sorted({one[0] for one in read.events})
    return {"registers": [{"register": f"rtmr{at - 1}", "digests": read.digests(at, "sha384")} for at in registers]}


# --- The product, and the oracle -----------------------------------------------------------------


def _read_evidence(parts: Parts) -> Evidence:
    tee, *contents = parts
    names = "evidence", "endorsements", "log"
    there = {name: content for name, content in zip(names, contents, strict=True) if content or name == "evidence"}
    whose = TeeType(tee.decode()) if tee else None

    def read(folder: Path) -> Evidence:
        endorsements = [folder / "endorsements"] if "endorsements" in there else []
        return read_evidence(whose, folder / "evidence", endorsements, folder / "log" if "log" in there else None)

    return in_folder(there, read)


def _wrong_evidence(parts: Parts, value: object) -> str | None:
    found = cast("Evidence", value)
    try:
        if parts[0] == b"tpm" and parts[1].lstrip(_SPACE)[:1] != b"{":
            issuers = blocks_of(parts[2]) if parts[2] else []
            return tpm_bundles.wrong_bundle(parts[1], found, issuers, parts[3] or None)
        tee, data, endorsements = _said(parts)
        if (tee, data) != (found.tee.value.encode(), found.data):
            return "other evidence than is in the file"
        return _wrong_endorsements(parts, tee, endorsements, list(found.endorsements))
    except (NoEvidenceError, NotJsonError, NoLogError, LookupError) as error:
        return f"evidence taken for some that is none: {error!r}"


def _wrong_endorsements(parts: Parts, tee: bytes, expected: list[bytes], found: list[bytes]) -> str | None:
    """What is added comes last: what is in the file beside, and what the log says."""
    _, _, added, log = parts
    if log:
        if tee != b"tdx" or by_hand(found[-1]) != _events(log):
            return "other events than are in the log"
        if (what := documents.misspelled(found[-1], EventList)) is not None:
            return what
        found = found[:-1]
    if added and tee in {b"tdx", b"sgx"} and added.lstrip(_SPACE)[:1] == b"{":
        if (what := vendor_answers.wrong_collateral((added,), found[-1])) is not None:
            return what
        found = found[:-1]
    elif added:
        expected = [*expected, *([added] if tee in {b"tdx", b"sgx"} else blocks_of(added))]
    return None if expected == found else "other endorsements than are in the files"


def _wrong_roots(parts: Parts, value: object) -> str | None:
    try:
        return None if value == blocks_of(parts[0]) else "other roots than are in the file"
    except NoEvidenceError as error:
        return f"roots taken that are none: {error}"


def _files() -> tuple[Kind, ...]:
    return (
        Kind(
            name="evidence",
            genuine=_evidence(),
            edit=_edit_evidence,
            read=_read_evidence,
            wrong=_wrong_evidence,
            refusals=_REFUSALS,
            weight=6,
        ),
        Kind(
            name="roots",
            genuine=_roots(),
            edit=lambda parts, chance: (_edit_armoured(parts[0], chance),),
            read=lambda parts: in_file(parts[0], lambda path: read_roots([path])),
            wrong=_wrong_roots,
            refusals=_REFUSALS,
            weight=2,
        ),
        *kept_answers.kinds(),
    )


def _make() -> tuple[Kind, ...]:
    return (event_logs.kind(), *tpm_bundles.kinds(), *vendor_answers.kinds(), *_files())


PARSER: Final = Parser(
    name="evidence-files",
    claim="Evidence, endorsements and event logs of other tools are read as what is in them, or are refused.",
    counts="event logs, bundles of go-tpm-tools and of tpm2-tools, evidence in files with endorsements and logs beside "
    "it, roots, Intel's collateral, answers of Intel's and AMD's services, and the files in which answers are kept, "
    "with fields, events, elements of DER, members of JSON and blocks of PEM changed or exchanged. What comes out is "
    "what is in them when they are read by hand; an answer is taken at its own address and only with the statement "
    "that the vendor signed.",
    shows_not="verification, which evidence-fuzz has; how answers come over the network.",
    covers=(
        *documents.COVERS,
        "src/aigovtool/attestation/certificates.py",
        "src/aigovtool/attestation/event_list.py",
        "src/aigovtool/attestation/model.py",
        "src/aigovtool/attestation/tee",
        "src/aigovtool/cli/document.py",
        "src/aigovtool/cli/endorsements/answers.py",
        "src/aigovtool/cli/evidence/files.py",
        "src/aigovtool/crypto/keyfile.py",
        "src/aigovtool/custodian/endorsements/kept.py",
        "src/aigovtool/regular_file.py",
        "conformance/vectors/nitro/genuine.bin",
        "conformance/vectors/roots",
        "conformance/vectors/sev-snp/genuine-chain-and-list.4.end",
        "conformance/vectors/sev-snp/genuine-milan-vcek.1.end",
        "conformance/vectors/sev-snp/genuine-milan-vcek.bin",
        "conformance/vectors/tdx/genuine-4.1.end",
        "conformance/vectors/tdx/genuine-4.bin",
        "conformance/vectors/tpm/genuine-bank-384.bin",
        "conformance/vectors/tpm/genuine-certified.bin",
        "conformance/vectors/tpm/genuine-ecdsa.1.end",
        "conformance/vectors/tpm/genuine-ecdsa.bin",
        "conformance/vectors/tpm/genuine-rsassa.bin",
        "assurance/code_digest.py",
        "assurance/machine.py",
        "assurance/parsers/certificates.py",
        "assurance/parsers/envelopes.py",
        "assurance/parsers/event_logs.py",
        "assurance/parsers/evidence_files.py",
        "assurance/parsers/files.py",
        "assurance/parsers/kept_answers.py",
        "assurance/parsers/protobuf.py",
        "assurance/parsers/tpm_bundles.py",
        "assurance/parsers/vendor_answers.py",
    ),
    make=_make,
)
