"""The tables. Columns exist to be searched, summed or constrained; the rest is one strictly encoded body."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

from aigovtool.ledger.units import Dimension

SCHEMA_VERSION: Final = 5

metadata: Final = MetaData()

#: Conditions of the partial indices. Queries use these very words, not parameters: otherwise SQLite reads all history.
UNCLOSED: Final = text("state IN ('pending', 'expired')")
PENDING: Final = text("state = 'pending'")
ACTIVE: Final = text("active")
HELD: Final = text("held > 0")
OPEN: Final = text("state = 'open'")

#: One row: the schema's version, and the counters of `transaction.Head`. Whoever has locked it is the one writer.
head: Final = Table(
    "head",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    Column("schema", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

#: Single values, such as the appraisal policy in force.
facts: Final = Table(
    "facts",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

log: Final = Table(
    "log",
    metadata,
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    # The tree's root with this entry as its last: any signed checkpoint can be compared with it at once.
    Column("root", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

#: Roots of complete subtrees of 2**level leaves, from `log.NODE_LEVEL` up: proofs need not read all leaves.
log_nodes: Final = Table(
    "log_nodes",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
)

#: Where entries of each kind stand, except of leases that come and go (`log.EVERYDAY`): rare ones are found at once.
log_kinds: Final = Table(
    "log_kinds",
    metadata,
    Column("kind", String(40), primary_key=True),
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
)

parties: Final = Table(
    "parties",
    metadata,
    Column("role", String(10), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("key_id"),
)

models: Final = Table(
    "models",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("package", String(71), nullable=False),
    Column("body", LargeBinary, nullable=False),
)

nonces: Final = Table(
    "nonces",
    metadata,
    Column("nonce", String(64), primary_key=True),
    Column("borrower", String(63), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("used", Boolean, nullable=False),
    Index("nonces_by_expiry", "expires_ms"),
)

instances: Final = Table(
    "instances",
    metadata,
    Column("instance", String(64), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("borrower", String(63), nullable=False),
    Column("state", String(10), nullable=False),
    Column("attested_at_ms", BigInteger, nullable=False),
    Column("last_contact_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("instances_by_time", "attested_at_ms"),
    Index("instances_by_key", "key_id"),
)

#: What each instance was admitted for, so that it can be judged again; beside it, because a renewal does not read it.
evidence: Final = Table(
    "evidence",
    metadata,
    Column("instance", String(64), primary_key=True),
    Column("attested_at_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("evidence_by_time", "attested_at_ms"),
)

#: The answer to the newest renewal of each instance: a repeated request gets the same bytes, an older one none.
answers: Final = Table(
    "answers",
    metadata,
    Column("instance", String(64), primary_key=True),
    Column("request_id", String(32), nullable=False),
    Column("request", String(71), nullable=False),
    # Identifiers of the renewals that were answered just before it, and the place of the checkpoint that it showed.
    Column("earlier", String(528), nullable=False),
    Column("shown_generation", BigInteger, nullable=False),
    Column("shown_size", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

budget_limits: Final = Table(
    "budget_limits",
    metadata,
    Column("key", String(400), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("scope", String(300), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("limits_by_model", "model"),
    Index("limits_by_scope", "scope"),
)

budget_rows: Final = Table(
    "budget_rows",
    metadata,
    Column("key", String(400), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("limit_key", String(400), nullable=False),
    Column("bucket_ms", BigInteger, nullable=False),
    Column("unit_limit", BigInteger, nullable=True),
    Column("posted", BigInteger, CheckConstraint("posted >= 0"), nullable=False),
    Column("pending", BigInteger, CheckConstraint("pending >= 0"), nullable=False),
    Index("rows_by_model", "model"),
    Index("rows_by_limit", "limit_key", "bucket_ms"),
)

leases: Final = Table(
    "leases",
    metadata,
    Column("lease_id", String(32), primary_key=True),
    Column("instance", String(64), nullable=False),
    Column("borrower", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("consumer", String(63), nullable=False),
    Column("state", String(12), nullable=False),
    Column("deadline_ms", BigInteger, nullable=False),
    # What was granted, in each dimension: summed for what an instance or a borrower holds.
    *(Column(dimension.value, BigInteger, nullable=False, server_default="0") for dimension in Dimension),
    # Where its grant stands in the audit log.
    Column("entry_idx", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    # Partial indices: what a renewal asks must not cost more as closed leases pile up.
    Index("open_by_instance", "instance", sqlite_where=UNCLOSED, postgresql_where=UNCLOSED),
    Index("due", "deadline_ms", sqlite_where=PENDING, postgresql_where=PENDING),
)

#: Running totals per consumer and model, so that neither showing usage nor a grant reads every lease.
usage: Final = Table(
    "usage",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("borrower", String(63), primary_key=True),
    Column("consumer", String(63), primary_key=True),
    Column("ok", BigInteger, nullable=False),
    Column("err", BigInteger, nullable=False),
    Column("open_leases", BigInteger, nullable=False),
)

usage_units: Final = Table(
    "usage_units",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("borrower", String(63), primary_key=True),
    Column("consumer", String(63), primary_key=True),
    Column("dimension", String(16), primary_key=True),
    Column("granted", BigInteger, nullable=False),
    Column("charged", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    # Units of the leases that are not over: pending, or expired and neither closed nor written off.
    Column("held", BigInteger, nullable=False),
    # What a borrower holds is summed at each grant: over the consumers that hold something, not over all there were.
    Index(
        *("usage_held", "model", "borrower", "dimension", "held"),
        sqlite_where=HELD,
        postgresql_where=HELD,
    ),
)

stops: Final = Table(
    "stops",
    metadata,
    Column("target", String(10), primary_key=True),
    Column("value", String(64), primary_key=True),
    # Of a consumer's stop: whose enclaves it concerns, and until when anybody could present the credential.
    Column("borrower", String(63), nullable=True),
    Column("until_ms", BigInteger, nullable=True),
    Column("epoch", BigInteger, nullable=False),
    Column("active", Boolean, nullable=False),
    # Each renewal asks for the newest stop of a borrower's consumers, and for those that are listed.
    Index("stops_by_borrower", "borrower", "epoch"),
    Index("stops_listed", "borrower", "until_ms", sqlite_where=ACTIVE, postgresql_where=ACTIVE),
)

asks: Final = Table(
    "asks",
    metadata,
    Column("ask_id", String(32), primary_key=True),
    Column("state", String(10), nullable=False),
    Column("scope", String(300), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("asks_by_scope", "scope", "state"),
    Index("asks_by_time", "at_ms"),
    Index("asks_open", "at_ms", sqlite_where=OPEN, postgresql_where=OPEN),
)

#: Who may co-sign checkpoints, with the newest co-signature of each.
witnesses: Final = Table(
    "witnesses",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("key_id"),
)

commands: Final = Table(
    "commands",
    metadata,
    Column("command_id", String(32), primary_key=True),
    Column("digest", String(71), nullable=False),
    Column("result", LargeBinary, nullable=False),
)
