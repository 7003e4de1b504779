"""Receipts: in the header of an answer, and in records that a consumer keeps and verifies offline.

A receipt that was changed is never taken for one; what the instance signed anew is read strictly, and is in the tree
that was signed. Of a record everything is covered by some signature or digest, except when the evidence was received:
that is the consumer's own word.
"""

import json
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any, Final, cast

import msgspec
from conformance.malformed import edits, structured

from aigovtool.attestation.binding import Audience, Binding, HpkePublicKey, IdentityPublicKey, SpkiHash
from aigovtool.attestation.model import Evidence, MeasurementHex, TeeType
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.attestation.verifier import VerifierSet
from aigovtool.codec import encode
from aigovtool.consumer.receipts import (
    ReceiptVerdict,
    SavedReceipt,
    body_digest,
    read_receipt_header,
    read_saved_receipt,
    verify_saved_receipt,
)
from aigovtool.crypto.sign import seal
from aigovtool.errors import ReceiptError, VerificationError
from aigovtool.ids import ConsumerId, Digest, InstanceId, Nonce, digest_of, key_id_of
from aigovtool.ledger.receipt import KIND, Receipt, SignedReceipt, sign_batch, verify_receipt
from aigovtool.protocol.release import session_audience
from aigovtool.protocol.session import SHARED_AUDIENCE, shares_of
from aigovtool.protocol.trust import KEY_SET, KeySet
from aigovtool.testing.simulated_tee.abi import Report, compose
from aigovtool.testing.simulated_tee.root import (
    PLATFORM_KIND,
    VALID_FROM_MS,
    VALID_UNTIL_MS,
    PlatformCertificate,
    ca_certificate,
    ca_key,
)
from aigovtool.testing.simulated_tee.verify import SimulatedVerifier, simulated_policy
from assurance.parsers import documents
from assurance.parsers.envelopes import changed, envelope, key, verified_by_hand
from assurance.parsers.files import in_file
from assurance.parsers.merkle_reading import NoProofError, leaf, root_from_path, root_of
from assurance.parsers.parser import Kind, Parser, Parts
from assurance.parsers.reading import NotJsonError, by_hand, unwrapped

_INSTANCE: Final = InstanceId("ab" * 32)
_MEASUREMENT: Final = MeasurementHex("cd" * 48)
_REQUEST, _RESPONSE, _SALT = b'{"inputs":[]}', b'{"outputs":[]}', bytes(range(32))
_AT_MS: Final = VALID_FROM_MS + 10**9


# --- Genuine -------------------------------------------------------------------------------------


@cache
def _signed() -> tuple[SignedReceipt, ...]:
    """Return receipts of batches of one, of two and of five; none is in two of them."""
    receipts = [_receipt(one) for one in documents.drawn(Receipt, 8)]
    batches = receipts[:1], receipts[1:3], receipts[3:]
    return tuple(one for batch in batches for one in sign_batch(batch, _INSTANCE, key("instance")))


def _receipt(drawn: Receipt) -> Receipt:
    return msgspec.structs.replace(
        drawn,
        instance=_INSTANCE,
        tee=TeeType.SIMULATED.value,
        consumer=ConsumerId("ward-7"),
        request=body_digest(_SALT, "request", _REQUEST),
        response=body_digest(_SALT, "response", _RESPONSE),
    )


def _header(signed: SignedReceipt) -> bytes:
    return b64encode(encode(signed))


def _evidence(claims: Binding) -> Evidence:
    """Return what the simulated platform attests, with a key that is the same in every process."""
    chip = sha256(b"TEST-ONLY chip").digest()
    report = Report(
        debug=False,
        memory_encryption=True,
        tcb=(1, 1, 1),
        chip_id=chip,
        measurement=bytes.fromhex(_MEASUREMENT),
        report_data=claims.report_data(),
        host_data=bytes(32),
    )
    certificate = PlatformCertificate(
        public_key=key("platform").public.raw,
        chip_id=chip,
        tcb=(1, 1, 1),
        not_before_ms=VALID_FROM_MS,
        not_after_ms=VALID_UNTIL_MS,
    )
    endorsements = encode(seal(PLATFORM_KIND, certificate, ca_key())), encode(ca_certificate())
    data = compose(report)
    return Evidence(tee=TeeType.SIMULATED, data=data + key("platform").sign(data), endorsements=endorsements)


