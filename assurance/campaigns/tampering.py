"""The audit log: whatever is done to a copy of it is detected, and named where it can be named."""

import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
from tests.simulation.logbook import LoggingCustodian
from tests.simulation.memory import LOG_KEY
from tests.simulation.scene import Violation
from tests.simulation.world import Rules, World

from aigovtool.codec import decode_signed, encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, VerifyKey, seal
from aigovtool.errors import AIGovToolError, LogError
from aigovtool.ledger import entry
from aigovtool.ledger.audit import AuditReport
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.entry import Charged, Entry, GapFound, LeaseClosed, LeaseExpired, LeaseGranted, Restored
from aigovtool.ledger.lease import LeaseState
from aigovtool.ledger.merkle import leaf_hash, root_of
from aigovtool.operator.audit_file import AuditHeader, verify_audit_file, write_audit_file
from aigovtool.protocol.trust import KEY_SET, KeySet
from aigovtool.protocol.views import LogHead
from assurance.campaign import Campaign, Target, each_seed
from assurance.campaigns.overspend import COVERS
from assurance.figures import Figures, of_seed
from assurance.machine import in_memory
from assurance.tampering import TAMPERINGS, Tampering, entry_of, line_of

_STEPS = 100
KINDS = len(entry.EntryBody.__args__)
_AT_RE = re.compile(rb'"at_ms":(\d+)')
_NAMED_RE = re.compile(r"entry (\d+): ")
_ROLLBACK, _REWRITTEN = "an older copy shown", "rewritten and signed again"
_WITHIN = "ended within a settlement"
_ACCEPTED, _REFUSED = "accepted", "refused"


def _key(seed: int, name: str) -> SigningKey:
    return SigningKey.from_secret(Secret(sha256(f"TEST-ONLY {name} {seed}".encode()).digest()))


class Genuine:
    """A genuine audit file, the keys that it is verified with, and every genuine note of the same log."""

    path: Path
    root_key: VerifyKey
    log_key: SigningKey
    entries: list[Entry]
    leaves: list[bytes]
    header: bytes
    lines: list[bytes]

    def note(self, size: int, leaves: list[bytes] | None = None) -> str:
        """Return the genuine checkpoint of a size."""
        root = root_of((self.leaves if leaves is None else leaves)[:size])
        generation = self.entries[size - 1].generation
        checkpoint = Checkpoint(custodian=self.root_key.key_id, size=size, root=root, generation=generation)
        return sign_checkpoint(checkpoint, self.log_key)

    def header_with(self, note: str) -> bytes:
        """Return the header of a copy that ends with another checkpoint."""
        header = decode_signed(self.header[:-1], AuditHeader, max_bytes=len(self.header))
        return encode(msgspec.structs.replace(header, checkpoint=note)) + b"\n"

    def verify(self, lines: list[bytes], header: bytes | None = None, seen: Iterable[str] = ()) -> AuditReport:
        """Verify a file with these lines, as a reader who holds these older checkpoints.

        Raises:
            AIGovToolError: it was tampered with.
        """
        self.path.write_bytes((self.header if header is None else header) + b"".join(lines))
        return verify_audit_file(self.path, self.root_key, seen=seen)


@dataclass
class Copy(Genuine):
    """A genuine audit file of one simulated history."""

    seed: int
    path: Path
    steps: int = _STEPS

    def __post_init__(self) -> None:
        # The simulation's own log key: a restore in the history names a checkpoint that it signed.
        self.root, self.log_key = _key(self.seed, "root"), LOG_KEY
        self.root_key = self.root.public

        class Founded(LoggingCustodian):
            custodian = self.root.public.key_id

        self.world = World(self.seed, Rules(custodian=Founded)).run(self.steps)
        ledger = self.world.custodian
        if not isinstance(ledger, Founded):
            raise TypeError("the world runs another custodian")
        # In some weathers little is granted; and what `complete` adds must not stand between a gap and its settlement.
        while not _has_leases(ledger) or _has_gap(ledger.entries):
            self.world.run(self.steps)
        ledger.complete()
        self.entries = ledger.entries
        self.leaves = [one.leaf() for one in self.entries]
        self.write(self.note(len(self.entries)))
        self.header, *self.lines = self.path.read_bytes().splitlines(keepends=True)

    def write(self, note: str) -> None:
        """Write the genuine file."""
        key_set = KeySet(
            custodian=self.root.public.key_id,
            version=1,
            issued_at_ms=0,
            commands=[],
            log=[self.log_key.public.raw],
            credentials=[],
            keystore=bytes(32),
        )
        head = LogHead(checkpoint=note, key_set=seal(KEY_SET, key_set, self.root))
        write_audit_file(self.path, head, [encode(one) for one in self.entries], replace=True)


