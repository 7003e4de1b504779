"""Quotes of TPMs as other tools bundle them, changed within their structure and read by hand.

The evidence that is made of them must have each part as it is in the bundle, and the digests of the event log for the
quoted PCRs; whether a TPM signed it is for the verifier.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Final, cast

from conformance.malformed import der, edits, structured

from aigovtool.attestation.model import Evidence
from aigovtool.attestation.tee.tpm import bundle
from aigovtool.attestation.tee.tpm.evidence import TpmEvidence, unwrap
from aigovtool.errors import EvidenceError
from assurance.parsers import documents, event_logs, protobuf
from assurance.parsers.certificates import NotDerError, pem, unarmoured
from assurance.parsers.event_logs import NoLogError
from assurance.parsers.parser import Kind, Parts
from assurance.parsers.reading import by_hand, unlike
from assurance.parsers.vendor_answers import vector

_SHA256, _SHA384 = 0x0B, 0x0C
_NAMES: Final = {_SHA256: "sha256", _SHA384: "sha384"}
_FILES: Final = ("ak.pub", "q.msg", "q.sig", "q.pcr", "ekcert.der", "issuercert.pem", "binary_bios_measurements.bin")
_LOG_AT: Final = 6
_LENGTH: Final = 2


# --- Making --------------------------------------------------------------------------------------


def _field(number: int, content: bytes) -> bytes:
    return protobuf.varint(number << 3 | _LENGTH) + protobuf.varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return protobuf.varint(number << 3) + protobuf.varint(value)


def _quote(of: TpmEvidence, bank: int) -> bytes:
    values = (_field(2, _number(1, one.index) + _field(2, bytes.fromhex(one.digest))) for one in of.pcrs)
    return _field(1, of.attest) + _field(2, of.signature) + _field(3, _number(1, bank) + b"".join(values))


@cache
def bundles() -> tuple[bytes, ...]:
    """Return messages of go-tpm-tools: with and without a log, with one bank and with two."""
    certified = unwrap(vector("tpm/genuine-certified.bin"))
    other = unwrap(vector("tpm/genuine-bank-384.bin"))
    first, second = _field(2, _quote(certified, _SHA256)), _field(2, _quote(other, _SHA384))
    key, certificate = _field(1, certified.ak_public), _field(6, certified.certificate)
    issuer = _field(7, vector("tpm/genuine-ecdsa.1.end"))
    return (
        key + first + certificate,
        key + first + _field(3, event_logs.log(_SHA256, locality=3)) + certificate + issuer,
        key + first + second + _field(3, event_logs.log(_SHA256, _SHA384)) + _field(4, b"vm") + certificate + issuer,
    )


@cache
def _directories() -> tuple[Parts, ...]:
    """Return the contents of the files of tpm2-tools and the kernel; an empty one is not there."""
    found = []
    for name, log in (("ecdsa", event_logs.log(0x04, _SHA256)), ("bank-384", b""), ("rsassa", b"")):
        of = unwrap(vector(f"tpm/genuine-{name}.bin"))
        values = b"".join(bytes.fromhex(one.digest) for one in of.pcrs)
        public = len(of.ak_public).to_bytes(2) + of.ak_public
        issuers = pem(vector("tpm/genuine-ecdsa.1.end")) if log else b""
        found.append((public, of.attest, of.signature, values, of.certificate, issuers, log))
    return tuple(found)


def edit_bundle(data: bytes, chance: Random) -> bytes:
    """Change a message: a field, the log in it, or bytes."""
    if chance.random() < 0.25 and (nodes := protobuf.read(data, 0)) is not None:
        for node in nodes:
            if node.number == 3:
                node.content = event_logs.edit(node.content, chance)
        return b"".join(node.written() for node in nodes)
    return protobuf.edit(data, chance) if chance.random() < 0.9 else edits.edit(data, chance)


def _edit_directory(parts: Parts, chance: Random) -> Parts:
    """Change a file by what it is, leave it out, or take another quote's."""
    changed = list(parts)
    for _ in range(chance.choice((1, 1, 2))):
        at = chance.randrange(len(changed))
        if chance.random() < 0.2:
            changed[at] = chance.choice((b"", chance.choice(_directories())[at]))
        elif at == _LOG_AT:
            changed[at] = event_logs.edit(changed[at] or event_logs.log(_SHA256), chance)
        elif changed[at][:2] == b"0\x82":
            changed[at] = der.edit(changed[at], chance)
        else:
            changed[at] = structured.edit(changed[at], chance)
    return tuple(changed)