@cache
def _policy() -> AppraisalPolicy:
    return simulated_policy(_MEASUREMENT)


@cache
def _records() -> tuple[SavedReceipt, ...]:
    """Return a record whose evidence was made for its consumer, and two whose evidence was shared with others."""
    key_set = KeySet(
        custodian=key_id_of(key("root").public.raw),
        version=2,
        issued_at_ms=0,
        commands=[],
        log=[],
        credentials=[],
        keystore=bytes(32),
    )
    others = [(session_audience(f"other-{at}"), Nonce(bytes([at] * 32).hex())) for at in range(4)]
    own = session_audience("ward-7"), Nonce("11" * 32)
    found = []
    for at, together in enumerate(([], others[:1], others)):
        callers = [*together[:2], own, *together[2:]]
        quoted, shares = shares_of(callers) if together else (own[1], ())
        share = shares[callers.index(own)] if together else None
        signed = _signed()[at + 2]
        claims = _claims(SHARED_AUDIENCE if together else own[0], quoted, signed.receipt.manifest)
        found.append(
            SavedReceipt(
                signed=signed,
                identity_key=key("instance").public.raw,
                claims=claims,
                evidence=_evidence(claims),
                key_set=seal(KEY_SET, key_set, key("root")),
                salt=_SALT,
                request=signed.receipt.request,
                response=signed.receipt.response,
                attested_at_ms=_AT_MS,
                nonce=own[1] if together else None,
                share=share,
            )
        )
    return tuple(found)


def _claims(audience: Audience, nonce: Nonce, manifest: Digest) -> Binding:
    return Binding(
        role="session",
        audience=audience,
        nonce=nonce,
        tls_spki=SpkiHash(bytes([1] * 32)),
        hpke_key=HpkePublicKey(bytes([2] * 32)),
        identity_key=IdentityPublicKey(key("instance").public.raw),
        instance=_INSTANCE,
        custodian_root=key_id_of(key("root").public.raw),
        configuration=digest_of(b"configuration"),
        appraisal_policy=digest_of(b"policy"),
        manifests=(manifest,),
    )


# --- Edits ---------------------------------------------------------------------------------------


