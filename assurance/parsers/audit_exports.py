"""The audit log as it leaves the custodian: exports, proofs that a lease was debited, checkpoints, and backups.

An export that was changed is never taken for the log, under the pinned root. One whose entries were changed and whose
checkpoint was signed anew by the log's key may be: if each entry is in its only spelling and in its place, the root is
theirs, and the balances are what arithmetic by hand gives.
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any, Final, cast

from conformance.malformed import edits, structured

from aigovtool.codec import encode
from aigovtool.errors import VerificationError
from aigovtool.ledger import entry
from aigovtool.ledger.audit import AuditReport
from aigovtool.operator.audit_file import AuditHeader, verify_audit_file
from aigovtool.protocol.trust import KEY_SET
from assurance.parsers import documents, lease_proofs, ledger_backups, notes
from assurance.parsers.audit_log import (
    GRANT,
    SEEN,
    SIZES,
    changed_keys,
    checkpoint,
    key_set,
    log_entries,
    noted,
)
from assurance.parsers.envelopes import edited, key, verified_by_hand
from assurance.parsers.files import in_file
from assurance.parsers.merkle_reading import leaf, root_of
from assurance.parsers.note_reading import NoNoteError, cosigned_by, read_note, read_state, signed_by_log
from assurance.parsers.notes import LOG, WITNESSES, note_of
from assurance.parsers.parser import Kind, Parser, Parts
from assurance.parsers.reading import NotJsonError, by_hand, unwrapped

# --- Genuine -------------------------------------------------------------------------------------


def _export(entries: Sequence[bytes], note: str, cosigned: Sequence[str]) -> bytes:
    header = {"format": "aigovtool-audit.v1", "checkpoint": note, "key_set": json.loads(key_set())}
    if cosigned:
        header["cosigned"] = list(cosigned)
    lines = [json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()]
    lines += [b'{"leaf":"%b","entry":%b}' % (leaf(one).hex().encode(), one) for one in entries]
    return b"".join(line + b"\n" for line in lines)


@cache
def _exports() -> tuple[Parts, ...]:
    newest, earlier = (note_of(checkpoint(size), "w1") for size in SIZES)
    cosigned = [note_of(checkpoint(size), "w1") for size in (SIZES[1], GRANT + 1)]
    return (
        (_export(log_entries(), newest, cosigned),),
        (_export(log_entries()[: SIZES[1]], earlier, ()),),
        (_export(log_entries(), note_of(checkpoint(SIZES[0])), cosigned[:1]),),
    )


# --- Edits of exports ----------------------------------------------------------------------------


def _edit_export(parts: Parts, chance: Random) -> Parts:
    lines = parts[0].split(b"\n")[:-1]
    other = chance.choice(_exports())[0].split(b"\n")[:-1]
    at = chance.randrange(len(lines))
    match chance.randrange(10):
        case 0:
            return (edits.edit(parts[0], chance),)
        case 1:
            lines[at] = chance.choice(other)
        case 2:
            lines[at:at] = [chance.choice((*lines, b"", b"{}", lines[at]))]
        case 3:
            lines.pop(at)
        case 4:
            chance.shuffle(lines)
        case 5:
            lines[at] = structured.edit(lines[at], chance)
        case 6 | 7:
            lines[0] = _of_header(lines[0], other[0], chance)
        case _:
            lines[at] = _respelled(lines[at], chance)
    return (b"".join(line + b"\n" for line in lines),)


def _of_header(line: bytes, other: bytes, chance: Random) -> bytes:
    """Change the header so that it may be one: notes with fewer signatures, or other ones, or in another order."""
    header, theirs = json.loads(line), json.loads(other)
    cosigned = [*header.get("cosigned", ()), *theirs.get("cosigned", ()), *noted().values()]
    match chance.randrange(6):
        case 0:
            header["cosigned"] = chance.choices(cosigned, k=chance.randrange(17))
        case 1:
            header["checkpoint"] = chance.choice((theirs["checkpoint"], header["checkpoint"].rsplit("—", 1)[0]))
        case 2:
            (note,) = notes.edit_note((header["checkpoint"].encode(),), chance)
            header["checkpoint"] = note.decode("utf-8", "replace")
        case 3:
            header["key_set"] = json.loads(changed_keys(chance))
        case 4:
            header = {**header, "cosigned": chance.choice(([], None, [""], "x"))}
        case _:
            return structured.edit(line, chance)
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def _respelled(line: bytes, chance: Random) -> bytes:
    """Say the same in another way."""
    try:
        document = json.loads(line)
    except ValueError:
        return edits.edit(line, chance)
    ways = (
        lambda: json.dumps(document).encode(),
        lambda: json.dumps(document, separators=(",", ":"), sort_keys=True).encode(),
        lambda: line.replace(b'"', b"\\u0022", 1),
        lambda: line + b" ",
        lambda: line.replace(b"ab", b"AB", 1),
        lambda: line + b"\r",
    )
    return chance.choice(ways)()


def _edit_resealed(parts: Parts, chance: Random) -> Parts:
    """Change entries, and have the log's key sign what became of them; the witness has signed what was before."""
    entries = [line[83:-1] for line in parts[0].split(b"\n")[1:-1]]
    for _ in range(chance.choice((1, 1, 2))):
        at = chance.randrange(len(entries))
        match chance.randrange(6):
            case 0:
                entries[at : at + 1] = []
            case 1:
                entries[at:at] = [entries[at]]
            case 2:
                body = json.loads(chance.choice(log_entries()))["body"]
                entries[at] = _with_members(entries[at], {"body": body})
            case _:
                entries[at] = edited(entries[at], chance).replace(b"\n", b" ")
        if not entries:
            return parts
    if chance.random() < 0.5:
        entries = [_renumbered(one, at) for at, one in enumerate(entries)]
    return (_export(entries, note_of(checkpoint(len(entries), entries)), ()),)