# --- Reading -------------------------------------------------------------------------------------


class NoBundleError(Exception):
    """The bytes are no bundle."""


@dataclass
class Read:
    """What is in a bundle; `values` are the PCRs by their index."""

    public: bytes
    attest: bytes
    signature: bytes
    values: dict[int, bytes]
    log: bytes | None
    certifies: str
    certificate: bytes

    def written(self) -> dict[str, Any]:
        """Return the evidence as JSON that was read.

        Raises:
            NoBundleError: what is quoted is no quote.
            NoLogError: the log is none.
        """
        bank, selected = quoted(self.attest)
        read = event_logs.by_hand(self.log) if self.log is not None else event_logs.ReadLog(frozenset({bank}))
        registers = sorted({one[0] for one in read.events} & selected)
        if registers and bank not in read.banks:
            raise NoBundleError("a log of other banks")
        return {
            "ak_public": _text(self.public),
            "attest": _text(self.attest),
            "signature": _text(self.signature),
            "bank": bank,
            "pcrs": [{"index": index, "digest": self.values[index].hex()} for index in sorted(self.values)],
            "events": {"registers": [{"register": f"pcr{at}", "digests": read.digests(at, bank)} for at in registers]},
            "startup_locality": read.locality if 0 in selected else 0,
            "report_data": None,
            "certifies": self.certifies,
            "certificate": _text(self.certificate),
            "secret": None,
        }


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def quoted(attest: bytes) -> tuple[str, set[int]]:
    """Return bank and indices of the PCRs that a TPMS_ATTEST quotes (TPM 2.0 Library, Part 2, 10.12.8).

    Raises:
        NoBundleError: it is no quote of one bank.
    """
    at = 6
    for most in (66, 64):
        size = int.from_bytes(attest[at : at + 2])
        if size > most:
            raise NoBundleError("a part that is too long")
        at += 2 + size
    safe, rest = attest[at + 16 : at + 17], attest[at + 25 :]  # before: a clock and counters; after: a version
    bank, size = _NAMES.get(int.from_bytes(rest[4:6])), int.from_bytes(rest[10:12])
    if attest[:6] != bytes.fromhex("ff5443478018") or safe not in {b"\0", b"\1"}:
        raise NoBundleError("no quote")
    if rest[:4] != b"\0\0\0\1" or rest[6:7] != b"\3" or bank is None or len(rest) != 12 + size or size > 64:
        raise NoBundleError("no quote of one bank")
    mask = int.from_bytes(rest[7:10], "little")
    return bank, {index for index in range(24) if mask >> index & 1}


def _read_bundle(data: bytes, log: bytes | None) -> tuple[Read, list[bytes]]:
    """Return what is in a message, with a log in place of its own, and the certificates that come with it.

    Raises:
        NoBundleError: it is none.
    """
    fields = _fields(data, {1, 2, 3, 4, 5, 6, 7, 8, 9})
    if log is None and 3 in fields:
        log = _only(fields, 3)
    quotes: dict[int, Read] = {}
    for one in fields.get(2, []):
        parts = _fields(one, {1, 2, 3})
        bank, values = _values(_only(parts, 3))
        quotes[bank] = Read(
            public=_only(fields, 1),
            attest=_only(parts, 1),
            signature=_only(parts, 2),
            values=values,
            log=log,
            certifies="ak",
            certificate=_only(fields, 6),
        )
    if _SHA256 not in quotes and _SHA384 not in quotes:
        raise NoBundleError("no quote of a bank")
    return quotes.get(_SHA384) or quotes[_SHA256], fields.get(7, [])


def _values(data: bytes) -> tuple[int, dict[int, bytes]]:
    """Return the bank that a list of PCRs is of, and their values."""
    found: dict[int, bytes] = {}
    nodes = _nodes(data)
    for node in nodes:
        if node.number == 2 and node.wire == _LENGTH:
            pair = _nodes(node.content)
            index = _only_number(pair, 1)
            if index in found or {(one.number, one.wire) for one in pair} - {(1, 0), (2, _LENGTH)}:
                raise NoBundleError("a value twice, or something else")
            found[index] = _only({2: [one.content for one in pair if one.number == 2]}, 2)
        elif (node.number, node.wire) != (1, 0):
            raise NoBundleError("something else among the values")
    return _only_number(nodes, 1), found


