"""What an entry of the audit log says, in one sentence for a person: who did what.

One line per kind in `_SENTENCES`; a kind without one would not be shown, and a test looks for that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from aigovtool.cli.scope import path
from aigovtool.cli.stop.stopped import named
from aigovtool.cli.words import count, counted, short, when
from aigovtool.ledger import entry as log
from aigovtool.ledger.budget import BudgetLimit
from aigovtool.ledger.units import UnitVector

_CUSTODIAN: Final = "the custodian"
_KINDS: Final = MappingProxyType({kind: kind.__struct_config__.tag for kind in log.EntryBody.__args__})


@dataclass(frozen=True, slots=True)
class Line:
    """One entry: its kind, who caused it, and what happened."""

    kind: str
    who: str
    what: str


def describe(body: log.EntryBody) -> Line:
    """Return what an entry says."""
    who, sentence = _SENTENCES[type(body)]
    command = getattr(body, "command", None)
    actor = who(body) if command is None else _operators(command)
    return Line(kind=str(_KINDS[type(body)]), who=actor, what=sentence(body))


def _asked(asked: log.Asked) -> str:
    units = counted(asked.units, asked.dimension)
    return f"asked for {units} more of {path(asked.scope)}: {asked.reason} (request {short(asked.ask_id)})"


def _attested(attested: log.Attested) -> str:
    where = attested.tee if attested.chip is None else f"{attested.tee}, chip {attested.chip}"
    return f"attested enclave {short(attested.instance)} on {where}"


def _operators(command: log.Command) -> str:
    return (
        f"operator {command.operator}"
        if command.second is None
        else f"operators {command.operator} and {command.second}"
    )


def _by_custodian(_body: Any) -> str:  # noqa: ANN401 - any entry
    return _CUSTODIAN


def _by_borrower(body: Any) -> str:  # noqa: ANN401 - any entry with a borrower
    return f"borrower {body.borrower}"


def _by_enclave(body: Any) -> str:  # noqa: ANN401 - any entry with an instance
    return f"enclave {short(body.instance)}"


def _by_holder(_body: Any) -> str:  # noqa: ANN401 - an entry that names a lease only
    return "an enclave"


def _units(units: UnitVector) -> str:
    return ", ".join(f"{count(number)} {dimension.value}" for dimension, number in units.items()) or "nothing"


def _limit(limit: BudgetLimit) -> str:
    return f"{limit.window.value} budget of {path(limit.scope)}: {count(limit.limit)} {limit.dimension.value}"


def _refusal(body: Any) -> str:  # noqa: ANN401 - any entry with a code and a reason
    why = f"{body.code} ({body.reason})" if body.reason else str(body.code)
    return why if body.times == 1 else f"{why}, {count(body.times)} times since the line before"


def _target(body: log.Stopped | log.Resumed) -> str:
    return named(body.target.value, body.value)


_Sentence = tuple[Callable[[Any], str], Callable[[Any], str]]
_SENTENCES: Final[Mapping[type, _Sentence]] = MappingProxyType(
    {
        log.Genesis: (_by_custodian, lambda e: f"began this log as custodian {short(e.custodian)}"),
        log.KeySetPublished: (_by_custodian, lambda e: f"published version {e.version} of its keys"),
        log.PartyAdded: (
            _by_custodian,
            lambda e: f"enrolled {e.role.value} {e.name}, valid until {when(e.not_after_ms)}",
        ),
        log.PartyRevoked: (_by_custodian, lambda e: f"revoked {e.role.value} {e.name}"),
        log.ModelAdded: (_by_custodian, lambda e: f"lent model {e.model}, manifest {e.manifest}"),
        log.ModelTermsSet: (
            _by_custodian,
            lambda e: (
                f"changed the terms of model {e.model}: lent to {', '.join(e.borrowers) or 'nobody'}"
                + (", and more leaves in answers" if e.more_leaves else "")
            ),
        ),
        log.ModelWithdrawn: (_by_custodian, lambda e: f"withdrew model {e.model}"),
        log.AppraisalPolicySet: (_by_custodian, lambda e: f"set version {e.version} of the appraisal policy"),
        log.BudgetSet: (_by_custodian, lambda e: f"set the {_limit(e.limit)}"),
        log.Attested: (_by_borrower, _attested),
        log.AttestationRefused: (_by_borrower, lambda e: f"was refused an enclave: {_refusal(e)}"),
        log.AttestationWithdrawn: (
            _by_custodian,
            lambda e: f"accepts enclave {short(e.instance)} of {e.borrower} no more: {e.code} ({e.reason})",
        ),
        log.KeyReleased: (_by_enclave, lambda e: f"got the key of model {e.model}"),
        log.ReleaseRefused: (_by_enclave, lambda e: f"was refused the key of model {e.model}: {_refusal(e)}"),
        log.CommandRefused: (_by_custodian, lambda e: f"gave a command that was refused: {_refusal(e)}"),
        log.Refused: (
            lambda e: named(e.role.value, short(e.name) if e.role is log.Refusable.ENCLAVE else e.name),
            lambda e: f"was refused {e.act!r}: {_refusal(e)}",
        ),
        log.LeaseGranted: (
            _by_enclave,
            lambda e: f"drew lease {short(e.lease_id)}: {_units(e.units)} of {e.model} for {e.consumer}",
        ),
        log.LeaseClosed: (
            _by_holder,
            lambda e: (
                f"closed lease {short(e.lease_id)}{' late' if e.late else ''}: used {_units(e.used)}, "
                f"{count(e.ok)} answers, {count(e.err)} failures"
            ),
        ),
        log.LeaseExpired: (_by_custodian, lambda e: f"charged lease {short(e.lease_id)} in full: nobody closed it"),
        log.LeaseWrittenOff: (_by_custodian, lambda e: f"gave up the holder of lease {short(e.lease_id)}"),
        log.GapFound: (
            _by_custodian,
            lambda e: (
                f"was shown a checkpoint of {count(e.lost_size)} entries that this ledger has forgotten, and granted "
                "nothing from then on"
            ),
        ),
        log.ClockAccepted: (
            lambda _: "whoever holds the custodian's directory",
            lambda e: f"confirmed the custodian's clock; until then the ledger's time was {when(e.before_ms)}",
        ),
        log.Restored: (
            _by_custodian,
            lambda e: (
                f"put a restored ledger into service as generation {e.generation}: entries up to "
                f"{count(e.lost_size)} were signed before"
                + (", and no larger checkpoint of them is a new gap" if e.final else "")
            ),
        ),
        log.Charged: (
            _by_custodian,
            lambda e: f"charged {count(e.units)} forgotten {e.row.dimension.value} to {path(e.row.scope)}",
        ),
        log.Forked: (_by_enclave, lambda e: f"was stopped: two copies of it use lease {short(e.lease_id)}"),
        log.Asked: (
            lambda e: f"{e.role.value} {e.name}",
            _asked,
        ),
        log.AskDecided: (
            _by_custodian,
            lambda e: f"{'approved' if e.approved else 'denied'} request {short(e.ask_id)}",
        ),
        log.Stopped: (_by_custodian, lambda e: f"stopped {_target(e)}"),
        log.Resumed: (_by_custodian, lambda e: f"resumed {_target(e)}"),
        log.WitnessEnrolled: (_by_custodian, lambda e: f"enrolled witness {e.witness}"),
        log.WitnessRetired: (_by_custodian, lambda e: f"retired witness {e.name}"),
        log.Wiped: (_by_enclave, lambda e: f"proved that it wiped itself (epoch {e.epoch})"),
    }
)
