"""The audit log as it leaves the custodian: exports, proofs that a lease was debited, checkpoints, and backups.

An export that was changed is never taken for the log, under the pinned root. One whose entries were changed and whose
checkpoint was signed anew by the log's key may be: if each entry is in its only spelling and in its place, the root is
theirs, and the balances are what arithmetic by hand gives.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import msgspec
from conformance.malformed import edits, structured

from aigovtool.codec import encode
from aigovtool.crypto.sign import seal
from aigovtool.errors import ConfigurationError, InputError, LogError, VerificationError
from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, LeaseId, MessageId, ModelId, OperatorId, digest_of
from aigovtool.ledger import entry
from aigovtool.ledger.audit import AuditReport
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window
from aigovtool.ledger.checkpoint import Checkpoint
from aigovtool.ledger.merkle import Frontier, inclusion_proof
from aigovtool.ledger.proof import EntryProof
from aigovtool.ledger.receipt import Receipt
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.operator.audit_file import AuditHeader, verify_audit_file
from aigovtool.operator.backup import require_whole
from aigovtool.operator.proofs import ProvenLease, SavedProof, open_saved, read_proof
from aigovtool.protocol.trust import KEY_SET, KeySet
from assurance.parsers import documents, notes
from assurance.parsers.envelopes import changed, edited, key, verified_by_hand
from assurance.parsers.files import in_file
from assurance.parsers.merkle_reading import NoProofError, leaf, root_from_path, root_of
from assurance.parsers.note_reading import NoNoteError, cosigned_by, read_note, read_state, signed_by_log
from assurance.parsers.notes import CUSTODIAN, LOG, WITNESSES, note_of
from assurance.parsers.parser import Kind, Parser, Parts
from assurance.parsers.reading import NotJsonError, by_hand, unwrapped

_MODEL, _BORROWER, _CONSUMER = ModelId("doubler"), BorrowerId("st-mary"), ConsumerId("ward-7")
_LEASES: Final = tuple(LeaseId(f"{at:032x}") for at in (1, 2, 3))
_INSTANCE: Final = InstanceId("ab" * 32)
_DIGEST: Final = digest_of(b"anything")


# --- Genuine -------------------------------------------------------------------------------------


def _command(at: int) -> entry.Command:
    second = OperatorId("bob") if at % 2 else None
    return entry.Command(
        operator=OperatorId("alice"), command_id=MessageId(f"{at:032x}"), digest=_DIGEST, second=second
    )


@cache
def _entries() -> tuple[bytes, ...]:
    """Return a short log with leases that are closed, expired and open."""
    scope = Scope(model=_MODEL, borrower=_BORROWER)
    limit = BudgetLimit(scope=scope, dimension=Dimension.INFERENCES, window=Window.LIFETIME, limit=100)
    row = RowKey(scope=scope, dimension=Dimension.INFERENCES, window=Window.LIFETIME, bucket_ms=0)
    granted = [
        entry.LeaseGranted(
            lease_id=one,
            instance=_INSTANCE,
            borrower=_BORROWER,
            model=_MODEL,
            consumer=_CONSUMER,
            units=UnitVector(inferences=10 + at),
            rows=[row],
        )
        for at, one in enumerate(_LEASES)
    ]
    closed = entry.LeaseClosed(
        lease_id=_LEASES[0],
        late=False,
        used=UnitVector(inferences=4),
        charged=UnitVector(inferences=4),
        ok=4,
        err=0,
        receipts="",
    )
    added = entry.ModelAdded(
        model=_MODEL,
        manifest=_DIGEST,
        package=_DIGEST,
        package_bytes=1,
        sealer=CUSTODIAN,
        policy=_DIGEST,
        command=_command(0),
    )
    bodies: list[entry.EntryBody] = [
        entry.Genesis(custodian=CUSTODIAN),
        entry.KeySetPublished(version=1, digest=_DIGEST),
        entry.WitnessEnrolled(witness=WITNESSES[0].text(), command=_command(1)),
        added,
        entry.BudgetSet(limit=limit, command=_command(2)),
        *granted[:2],
        closed,
        entry.LeaseExpired(lease_id=_LEASES[1]),
        granted[2],
        entry.Stopped(target=entry.StopTarget.CONSUMER, value="ward-8", epoch=1, command=_command(3)),
    ]
    made = [entry.Entry(index=at, at_ms=1000 + at, generation=0, body=body) for at, body in enumerate(bodies)]
    return tuple(map(encode, made))


def _checkpoint(size: int, entries: Sequence[bytes] | None = None) -> Checkpoint:
    leaves = [leaf(one) for one in (_entries() if entries is None else entries)[:size]]
    return Checkpoint(custodian=CUSTODIAN, size=size, root=root_of(leaves))


@cache
def _key_set() -> bytes:
    key_set = KeySet(
        custodian=CUSTODIAN,
        version=1,
        issued_at_ms=0,
        commands=[],
        log=[key("earlier log").public.raw, LOG.public.raw],
        credentials=[],
        keystore=bytes(32),
    )
    return encode(seal(KEY_SET, key_set, key("root")))


#: What the reader has kept, and the newest note, as bare as it may be.
_SIZES: Final = (11, 8)
_SEEN: Final = 5


@cache
def _noted() -> dict[str, str]:
    """Return the notes in exports by their texts, with all signatures that they may have."""
    found = [note_of(_checkpoint(size), "w1") for size in (*_SIZES, 6, _SEEN)]
    return {read_note(one).text: one for one in found}


def _export(entries: Sequence[bytes], note: str, cosigned: Sequence[str]) -> bytes:
    header = {"format": "aigovtool-audit.v1", "checkpoint": note, "key_set": json.loads(_key_set())}
    if cosigned:
        header["cosigned"] = list(cosigned)
    lines = [json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()]
    lines += [b'{"leaf":"%b","entry":%b}' % (leaf(one).hex().encode(), one) for one in entries]
    return b"".join(line + b"\n" for line in lines)


@cache
def _exports() -> tuple[Parts, ...]:
    newest, earlier = (note_of(_checkpoint(size), "w1") for size in _SIZES)
    cosigned = [note_of(_checkpoint(size), "w1") for size in (8, 6)]
    return (
        (_export(_entries(), newest, cosigned),),
        (_export(_entries()[:8], earlier, ()),),
        (_export(_entries(), note_of(_checkpoint(11)), cosigned[:1]),),
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
    cosigned = [*header.get("cosigned", ()), *theirs.get("cosigned", ()), *_noted().values()]
    match chance.randrange(6):
        case 0:
            header["cosigned"] = chance.choices(cosigned, k=chance.randrange(17))
        case 1:
            header["checkpoint"] = chance.choice((theirs["checkpoint"], header["checkpoint"].rsplit("—", 1)[0]))
        case 2:
            (note,) = notes.edit_note((header["checkpoint"].encode(),), chance)
            header["checkpoint"] = note.decode("utf-8", "replace")
        case 3:
            header["key_set"] = json.loads(_changed_keys(chance))
        case 4:
            header = {**header, "cosigned": chance.choice(([], None, [""], "x"))}
        case _:
            return structured.edit(line, chance)
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def _changed_keys(chance: Random) -> bytes:
    """Return a key set that was changed, as far as it is JSON: it goes into a header."""
    data = changed(_key_set(), [_key_set()], chance)
    try:
        return json.dumps(json.loads(data)).encode()
    except (ValueError, RecursionError):
        return b"{}"


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
                body = json.loads(chance.choice(_entries()))["body"]
                entries[at] = _with_members(entries[at], {"body": body})
            case _:
                entries[at] = edited(entries[at], chance).replace(b"\n", b" ")
        if not entries:
            return parts
    if chance.random() < 0.5:
        entries = [_renumbered(one, at) for at, one in enumerate(entries)]
    return (_export(entries, note_of(_checkpoint(len(entries), entries)), ()),)


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
    if entries != list(_entries()[:size]) or report.entries != size or size not in _SIZES:
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
    if isinstance(payload, str) or payload != (unwrapped(by_hand(_key_set())["payload"]) or b""):
        return "another key set"
    for note in (header["checkpoint"], *header.get("cosigned", ())):
        known = _noted().get(read_note(note).text, "")
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


# --- Proofs of leases ----------------------------------------------------------------------------


@cache
def _receipt() -> Receipt:
    (drawn,) = documents.drawn(Receipt, 1)
    return msgspec.structs.replace(
        drawn,
        lease_id=_LEASES[0],
        instance=_INSTANCE,
        model=_MODEL,
        consumer=_CONSUMER,
        units=UnitVector(inferences=2),
    )


@cache
def _saved() -> tuple[Parts, ...]:
    leaves = [leaf(one) for one in _entries()]
    found: list[Parts] = []
    for size, by in ((11, ("w1",)), (6, ())):
        path = inclusion_proof(leaves[:size], 5)
        proof = EntryProof(entry=_entries()[5], index=5, path=path, checkpoint=note_of(_checkpoint(size), *by))
        found.append((encode(SavedProof(proof=proof, key_set=msgspec.json.decode(_key_set(), type=_ENVELOPE))),))
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
            document["key_set"] = json.loads(_changed_keys(chance))
        case _:
            return (structured.edit(parts[0], chance),)
    return (json.dumps(document, separators=chance.choice(((",", ":"), (", ", ": ")))).encode(),)


def _open_saved(parts: Parts) -> ProvenLease:
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
    if root != state.root or note.text not in _noted() or signed_by_log(note, [LOG.public.raw]) is None:
        return "a proof of something that the log has not signed"
    if isinstance(payload, str) or payload != unwrapped(by_hand(_key_set())["payload"]):
        return "a proof under another key set"
    if data != _entries()[5] or encode(found.granted) != documents.spelled(by_hand(data)["body"]).encode():
        return "a proof of another lease"
    return documents.disagreement(parts[0], SavedProof, found.saved)


# --- Backups -------------------------------------------------------------------------------------


#: In the place of the log; for whoever reads all of it, it could as well be without an end.
_LONG: Final = (
    "CREATE VIEW log AS WITH RECURSIVE counting(at) AS (SELECT 0 UNION ALL SELECT at + 1 FROM counting "
    "WHERE at < 2000000) SELECT -at AS idx, x'00' AS leaf, x'00' AS root, x'00' AS body FROM counting"
)


@cache
def _ledgers() -> tuple[Parts, ...]:
    """Return files of SQLite with the two tables that are compared with the checkpoint."""
    with closing(sqlite3.connect(":memory:")) as ledger:
        ledger.execute("PRAGMA page_size=512")
        ledger.execute("CREATE TABLE log (idx BIGINT PRIMARY KEY, leaf BLOB, root BLOB, body BLOB, kind TEXT)")
        ledger.execute("CREATE TABLE head (id INTEGER PRIMARY KEY, schema INTEGER, body BLOB)")
        frontier = Frontier()
        for at, one in enumerate(_entries()):
            frontier = frontier.append(leaf(one))
            ledger.execute("INSERT INTO log VALUES (?, ?, ?, ?, 'x')", (at, leaf(one), frontier.root(), one))
        head = b'{"frontier":%b,"generation":0,"epoch":1}' % encode(frontier)
        ledger.execute("INSERT INTO head VALUES (1, 4, ?)", (head,))
        ledger.commit()
        return ((ledger.serialize(),),)


def _edit_ledger(parts: Parts, chance: Random) -> Parts:
    """Change pages as bytes, or what is in the tables."""
    if chance.random() < 0.6:
        (data,) = parts
        for _ in range(chance.choice((1, 1, 2, 5))):
            data = edits.edit(data, chance)
        return (data,)
    with closing(sqlite3.connect(":memory:")) as ledger:
        ledger.deserialize(parts[0])
        at = chance.randrange(len(_entries()))
        value = chance.choice((None, 1, "text", b"", bytes(32), chance.randbytes(40), 1.5, _entries()[at - 1]))
        column = chance.choice(("idx", "leaf", "root", "body"))
        ways = (
            (f"UPDATE log SET {column} = ? WHERE idx = ?", (value, at)),  # noqa: S608 - one of the names above
            ("DELETE FROM log WHERE idx = ?", (at,)),
            ("UPDATE head SET body = ?", (value,)),
            ("DELETE FROM head", ()),
            ("INSERT INTO log VALUES (?, x'00', x'00', x'00', '')", (chance.choice((-1, 11, 12)),)),
            ("UPDATE log SET idx = idx + 1 WHERE idx = ?", (len(_entries()) - 1,)),
            (f"ALTER TABLE {chance.choice(('log', 'head'))} RENAME TO other", ()),
            (_LONG, ()),
        )
        statement, values = chance.choice(ways)
        if statement == _LONG:
            ledger.execute("DROP TABLE log")
        with suppress(sqlite3.IntegrityError):  # there is such an index
            ledger.execute(statement, values)
        ledger.commit()
        return (ledger.serialize(),)


def _check_ledger(parts: Parts) -> None:
    in_file(parts[0], lambda path: require_whole(path, _checkpoint(11)))


def _wrong_ledger(parts: Parts, _value: object) -> str | None:
    def rows(path: Path) -> tuple[list[Any], list[Any]]:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as ledger:
            found = ledger.execute("SELECT body FROM log ORDER BY idx").fetchall()
            return found, ledger.execute("SELECT body FROM head").fetchall()

    log, head = in_file(parts[0], rows)
    if [body for (body,) in log] != list(_entries()):
        return "a backup with another log was taken for whole"
    read = json.loads(head[0][0])
    size, generation = read["frontier"]["size"], read.get("generation", 0)
    return None if (size, generation) == (11, 0) else "a backup with another head was taken for whole"


def _make() -> tuple[Kind, ...]:
    seen = (note_of(_checkpoint(_SEEN)),)
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
        Kind(
            name="lease-proofs",
            genuine=_saved(),
            edit=_edit_saved,
            read=_open_saved,
            wrong=_wrong_saved,
            refusals=(VerificationError, ConfigurationError, InputError),
            weight=4,
        ),
        Kind(
            name="backups",
            genuine=_ledgers(),
            edit=_edit_ledger,
            read=_check_ledger,
            wrong=_wrong_ledger,
            refusals=(LogError,),
            weight=3,
        ),
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
        "src/aigovtool/crypto/sign.py",
        "src/aigovtool/ledger",
        "src/aigovtool/operator/audit_file.py",
        "src/aigovtool/operator/backup.py",
        "src/aigovtool/operator/proofs.py",
        "src/aigovtool/protocol/trust.py",
        "src/aigovtool/protocol/views.py",
        "assurance/machine.py",
        "assurance/parsers/audit_exports.py",
        "assurance/parsers/envelopes.py",
        "assurance/parsers/files.py",
        "assurance/parsers/merkle_reading.py",
        "assurance/parsers/note_reading.py",
        "assurance/parsers/notes.py",
    ),
    make=_make,
)