def _nodes(data: bytes) -> list[protobuf.Node]:
    found = protobuf.read(data, 0)
    if found is None:
        raise NoBundleError("no message")
    return found


def _fields(data: bytes, known: set[int]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for node in _nodes(data):
        if node.number not in known or node.wire != _LENGTH:
            raise NoBundleError("an unknown field")
        found.setdefault(node.number, []).append(node.content)
    return found


def _only(fields: dict[int, list[bytes]], number: int) -> bytes:
    values = fields.get(number, [])
    if len(values) > 1:
        raise NoBundleError("a field twice")
    return values[0] if values else b""


def _only_number(nodes: list[protobuf.Node], number: int) -> int:
    values = [one.value for one in nodes if one.number == number and one.wire == 0]
    if len(values) > 1 or any(value >= 1 << 64 for value in values):
        raise NoBundleError("a number twice, or too large")
    return values[0] if values else 0


def _read_directory(parts: Parts) -> tuple[Read, list[bytes]]:
    public, attest, signature, values, certificate, issuers, log = parts
    bank, selected = quoted(attest)
    size = 32 if bank == "sha256" else 48
    if int.from_bytes(public[:2]) != len(public) - 2 or len(values) != size * len(selected):
        raise NoBundleError("a file of another size")
    read = Read(
        public=public[2:],
        attest=attest,
        signature=signature,
        values={index: values[size * at : size * (at + 1)] for at, index in enumerate(sorted(selected))},
        log=log or None,
        certifies="ek",
        certificate=certificate,
    )
    return read, certificates_of(issuers) if issuers else []


def certificates_of(data: bytes) -> list[bytes]:
    """Return the certificates in a file that has nothing else, in PEM or DER."""
    return unarmoured(data, b"CERTIFICATE") if data.startswith(b"-----BEGIN ") else [data]


# --- Judging -------------------------------------------------------------------------------------


def wrong_bundle(
    data: bytes, evidence: Evidence, issuers: Sequence[bytes] = (), log: bytes | None = None
) -> str | None:
    """Return what is wrong with evidence that was made of a message, with issuers and a log from elsewhere."""
    try:
        read, own = _read_bundle(data, log)
        return _differs(read, [*own, *(one for one in issuers if one not in own)], evidence)
    except (NoBundleError, NoLogError) as error:
        return f"a bundle taken that is none: {error}"


def _wrong_directory(parts: Parts, value: object) -> str | None:
    try:
        read, issuers = _read_directory(parts)
        return _differs(read, issuers, cast("Evidence", value))
    except (NoBundleError, NoLogError, NotDerError) as error:
        return f"files taken for a quote that are none: {error}"


def _differs(read: Read, issuers: list[bytes], evidence: Evidence) -> str | None:
    expected = read.written()
    if (where := unlike(expected, TpmEvidence)) is not None:
        return f"a bundle against the bounds of evidence: {where}"
    if (what := documents.misspelled(evidence.data, TpmEvidence)) is not None:
        return what
    found = by_hand(evidence.data)
    different = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if different or evidence.tee.value != "tpm" or list(evidence.endorsements) != issuers:
        return f"a bundle read as something else: {', '.join(different) or 'issuers'}"
    return None


def _directory(parts: Parts) -> Evidence:
    return bundle.evidence_from_directory({name: data for name, data in zip(_FILES, parts, strict=True) if data})


def kinds() -> tuple[Kind, ...]:
    """Return the kinds of inputs that are messages, or files of a directory."""
    refusals = (EvidenceError,)
    return (
        Kind(
            name="bundles",
            genuine=tuple((one,) for one in bundles()),
            edit=lambda parts, chance: (edit_bundle(parts[0], chance),),
            read=lambda parts: bundle.evidence_from_protobuf(parts[0]),
            wrong=lambda parts, value: wrong_bundle(parts[0], cast("Evidence", value)),
            refusals=refusals,
            weight=4,
        ),
        Kind(
            name="bundle-directories",
            genuine=_directories(),
            edit=_edit_directory,
            read=_directory,
            wrong=_wrong_directory,
            refusals=refusals,
            weight=2,
        ),
    )