def _renumbered(data: bytes, at: int) -> bytes:
    return _with_members(data, {"index": at, "at_ms": 1000 + at})


def _with_members(data: bytes, members: dict[str, object]) -> bytes:
    """Return an entry with these members; what is no JSON after earlier edits stays as it is."""
    try:
        document = {**json.loads(data), **members}
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    except (ValueError, TypeError, RecursionError):
        return data


# --- The product, and the oracle -----------------------------------------------------------------


def _verify(parts: Parts, seen: Sequence[str]) -> AuditReport:
    root = key("root").public
    return in_file(parts[0], lambda path: verify_audit_file(path, root, seen=seen, witnesses=WITNESSES[:1]))


def _wrong_export(parts: Parts, value: object) -> str | None:
    """Nothing but lines of signatures may differ from the log, and those are of the log and of its witness."""
    report = cast("AuditReport", value)
    try:
        header, entries = _split(parts[0])
        size = _signed_size(header)
    except (NotJsonError, NoNoteError, LookupError, TypeError, ValueError) as error:
        return f"an export taken for one that is none: {error}"
    if entries != list(log_entries()[:size]) or report.entries != size or size not in SIZES:
        return "an export with other entries was taken for the log"
    return _wrong_header(parts[0].split(b"\n")[0]) or _other_balances(entries, report)