def _has_leases(ledger: LoggingCustodian) -> bool:
    """Return whether leases were closed and expired, and one can be written off."""
    kinds = {type(one.body) for one in ledger.entries}
    lost = any(lease.state is LeaseState.EXPIRED for lease in ledger.ledger.unclosed.values())
    return lost and {LeaseGranted, LeaseClosed, LeaseExpired} <= kinds


def _has_gap(entries: list[Entry]) -> bool:
    """Return whether a gap was found that is not settled yet."""
    kinds = [type(one.body) for one in entries]
    return GapFound in kinds and Restored not in kinds[len(kinds) - kinds[::-1].index(GapFound) :]


def judge(copy: Genuine, lines: list[bytes], number: int, way: Tampering) -> tuple[str | None, bool]:
    """Return what is wrong with how a tampering was received, and whether an entry was named."""
    try:
        copy.verify(lines)
    except LogError as refusal:
        named = _NAMED_RE.match(refusal.message)
        if way.names is not None and (named is None or int(named[1]) not in way.names(number)):
            return f"entry {number} {way.name}: not named, but: {refusal.message[:120]}", False
        return None, named is not None
    except AIGovToolError as refusal:
        return f"entry {number} {way.name}: {type(refusal).__name__} {refusal.message[:120]}", False
    return f"entry {number} {way.name}: not detected", False