def _edit_header(parts: Parts, chance: Random) -> Parts:
    """Change a receipt within its base64, or the base64 itself, or put together two."""
    if chance.random() < 0.1:
        return (edits.edit(parts[0], chance),)
    document = json.loads(unwrapped(parts[0].decode()) or b"{}")
    other = json.loads(encode(chance.choice(_signed())))
    match chance.randrange(6):
        case 0:
            name = chance.choice(list(document))
            document[name] = other[name]
        case 1:
            name = chance.choice(list(document["receipt"]))
            document["receipt"][name] = structured.changed(document["receipt"][name], chance)
        case 2:
            document["index"] = chance.choice((0, 1, 2, 4, 5, 2**53 - 1, -1))
        case 3:
            path = [*document["path"], *other["path"], b64encode(bytes(32)).decode(), ""]
            document["path"] = [chance.choice(path) for _ in range(chance.randrange(5))]
        case 4:
            batch = changed(json.dumps(document["batch"]).encode(), [encode(one.batch) for one in _signed()], chance)
            return (b64encode(json.dumps(document).encode().replace(json.dumps(document["batch"]).encode(), batch)),)
        case _:
            return (b64encode(structured.edit(unwrapped(parts[0].decode()) or b"{}", chance)),)
    return (b64encode(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")),)


def _edit_signed(_: Parts, chance: Random) -> Parts:
    """Sign another batch: of changed receipts, of another size, or of something that is no batch."""
    signed = chance.choice(_signed())
    receipt = encode(signed.receipt)
    if chance.random() < 0.7:
        value = structured.changed(json.loads(receipt), chance)
        receipt = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    leaves = [leaf(receipt), *(chance.randbytes(32) for _ in range(chance.randrange(3)))]
    batch: dict[str, Any] = {"instance": _INSTANCE, "root": b64encode(root_of(leaves)).decode(), "size": len(leaves)}
    if chance.random() < 0.4:
        batch = structured.changed(batch, chance)
    payload = json.dumps(batch, separators=(",", ":")).encode()
    if chance.random() < 0.1:
        payload = structured.edit(payload, chance)
    batch_envelope = encode(envelope(KIND, payload, [key("instance")]))
    hashes = ",".join(f'"{b64encode(one).decode()}"' for one in leaves[1:])  # of the first of three
    return (b64encode(b'{"receipt":%b,"index":0,"path":[%b],"batch":%b}' % (receipt, hashes.encode(), batch_envelope)),)


def _edit_record(parts: Parts, chance: Random) -> Parts:
    """Change a member, exchange one with another record's, or change it as JSON."""
    document = json.loads(parts[0])
    other = json.loads(encode(chance.choice(_records())))
    match chance.randrange(8):
        case 0:
            name = chance.choice(list(document))
            document[name] = other[name]
        case 1:
            name = chance.choice(("claims", "evidence", "signed"))
            member = chance.choice(list(document[name]))
            document[name][member] = other[name][member]
        case 2:
            document["attested_at_ms"] = chance.choice((0, _AT_MS + 1, VALID_UNTIL_MS - 1, VALID_UNTIL_MS, 2**53, "1"))
        case 3:
            share = document["share"] or {"index": 0, "size": 2, "proof": [b64encode(bytes(32)).decode()]}
            name = chance.choice(("index", "size", "proof"))
            document["share"] = {**share, name: structured.changed(share[name], chance)}
        case 4:
            document["nonce"] = chance.choice((None, document["claims"]["nonce"], "22" * 32, other["nonce"]))
        case _:
            return (structured.edit(parts[0], chance),)
    return (json.dumps(document, separators=chance.choice(((",", ":"), (", ", ": ")))).encode(),)


# --- The product, and the oracle -----------------------------------------------------------------


def _verify(parts: Parts) -> Receipt:
    return verify_receipt(read_receipt_header(parts[0].decode("latin-1")), key("instance").public)


def _wrong_changed(parts: Parts, value: object) -> str | None:
    known = any(one.receipt == value for one in _signed())
    return _wrong_signed(parts, value) or (None if known else "a changed receipt was taken for one")


def _wrong_signed(parts: Parts, value: object) -> str | None:
    """Verify signature and tree by hand; all of it is in its only spelling."""
    data = unwrapped(parts[0].decode("latin-1"))
    try:
        read = by_hand(data or b"")
        payload = verified_by_hand(read["batch"], KIND, [key("instance").public.raw])
        if isinstance(payload, str):
            return payload
        batch = by_hand(payload)
        receipt = documents.spelled(read["receipt"]).encode()
        path = [unwrapped(one) or b"" for one in read["path"]]
        root = root_from_path(leaf(receipt), read["index"], batch["size"], path)
    except (NotJsonError, NoProofError, LookupError, TypeError) as error:
        return f"a receipt taken for one that is none: {error}"
    if root != unwrapped(batch["root"]) or batch["instance"] != read["receipt"]["instance"]:
        return "a receipt that is not in the batch that was signed"
    what = documents.misspelled(data or b"", SignedReceipt)
    return what or documents.disagreement(receipt, Receipt, value) or None


@dataclass(frozen=True)
class _Verified:
    """A record, and what was found in it."""

    record: SavedReceipt
    verdict: ReceiptVerdict


def _verify_record(parts: Parts) -> _Verified:
    record = in_file(parts[0], read_saved_receipt)
    verdict = verify_saved_receipt(
        record,
        root=key("root").public,
        policy=_policy(),
        verifiers=VerifierSet({TeeType.SIMULATED: SimulatedVerifier()}),
        allow_simulated=True,
        request_body=_REQUEST,
        response_body=_RESPONSE,
    )
    return _Verified(record, verdict)


def _wrong_record(parts: Parts, value: object) -> str | None:
    """Everything in it must be as in a genuine one, except when the evidence was received."""
    found = cast("_Verified", value)
    if (what := documents.disagreement(parts[0], SavedReceipt, found.record)) is not None:
        return what
    genuine = [one for one in _records() if _fixed(one) == _fixed(found.record)]
    if not genuine:
        return "a record that was changed was taken for one"
    receipt, verdict = genuine[0].signed.receipt, found.verdict
    if verdict.receipt != receipt or verdict.bodies_checked != ("request", "response"):
        return "another verdict than on the genuine record"
    return _wrong_share(found.record)


def _fixed(record: SavedReceipt) -> tuple[object, ...]:
    """Return what cannot change: not the time, nor the consumer's own nonce and share, which are looked at by hand."""
    names = ("signed", "identity_key", "claims", "evidence", "key_set", "salt", "request", "response")
    return tuple(getattr(record, name) for name in names)


def _wrong_share(record: SavedReceipt) -> str | None:
    """What was quoted is the consumer's own nonce, or the root of a tree in which it is (spec: attestation, 3.4)."""
    nonce, share = record.nonce or record.claims.nonce, record.share
    if share is None:
        return None if nonce == record.claims.nonce else "evidence for another nonce"
    own = leaf(b"aigovtool shared quote v1\0consumer:ward-7\0" + bytes.fromhex(nonce))
    try:
        root = root_from_path(own, share.index, share.size, share.proof)
    except NoProofError as error:
        return f"a share that is none: {error}"
    return None if root.hex() == record.claims.nonce and 2 <= share.size <= 256 else "a share of another quote"


def _make() -> tuple[Kind, ...]:
    headers = tuple((_header(one),) for one in _signed())
    return (
        Kind(
            name="headers",
            genuine=headers,
            edit=_edit_header,
            read=_verify,
            wrong=_wrong_changed,
            refusals=(ReceiptError,),
            weight=6,
        ),
        Kind(
            name="signed-anew",
            genuine=headers,
            edit=_edit_signed,
            read=_verify,
            wrong=_wrong_signed,
            refusals=(ReceiptError,),
            weight=5,
        ),
        Kind(
            name="records",
            genuine=tuple((encode(one),) for one in _records()),
            edit=_edit_record,
            read=_verify_record,
            wrong=_wrong_record,
            refusals=(VerificationError,),
            weight=6,
        ),
    )


PARSER: Final = Parser(
    name="receipts",
    claim="No receipt and no saved record verifies that is not, in all that is signed, a genuine one.",
    counts="receipts in headers, changed or put together of two; receipts in batches that the instance has signed "
    "anew, some of which are none; and saved records with their evidence, claims, shares, key set and bodies, changed "
    "or exchanged in any part. A changed one never verifies. What was signed anew is in its only spelling, and in the "
    "tree that was signed, by an independent reading of JSON, DSSE and RFC 6962. Of a record nothing may be other "
    "than in a genuine one, except when the evidence was received.",
    shows_not="evidence of genuine platforms, of which evidence-fuzz tells: here it is simulated.",
    covers=(
        *documents.COVERS,
        "src/aigovtool/attestation/appraisal.py",
        "src/aigovtool/attestation/binding.py",
        "src/aigovtool/attestation/examination.py",
        "src/aigovtool/attestation/model.py",
        "src/aigovtool/attestation/policy.py",
        "src/aigovtool/attestation/verifier.py",
        "src/aigovtool/consumer/attest.py",
        "src/aigovtool/consumer/receipts.py",
        "src/aigovtool/crypto/locked.py",
        "src/aigovtool/crypto/secret.py",
        "src/aigovtool/crypto/sign.py",
        "src/aigovtool/ledger/merkle.py",
        "src/aigovtool/ledger/receipt.py",
        "src/aigovtool/ledger/units.py",
        "src/aigovtool/protocol/release.py",
        "src/aigovtool/protocol/session.py",
        "src/aigovtool/protocol/trust.py",
        "src/aigovtool/testing/simulated_tee",
        "assurance/machine.py",
        "assurance/parsers/envelopes.py",
        "assurance/parsers/files.py",
        "assurance/parsers/merkle_reading.py",
        "assurance/parsers/receipts.py",
    ),
    make=_make,
)