def _split(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Return the header, and the entries, each beside its hash."""
    first, *lines = data.split(b"\n")
    if lines[-1:] != [b""]:
        raise NotJsonError("the last line does not end")
    entries = []
    for line in lines[:-1]:
        read = by_hand(line)
        written = documents.spelled(read["entry"]).encode()
        if line != b'{"leaf":"%b","entry":%b}' % (leaf(written).hex().encode(), written):
            raise NotJsonError("a line in another spelling, or with another hash")
        entries.append(written)
    return by_hand(first), entries


def _signed_size(header: dict[str, Any]) -> int:
    note = read_note(header["checkpoint"])
    if signed_by_log(note, [LOG.public.raw]) is None:
        raise NoNoteError("not signed by the log")
    for one in WITNESSES:
        cosigned_by(note, one.name, one.key.raw)
    return read_state(note.text).size


def _wrong_header(line: bytes) -> str | None:
    if (what := documents.misspelled(line, AuditHeader)) is not None:
        return what
    header = by_hand(line)
    payload = verified_by_hand(header["key_set"], KEY_SET, [key("root").public.raw])
    if isinstance(payload, str) or payload != (unwrapped(by_hand(key_set())["payload"]) or b""):
        return "another key set"
    for note in (header["checkpoint"], *header.get("cosigned", ())):
        known = noted().get(read_note(note).text, "")
        if any(line.line not in known for line in read_note(note).lines):
            return "a note with signatures that nobody made"
    return None


def _wrong_resealed(parts: Parts, value: object) -> str | None:
    report = cast("AuditReport", value)
    try:
        header, entries = _split(parts[0])
        state = read_state(read_note(header["checkpoint"]).text)
    except (NotJsonError, NoNoteError, LookupError, TypeError, ValueError) as error:
        return f"an export taken for one that is none: {error}"
    if (state.size, state.root) != (len(entries), root_of([leaf(one) for one in entries])):
        return "an export with another root than was signed"
    for at, one in enumerate(entries):
        read = by_hand(one)
        if (what := documents.misspelled(one, entry.Entry)) is not None:
            return what
        if read["index"] != at or (read["body"]["kind"] == "genesis") is not (at == 0):
            return f"entry {at} is in another place"
    return _other_balances(entries, report)


def _other_balances(entries: Sequence[bytes], report: AuditReport) -> str | None:
    """Recompute what each lease weighs on its rows: held, then charged as it was closed, or in full."""
    posted: Counter[str] = Counter()
    pending: Counter[str] = Counter()
    leases: dict[str, Any] = {}
    for body in (by_hand(one)["body"] for one in entries):
        kind = body["kind"]
        if kind in {"lease_written_off", "charged", "restored"}:
            return None  # of another history than the one that is changed here
        if kind == "lease_granted":
            leases[body["lease_id"]] = body
        lease = leases.get(body.get("lease_id", ""), {"rows": []})
        for row in lease["rows"]:
            name, units = documents.spelled(row), lease["units"].get(row["dimension"], 0)
            now = {"lease_granted": units, "lease_expired": -units, "lease_closed": 0 if body.get("late") else -units}
            charged = body.get("charged", {}).get(row["dimension"], 0)
            spent = {"lease_expired": units, "lease_closed": charged - (units if body.get("late") else 0)}
            pending[name] += now.get(kind, 0)
            posted[name] += spent.get(kind, 0)
    for row in report.rows:
        name = encode(row.key).decode()
        if (row.posted, row.pending) != (posted[name], pending[name]):
            return f"a balance of {row.posted} and {row.pending}, by hand {posted[name]} and {pending[name]}"
        if row.limit is not None and row.posted + row.pending > max(row.limit, 100):
            return "a budget that is over-granted"
    return None


def _make() -> tuple[Kind, ...]:
    seen = (note_of(checkpoint(SEEN)),)
    return (
        Kind(
            name="exports",
            genuine=_exports(),
            edit=_edit_export,
            read=lambda parts: _verify(parts, seen),
            wrong=_wrong_export,
            refusals=(VerificationError,),
            weight=8,
        ),
        Kind(
            name="resealed",
            genuine=_exports(),
            edit=_edit_resealed,
            read=lambda parts: _verify(parts, ()),
            wrong=_wrong_resealed,
            refusals=(VerificationError,),
            weight=6,
        ),
        lease_proofs.kind(),
        ledger_backups.kind(),
        *notes.kinds(),
    )


PARSER: Final = Parser(
    name="audit-exports",
    claim="No copy, checkpoint or proof of the audit log is taken for the log's that is another one.",
    counts="exports with lines changed, exchanged, doubled, dropped and spelled otherwise; exports whose entries were "
    "changed and whose checkpoint the log's key has signed anew; saved proofs of leases; files of backups; notes, with "
    "signatures of the log, of witnesses and of others, lines added, repeated and respelled, and other texts signed "
    "anew; verifier keys; proofs of inclusion and of consistency. Notes and proofs are taken if, and only if, an "
    "independent reading by the standards takes them. An export has the entries, the key set and no other signatures "
    "than were made; what was signed anew is in its only spelling and place, and gives the balances of arithmetic by "
    "hand.",
    shows_not="long logs, and every rule of the replay: tampering and real-log tell of these.",
    covers=(
        *documents.COVERS,
        "src/aigovtool/crypto/locked.py",
        "src/aigovtool/crypto/secret.py",
        "src/aigovtool/crypto/sign.py",
        "src/aigovtool/ledger",
        "src/aigovtool/operator/audit_file.py",
        "src/aigovtool/operator/backup.py",
        "src/aigovtool/operator/proofs.py",
        "src/aigovtool/protocol/trust.py",
        "src/aigovtool/protocol/views.py",
        "assurance/machine.py",
        "assurance/parsers/audit_exports.py",
        "assurance/parsers/audit_log.py",
        "assurance/parsers/envelopes.py",
        "assurance/parsers/files.py",
        "assurance/parsers/lease_proofs.py",
        "assurance/parsers/ledger_backups.py",
        "assurance/parsers/merkle_reading.py",
        "assurance/parsers/note_reading.py",
        "assurance/parsers/notes.py",
    ),
    make=_make,
)
