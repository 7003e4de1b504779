"""Checkpoints, co-signatures, verifier keys of witnesses, and Merkle proofs: what outsiders keep of a log, and compare.

Everything that the product says of a note, and of a proof, is compared with the reading by hand, both ways: what it
takes and what it refuses.
"""

from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any, Final, TypeVar, cast

from conformance.malformed import edits

from aigovtool.errors import InvalidValueError, LogError
from aigovtool.ids import KeyId, key_id_of
from aigovtool.ledger.checkpoint import (
    Checkpoint,
    open_checkpoint,
    parse_checkpoint,
    plain_note,
    sign_checkpoint,
    split_note,
)
from aigovtool.ledger.cosignature import (
    WitnessKey,
    cosign,
    cosigner_name,
    open_cosigned,
    parse_witness_key,
    witnessed,
)
from aigovtool.ledger.merkle import (
    consistency_proof,
    inclusion_proof,
    verify_consistency,
    verify_inclusion,
)
from assurance.parsers.envelopes import key
from assurance.parsers.merkle_reading import NoProofError, leaf, root_from_path, root_of, roots_from_proof
from assurance.parsers.note_reading import (
    Line,
    NoNoteError,
    Note,
    cosigned_by,
    read_note,
    read_state,
    signed_by_log,
)
from assurance.parsers.parser import Kind, Parts
from assurance.parsers.reading import unwrapped

T = TypeVar("T")

CUSTODIAN: Final = key_id_of(key("root").public.raw)
LOG: Final = key("log")
WITNESSES: Final = tuple(WitnessKey(name=f"witness.example/{one}", key=key(one).public) for one in ("w1", "w2"))
_ORIGIN: Final = f"aigovtool/{CUSTODIAN}"


# --- Notes ---------------------------------------------------------------------------------------


def note_of(checkpoint: Checkpoint, *by: str) -> str:
    """Return a note, signed by the log, and co-signed by these witnesses."""
    lines = (cosign(checkpoint.text(), f"witness.example/{one}", key(one), 1_700_000_000) for one in by)
    return sign_checkpoint(checkpoint, LOG) + "".join(sorted(lines))


@cache
def _notes() -> tuple[Parts, ...]:
    roots = [leaf(bytes([at])) for at in range(4)]
    states = [
        Checkpoint(custodian=CUSTODIAN, size=size, root=root, generation=generation)
        for root, size, generation in zip(roots, (0, 7, 9, 2**53 - 1), (0, 0, 1, 12), strict=True)
    ]
    signers = ((), ("w1",), ("w1", "w2"), ("w2", "stranger"))
    return tuple((note_of(state, *by).encode(),) for state, by in zip(states, signers, strict=True))


def edit_note(parts: Parts, chance: Random) -> Parts:
    """Change a line of a note, or which lines it has, or have another text signed anew."""
    lines = parts[0].decode().split("\n")
    other = chance.choice(_notes())[0].decode().split("\n")
    at = chance.randrange(len(lines))
    match chance.randrange(9):
        case 0:
            return (edits.edit(parts[0], chance),)
        case 1:
            lines[at] = chance.choice(other)
        case 2:
            lines.insert(at, chance.choice((*other, "", "— x AAAAAAAA", "generation 1", "\u2028", "—\u00a0a AAAAAAAA")))
        case 3:
            lines[at:at] = [lines[at]] * chance.choice((1, 15, 16, 17))
        case 4:
            lines.pop(at)
        case 5:
            chance.shuffle(lines)
        case 6:
            lines[at] = _respelled(lines[at], chance)
        case _:
            return (_resigned(chance),)
    return ("\n".join(lines).encode(),)


def _respelled(line: str, chance: Random) -> str:
    """Say nearly the same: with another spelling of base64 or of a number, or white space."""
    *before, last = line.split(" ")
    changed = chance.choice(
        (f"0{last}", f"{last}=", last.rstrip("="), f" {last}", last.swapcase(), f"{last}\r", f"+{last}")
    )
    if last.endswith("=") and chance.random() < 0.5:
        signs = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        stem = last.rstrip("=")
        changed = stem[:-1] + signs[(signs.find(stem[-1:]) + 1) % 64] + "=" * (len(last) - len(stem))
    return " ".join([*before, changed])


def _resigned(chance: Random) -> bytes:
    """Return a note with another text, which the log and a witness have signed as it is."""
    root = b64encode(chance.randbytes(chance.choice((32, 32, 31, 33)))).decode()
    size = chance.choice(("0", "7", "07", "-1", "9007199254740991", "9007199254740992", "1e3", "7 ", "", "٣"))
    origin = chance.choice((_ORIGIN, _ORIGIN, _ORIGIN.upper(), "aigovtool/", f"aigovtool/{'0' * 64}"))
    more = chance.choice(
        ("", "", "generation 1\n", "generation 0\n", "generation 01\n", "x\n", "\n", "generation 1\nx\n")
    )
    text = f"{origin}\n{size}\n{root}\n{more}"
    name = text.partition("\n")[0]
    key_hash = sha256_of(name.encode() + b"\n\1" + LOG.public.raw)[:4]
    line = f"— {name} {b64encode(key_hash + LOG.sign(text.encode())).decode()}\n"
    by = cosign(text, "witness.example/w1", key("w1"), chance.choice((0, 1_700_000_000, 2**53 - 1, 2**53, 2**64 - 1)))
    return f"{text}\n{line}{by if chance.random() < 0.6 else ''}".encode()


