"""Proofs that a lease was debited, as a consumer saves them: changed, exchanged, and verified by hand."""

import json
from functools import cache
from random import Random
from typing import Final, cast

import msgspec
from conformance.malformed import structured

from aigovtool.codec import encode
from aigovtool.errors import ConfigurationError, InputError, VerificationError
from aigovtool.ledger.merkle import inclusion_proof
from aigovtool.ledger.proof import EntryProof
from aigovtool.ledger.receipt import Receipt
from aigovtool.ledger.units import UnitVector
from aigovtool.operator.proofs import ProvenLease, SavedProof, open_saved, read_proof
from aigovtool.protocol.trust import KEY_SET
from assurance.parsers import documents, notes
from assurance.parsers.audit_log import (
    CONSUMER,
    GRANT,
    INSTANCE,
    LEASES,
    MODEL,
    SIZES,
    changed_keys,
    checkpoint,
    key_set,
    log_entries,
    noted,
)
from assurance.parsers.envelopes import key, verified_by_hand
from assurance.parsers.files import in_file
from assurance.parsers.merkle_reading import NoProofError, leaf, root_from_path
from assurance.parsers.note_reading import NoNoteError, read_note, read_state, signed_by_log
from assurance.parsers.notes import LOG, note_of
from assurance.parsers.parser import Kind, Parts
from assurance.parsers.reading import NotJsonError, by_hand, unwrapped


@cache
def _receipt() -> Receipt:
    (drawn,) = documents.drawn(Receipt, 1)
    return msgspec.structs.replace(
        drawn,
        lease_id=LEASES[0],
        instance=INSTANCE,
        model=MODEL,
        consumer=CONSUMER,
        units=UnitVector(inferences=2),
    )


@cache
def _saved() -> tuple[Parts, ...]:
    leaves = [leaf(one) for one in log_entries()]
    found: list[Parts] = []
    for size, by in ((SIZES[0], ("w1",)), (GRANT + 1, ())):
        path = inclusion_proof(leaves[:size], GRANT)
        note = note_of(checkpoint(size), *by)
        proof = EntryProof(entry=log_entries()[GRANT], index=GRANT, path=path, checkpoint=note)
        found.append((encode(SavedProof(proof=proof, key_set=msgspec.json.decode(key_set(), type=_ENVELOPE))),))
    return tuple(found)


_ENVELOPE: Final = SavedProof.__annotations__["key_set"]


def _edit_saved(parts: Parts, chance: Random) -> Parts:
    document, other = json.loads(parts[0]), json.loads(chance.choice(_saved())[0])
    proof = document["proof"]
    match chance.randrange(7):
        case 0:
            name = chance.choice(list(proof))
            proof[name] = other["proof"][name]
        case 1:
            proof["entry"] = structured.changed(proof["entry"], chance)
        case 2:
            proof["index"] = chance.choice((0, 4, 6, 9, 10, 2**53 - 1, -1))
        case 3:
            proof["path"] = chance.choices([*proof["path"], *other["proof"]["path"]], k=chance.randrange(6))
        case 4:
            (note,) = notes.edit_note((proof["checkpoint"].encode(),), chance)
            proof["checkpoint"] = note.decode("utf-8", "replace")
        case 5:
            document["key_set"] = json.loads(changed_keys(chance))
        case _:
            return (structured.edit(parts[0], chance),)
    return (json.dumps(document, separators=chance.choice(((",", ":"), (", ", ": ")))).encode(),)


def _open(parts: Parts) -> ProvenLease:
    return open_saved(in_file(parts[0], read_proof), key("root").public, _receipt())


def _wrong_saved(parts: Parts, value: object) -> str | None:
    found = cast("ProvenLease", value)
    try:
        read = by_hand(parts[0])
        proof = read["proof"]
        data, path = unwrapped(proof["entry"]) or b"", [unwrapped(one) or b"" for one in proof["path"]]
        note = read_note(proof["checkpoint"])
        state = read_state(note.text)
        root = root_from_path(leaf(data), proof["index"], state.size, path)
        payload = verified_by_hand(read["key_set"], KEY_SET, [key("root").public.raw])
    except (NotJsonError, NoNoteError, NoProofError, LookupError, TypeError) as error:
        return f"a proof taken for one that is none: {error}"
    if root != state.root or note.text not in noted() or signed_by_log(note, [LOG.public.raw]) is None:
        return "a proof of something that the log has not signed"
    if isinstance(payload, str) or payload != unwrapped(by_hand(key_set())["payload"]):
        return "a proof under another key set"
    if data != log_entries()[GRANT] or encode(found.granted) != documents.spelled(by_hand(data)["body"]).encode():
        return "a proof of another lease"
    return documents.disagreement(parts[0], SavedProof, found.saved)


def kind() -> Kind:
    """Return the kind of inputs that are saved proofs."""
    return Kind(
        name="lease-proofs",
        genuine=_saved(),
        edit=_edit_saved,
        read=_open,
        wrong=_wrong_saved,
        refusals=(VerificationError, ConfigurationError, InputError),
        weight=4,
    )
