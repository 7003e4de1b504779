"""Vectors, as they lie in files: evidence, the time and roots to judge it by, and the expected verdict."""

import os
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

FOLDER = Path(__file__).resolve().parent
VECTORS = FOLDER / "vectors"
PUBLIC = FOLDER / "public.json"
TEES = ("sev-snp", "tdx", "sgx", "nitro", "tpm")


class Expected(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The verdict.

    Attributes:
        genuine: whether the evidence is what it claims to be at that time.
        reason: why not: AIGovTool's word (docs/spec/attestation). Other verifiers have other words.
        acceptable: whether the vector's policy accepts it; None without a policy, or if it is not genuine.
        refused: the first check of the policy that fails (docs/spec/attestation.md, 5.2).
        says: some of what genuine evidence says, by AIGovTool's names: measurements, report_data, debug, facts ...
    """

    genuine: bool
    reason: str | None = None
    acceptable: bool | None = None
    refused: str | None = None
    says: dict[str, Any] = field(default_factory=dict)


class Vector(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One piece of evidence. Paths are relative to `vectors/`, of public vectors to the folder of public evidence.

    Attributes:
        name: unique within its TEE.
        title: what it shows: the rule or the attack.
        at_ms: the time to judge it at, in milliseconds since 1970.
        data: the report, quote, document or bundle; of a public TPM a directory of files.
        endorsements: what travels with it, in this order.
        roots: whose certificates are believed instead of the vendor's. Empty: the vendor's.
        nonce: the nonce that another program asked for (public TPM quotes), in hexadecimal.
        policy: an appraisal policy (docs/spec/attestation.md, 5.1).
        event_log: a firmware's log to be brought into AIGovTool's form (public only).
        cut: so many bytes at the end of `data` are left out (public only).
    """

    name: str
    title: str
    tee: str
    at_ms: int
    data: str
    expected: Expected
    endorsements: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    nonce: str | None = None
    policy: str | None = None
    event_log: str | None = None
    cut: int = 0


class Origin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a public file is from; the folders are those of the repository at that commit."""

    repository: str
    commit: str
    folders: tuple[str, ...]
    licence: str
    note: str = ""


class PublicFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One public file: from where, and its SHA-256, by which it is found whatever it is called there."""

    origin: str
    sha256: str


class Public(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of public vectors; the files themselves are not in this repository."""

    origins: dict[str, Origin]
    files: dict[str, PublicFile]
    vectors: tuple[Vector, ...]


def evidence_folder() -> Path | None:
    """Return where public evidence lies, if `AIGOVTOOL_EVIDENCE_DIR` says so."""
    named = os.environ.get("AIGOVTOOL_EVIDENCE_DIR")
    return Path(named) if named else None


def read_public() -> Public:
    """Return the manifest of public vectors."""
    return msgspec.json.decode(PUBLIC.read_bytes(), type=Public)


def self_made() -> Iterator[Vector]:
    """Yield all vectors that lie in this repository."""
    for tee in TEES:
        yield from msgspec.json.decode((VECTORS / f"{tee}.json").read_bytes(), type=tuple[Vector, ...])


def wrong_files(public: Public, folder: Path) -> list[str]:
    """Return the names of public files that are missing, or are others than the manifest says."""
    return [
        name
        for name, file in public.files.items()
        if not (folder / name).is_file() or sha256((folder / name).read_bytes()).hexdigest() != file.sha256
    ]


def parts(vector: Vector, folder: Path) -> tuple[bytes, tuple[bytes, ...]]:
    """Return data and endorsements of a vector, byte for byte as a verifier gets them.

    Files of public vectors are spelled in many ways (PEM, base64, formatted JSON), and are brought into the only
    encoding that verifiers read first; what lies in this repository is taken as it is.
    """
    if folder == VECTORS:
        return (folder / vector.data).read_bytes(), tuple((folder / name).read_bytes() for name in vector.endorsements)
    from aigovtool.attestation.model import TeeType  # noqa: PLC0415 - the suite's own vectors need nothing of it
    from aigovtool.cli.evidence.files import read_evidence  # noqa: PLC0415

    log = None if vector.event_log is None else folder / vector.event_log
    endorsements = [folder / name for name in vector.endorsements]
    found = read_evidence(TeeType(vector.tee), folder / vector.data, endorsements, log)
    return found.data[: len(found.data) - vector.cut], found.endorsements


def bundle(vector: Vector, folder: Path) -> bytes:
    """Return the one file that a verifier is given: `{"tee": ..., "data": base64, "endorsements": [base64, ...]}`."""
    data, endorsements = parts(vector, folder)
    document = {
        "tee": vector.tee,
        "data": b64encode(data).decode(),
        "endorsements": [b64encode(one).decode() for one in endorsements],
    }
    return msgspec.json.encode(document)