def sha256_of(data: bytes) -> bytes:
    """Return a digest."""
    return sha256(data).digest()


def _attempt(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except LogError:
        return None


def _read(parts: Parts) -> dict[str, Any]:
    """Return what each reader says of a note; None where it refuses it."""
    note, keys, witnesses = parts[0].decode("utf-8", "replace"), [LOG.public], list(WITNESSES)
    text, signatures = split_note(note)
    by = _attempt(lambda: witnessed(note, witnesses))
    opened = _attempt(lambda: open_cosigned(note, keys, witnesses))
    return {
        "text": text,
        "lines": [(one.name, one.key_hash, one.content, one.line) for one in signatures],
        "parsed": _attempt(lambda: parse_checkpoint(note)),
        "opened": _attempt(lambda: open_checkpoint(note, keys)),
        "plain": _attempt(lambda: plain_note(note, keys)),
        "by": None if by is None else [(one.witness.name, one.time_s) for one in by],
        "cosigned": None if opened is None else [(one.witness.name, one.time_s) for one in opened[1]],
        "cosigner": _attempt(lambda: cosigner_name(note, _ORIGIN)),
    }


def _expected(note: Note) -> dict[str, Any]:
    """Return the same, by hand."""
    own: Line | None = None
    parsed: Checkpoint | None = None
    by: list[tuple[str, int]] | None = None
    with suppress(NoNoteError):
        state = read_state(note.text)
        custodian = KeyId(state.custodian)
        parsed = Checkpoint(custodian=custodian, size=state.size, root=state.root, generation=state.generation)
        own = signed_by_log(note, [LOG.public.raw])
    with suppress(NoNoteError):
        times = [(one.name, cosigned_by(note, one.name, one.key.raw)) for one in WITNESSES]
        by = [(name, time_s) for name, time_s in times if time_s is not None]
    names = [line.name for line in note.lines]
    return {
        "text": note.text,
        "lines": [(one.name, one.key_hash, one.content, one.line) for one in note.lines],
        "parsed": parsed,
        "opened": None if own is None else parsed,
        "plain": None if own is None else f"{note.text}\n{own.line}",
        "by": by,
        "cosigned": by if own is not None and by is not None and len(by) == len(names) - 1 else None,
        "cosigner": names[1] if len(names) == 2 and names[0] == _ORIGIN != names[1] else None,
    }


def _wrong_note(parts: Parts, value: object) -> str | None:
    found = cast("dict[str, Any]", value)
    try:
        expected = _expected(read_note(parts[0].decode("utf-8", "replace")))
    except NoNoteError as error:
        return f"a note taken for one that is none: {error}"
    wrong = [name for name in expected if found[name] != expected[name]]
    return f"a note read otherwise than by hand: {', '.join(wrong)}" if wrong else None


def _refused_note(parts: Parts, _error: Exception) -> str | None:
    try:
        read_note(parts[0].decode("utf-8", "replace"))
    except NoNoteError:
        return None
    return "refused a note that is one by hand"


# --- Verifier keys -------------------------------------------------------------------------------


def _edit_key(parts: Parts, chance: Random) -> Parts:
    name, key_hash, public = parts[0].decode().split("+", 2)
    other = chance.choice(WITNESSES).text().split("+", 2)
    match chance.randrange(6):
        case 0:
            return (edits.edit(parts[0], chance),)
        case 1:
            name = chance.choice((other[0], f"{name}x", "", "a" * 101, "a b", "ü"))
        case 2:
            key_hash = chance.choice((other[1], key_hash.upper(), "0" * 8))
        case 3:
            public = chance.choice((other[2], _respelled(public, chance)))
        case _:
            # A hash that fits name and key: what is wrong is the key, its type, or the name.
            raw = chance.choice((b"\4", b"\1", b"\0")) + chance.choice(
                (key("w1").public.raw, bytes(32), b"\1" + bytes(31))
            )
            name = chance.choice((name, "w", "W/1:@-x", "-w", "w-", "w1.", "a" * 100))
            key_hash = sha256_of(name.encode() + b"\n" + raw).hex()[:8]
            public = b64encode(raw).decode()
    return (f"{name}+{key_hash}+{public}".encode(),)


def _wrong_key(parts: Parts, value: object) -> str | None:
    found, text = cast("WitnessKey", value), parts[0].decode("utf-8", "replace")
    name, key_hash, public = text.split("+", 2)
    raw = unwrapped(public) or b""
    plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    good_name = 1 <= len(name) <= 100 and set(name) <= set(plain + "._:/@-") and {name[0], name[-1]} <= set(plain)
    same = (found.name, b"\4" + found.key.raw) == (name, raw) and b64encode(raw).decode() == public
    if not good_name or not same or found.text() != text:
        return "a verifier key read as another"
    hashed = sha256_of(name.encode() + b"\n" + raw).hex()[:8] == key_hash
    return None if hashed and found.key.raw not in {bytes(32), b"\1" + bytes(31)} else "a verifier key that is none"


# --- Proofs --------------------------------------------------------------------------------------

_LEAVES: Final = tuple(leaf(bytes([at])) for at in range(21))


def _inclusions() -> tuple[Parts, ...]:
    """Return index and size, leaf, root, and path."""
    found: list[Parts] = []
    for size in (1, 2, 3, 5, 8, 13, 21):
        for index in {0, size // 2, size - 1}:
            path = inclusion_proof(_LEAVES[:size], index)
            found.append((f"{index} {size}".encode(), _LEAVES[index], root_of(_LEAVES[:size]), *path))
    return tuple(sorted(found))


def _consistencies() -> tuple[Parts, ...]:
    """Return old and new size, old and new root, and proof."""
    found: list[Parts] = []
    for size in (1, 2, 3, 7, 8, 21):
        for old in sorted({1, size // 2 or 1, 2 ** (size.bit_length() - 1), size}):
            proof = consistency_proof(_LEAVES[:size], old)
            found.append((f"{old} {size}".encode(), root_of(_LEAVES[:old]), root_of(_LEAVES[:size]), *proof))
    return tuple(sorted(found))


def _edit_proof(parts: Parts, chance: Random) -> Parts:
    numbers, *hashes = parts
    if chance.random() < 0.5:
        first, second = map(int, numbers.split())
        step = chance.choice((-1, 1, 2, 4, 8, -first, 2**32, 2**53 - 1 - second))
        first, second = chance.choice(((first + step, second), (first, second + step), (second, first)))
        numbers = f"{first} {second}".encode()
    at = chance.randrange(len(hashes))
    match chance.randrange(7):
        case 0:
            hashes[at] = chance.choice((edits.flip(hashes[at], chance), hashes[at][:-1], hashes[at] + b"\0", b""))
        case 1:
            hashes[at] = chance.choice((*_LEAVES, *hashes))
        case 2 if len(hashes) > 2:
            hashes.pop()
        case 3:
            hashes += [chance.choice((*_LEAVES, *hashes))] * chance.choice((1, 2, 60, 130))
        case 4 if len(hashes) > 3:
            hashes[2:] = chance.sample(hashes[2:], len(hashes) - 2)
        case _:
            pass
    return (numbers, *hashes)


def _include(parts: Parts) -> bool:
    index, size = map(int, parts[0].split())
    verify_inclusion(parts[1], index, size, parts[3:], parts[2])
    return True


def _is_included(parts: Parts) -> bool:
    index, size = map(int, parts[0].split())
    try:
        return len(parts) <= 66 and root_from_path(parts[1], index, size, parts[3:]) == parts[2]
    except NoProofError:
        return False


def _compare(parts: Parts) -> bool:
    old, size = map(int, parts[0].split())
    verify_consistency(old, parts[1], size, parts[2], parts[3:])
    return True


def _is_consistent(parts: Parts) -> bool:
    old, size = map(int, parts[0].split())
    try:
        return len(parts) <= 129 and roots_from_proof(old, size, parts[1], parts[3:]) == (parts[1], parts[2])
    except NoProofError:
        return False


def _proofs(
    name: str, genuine: tuple[Parts, ...], read: Callable[[Parts], bool], holds: Callable[[Parts], bool]
) -> Kind:
    return Kind(
        name=name,
        genuine=genuine,
        edit=_edit_proof,
        read=read,
        wrong=lambda parts, _: None if holds(parts) else "a proof of what is not so",
        refusals=(LogError,),
        refused_wrongly=lambda parts, _: "refused a proof" if holds(parts) else None,
        weight=2,
    )


def kinds() -> tuple[Kind, ...]:
    """Return the kinds."""
    keys = tuple((one.text().encode(),) for one in WITNESSES)
    return (
        Kind(
            name="notes",
            genuine=_notes(),
            edit=edit_note,
            read=_read,
            wrong=_wrong_note,
            refusals=(LogError,),
            refused_wrongly=_refused_note,
            weight=8,
        ),
        Kind(
            name="witness-keys",
            genuine=keys,
            edit=_edit_key,
            read=lambda parts: parse_witness_key(parts[0].decode("utf-8", "replace")),
            wrong=_wrong_key,
            refusals=(InvalidValueError,),
            weight=2,
        ),
        _proofs("inclusion-proofs", _inclusions(), _include, _is_included),
        _proofs("consistency-proofs", _consistencies(), _compare, _is_consistent),
    )