def _tamper(copy: Genuine, chance: random.Random) -> tuple[Counter[str], list[str]]:
    """Tamper with every entry in every way."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(len(copy.lines)):
        for way in TAMPERINGS:
            lines = way.edit(copy.lines, number, chance)
            if lines is None:
                continue
            problem, named = judge(copy, lines, number, way)
            counts["tamperings"] += 1
            counts["detected"] += problem is None or "not detected" not in problem
            counts["named" if way.names is not None else "named beyond"] += named
            counts["with its hash"] += way.names is None
            counts["cannot be named"] += way.names is None
            wrong += [] if problem is None else [problem]
    return counts, wrong


def _tamper_header(copy: Genuine, chance: random.Random) -> tuple[Counter[str], list[str]]:
    """Flip a bit of every byte of the header: of the checkpoint, of the key set, or of the frame."""
    wrong = []
    for position in range(len(copy.header) - 1):
        header = bytearray(copy.header)
        header[position] ^= 1 << chance.randrange(8)
        try:
            copy.verify(copy.lines, bytes(header))
        except AIGovToolError:
            continue
        wrong.append(f"byte {position} of the header changed: not detected")
    tried = len(copy.header) - 1
    return Counter({"tamperings": tried, "detected": tried - len(wrong), "cannot be named": tried}), wrong


def _received(copy: Genuine, lines: list[bytes], note: str, *seen: str) -> str:
    """Return how a copy with this checkpoint is received by a reader who holds these: what one excuses is reported."""
    try:
        report = copy.verify(lines, copy.header_with(note), seen)
    except LogError as refusal:
        return f"{_REFUSED}: {refusal.message[:120]}"
    return "reported as lost" if report.lost else _ACCEPTED


def _later(line: bytes, after: bytes) -> bytes | None:
    """Return an entry that breaks no rule, though it is another one: a moment later, and before the next one."""
    found, limit = _AT_RE.search(entry_of(line)), _AT_RE.search(entry_of(after))
    if found is None or limit is None or int(found[1]) >= int(limit[1]):
        return None
    entry = entry_of(line)
    return line_of(entry[: found.start(1)] + b"%d" % (int(found[1]) + 1) + entry[found.end(1) :])


def is_unfinished(entries: list[Entry], number: int) -> bool:
    """Return whether a settlement for good is among the first entries, and not all of its charges, which follow it."""
    while number < len(entries) and isinstance(entries[number].body, Charged):
        number -= 1
        body = entries[number].body
        if isinstance(body, Restored):
            return body.final
    return False


def resign(copy: Genuine, chance: random.Random) -> tuple[Counter[str], list[str]]:
    """Let whoever holds the log key show an older copy, or a rewritten one that it has signed again.

    Both verify: only a reader who holds a checkpoint of the log as it was notices. But for an older copy that ends
    within a settlement for good, before all is charged: no custodian signs such a checkpoint, and nobody takes it.
    """
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    size, newest = len(copy.entries), copy.note(len(copy.entries))
    for number in range(1, size):
        shown: list[tuple[str, list[bytes], str, str]] = [
            (_ROLLBACK, copy.lines[:number], copy.note(number), newest),
        ]
        if (line := _later(copy.lines[number - 1], copy.lines[number])) is not None:
            lines = [*copy.lines[: number - 1], line, *copy.lines[number:]]
            leaves = [*copy.leaves[: number - 1], leaf_hash(entry_of(line)), *copy.leaves[number:]]
            shown.append((_REWRITTEN, lines, copy.note(size, leaves), copy.note(chance.randrange(number, size))))
        for name, lines, note, seen in shown:
            counts[name] += 1
            unfinished = name == _ROLLBACK and is_unfinished(copy.entries, number)
            counts[_WITHIN] += unfinished
            alone = _received(copy, lines, note)
            if alone.startswith(_REFUSED) != unfinished:
                wrong.append(f"{name} at {number}, {alone} by a reader who holds nothing")
            if _received(copy, lines, note, seen) == _ACCEPTED:
                wrong.append(f"{name} at {number}: not detected by a reader who holds a checkpoint")
        if (told := _received(copy, copy.lines, newest, copy.note(number))) != _ACCEPTED:
            wrong.append(f"the honest log is {told} by a reader who holds its checkpoint {number}")
    return counts, wrong


def _replayed(copy: Copy) -> list[str]:
    """Compare the balances that the log gives with those of the ledger that wrote it."""
    report = copy.verify(copy.lines)
    logged = {row.key: (row.posted, row.pending) for row in report.rows if row.posted or row.pending}
    kept = {
        key: (row.posted, row.pending) for key, row in copy.world.custodian.rows.items() if row.posted or row.pending
    }
    return [] if logged == kept else ["the balances recomputed from the log are not those of the ledger"]


def do_everything(copy: Genuine, chance: random.Random) -> tuple[Counter[str], list[str]]:
    """Do everything to a log: what an auditor of all kinds of entries must notice."""
    kinds = {type(one.body) for one in copy.entries}
    counts: Counter[str] = Counter({"logs": 1, "entries": len(copy.entries), "fewest kinds": len(kinds)})
    wrong = [] if len(kinds) == KINDS else [f"only {len(kinds)} of {KINDS} kinds of entries occur"]
    for tamper in (_tamper, _tamper_header, resign):
        more, found = tamper(copy, chance)
        counts += more
        wrong += found
    return counts, wrong


def tamper_with(seed: int, steps: int = _STEPS) -> tuple[Counter[str], list[str]]:
    """Make one log by a history of so many steps, and do everything to it."""
    with tempfile.TemporaryDirectory(prefix="aigovtool-log-", dir=in_memory()) as folder:
        copy = Copy(seed, Path(folder) / "log.jsonl", steps)
        counts, wrong = do_everything(copy, random.Random(seed))
        wrong += _replayed(copy)
    return counts, wrong


def done(seed: int, counts: Counter[str], wrong: list[str]) -> Figures:
    """Return what was counted with one log, and what was missed."""
    return of_seed(seed, counts=dict(counts), violation="; ".join(wrong[:5]) or None)


def _figures(seed: int) -> Figures:
    try:
        return done(seed, *tamper_with(seed))
    except Violation as violation:
        return of_seed(seed, violation=str(violation))


def figure(figures: Figures) -> str:
    """Say what was counted."""
    count = figures.count
    nameable, by_luck = count("tamperings") - count("cannot be named"), count("named beyond")
    return (
        f"{count('tamperings'):,} tamperings with {count('entries'):,} entries of {count('logs'):,} logs and their "
        f"headers: {count('detected'):,} detected. Of {nameable:,} that can be named {count('named'):,} were; of "
        f"{count('with its hash'):,} entries changed together with their hash {by_luck:,} were named too, because they "
        f"broke a rule. {count(_ROLLBACK):,} older copies and {count(_REWRITTEN):,} rewritten and newly signed ones: "
        f"all noticed by a reader who holds a checkpoint, and the {count(_WITHIN):,} that end within a settlement by "
        f"everybody. {len(figures.violations)} logs with a miss"
    )


CAMPAIGN = Campaign(
    name="tampering",
    claim="Whatever is changed in a copy of the audit log is detected, and the entry is named where it can be.",
    counts=f"tamperings with each entry of a log with all {KINDS} kinds of entries, in each of {len(TAMPERINGS)} "
    "ways, and with each byte of its header. The balances recomputed from the untouched log must be those of the "
    "ledger. An entry that was changed together with its recorded hash can be detected, but only named if it breaks a "
    "rule.",
    target=Target(100_000, "tamperings"),
    shows_not="that a copy is the newest: an older copy with its own checkpoint is genuine, and `aigovtool audit "
    "verify` accepts it. Only who holds a newer checkpoint notices: `audit verify --seen`. Where a restore "
    "could have lost what he holds, a rewritten copy is not refused, but reported to him as a loss.",
    covers=(
        *COVERS,  # what the logs are made by
        "src/aigovtool/crypto",
        "src/aigovtool/ledger",
        "src/aigovtool/operator/audit_file.py",
        "src/aigovtool/protocol",
        "src/aigovtool/regular_file.py",
        "assurance/tampering.py",
        "assurance/campaigns/tampering.py",
    ),
    run=each_seed(_figures),
    replay=lambda seed: "\n".join(f"{part}" for part in tamper_with(seed)),
    figure=figure,
    quick=4,
)
