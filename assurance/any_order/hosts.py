"""What hosts, clocks and disks do to a custodian: enclaves that boot, renew, lie and end; time; restarts and losses."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from unittest.mock import patch

from tests.custodian.conftest import Enclave, message_id

from aigovtool.codec import decode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, open_by_any, seal
from aigovtool.custodian import key_rotation, timekeeping
from aigovtool.custodian.app import add_operator
from aigovtool.custodian.key_rotation import Role, State
from aigovtool.custodian.service import boot, key_release, key_sets, renewal, views
from aigovtool.custodian.time_order import accept_time
from aigovtool.errors import AIGovToolError
from aigovtool.ids import BorrowerId, ConsumerId, Digest, LeaseId, digest_of
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol import messages, release
from aigovtool.protocol.messages import Answer, DenyCode, Grant, Renew, RenewReply, Report, Want
from aigovtool.protocol.party import OperatorFile
from aigovtool.protocol.views import CheckpointSeen
from assurance.any_order.office import Held, Office
from assurance.any_order.orders import METERED

_HOUR_MS: Final = 3_600_000
#: Longer than a custodian is ever off.
_SEASON_MS: Final = 70 * 24 * _HOUR_MS
_SPANS_MS: Final = (1, 1, 900, 900, 20_000, 36_000, 36_000, 61_000, 61_000, 600_000, _HOUR_MS, 6 * _HOUR_MS)


async def begin(office: Office) -> None:
    """Boot one more enclave, for some models; only the newest are heard of any more."""
    borrower = BorrowerId(office.chance.choice(await office.good(PartyRole.BORROWER)))
    lent = [one.model for one in (await views.show_models(office.bench.custodian)).models if borrower in one.borrowers]
    models = lent if lent and office.chance.random() < 0.9 else sorted(office.models)
    models = office.chance.sample(models, k=office.chance.randint(1, len(models)))
    enclave = office.enclave(borrower, models)
    if await office.attempt("boot", enclave.boot()) is not None:
        office.enclaves = [*office.enclaves[-5:], enclave]


async def attest_again(office: Office) -> None:
    """Have an enclave attest again with its own keys."""
    enclave = office.chance.choice(office.enclaves)

    async def again() -> None:
        request = enclave.request(enclave.claims(await enclave.challenge()))
        keys = office.bench.enrolment[enclave.borrower], enclave.identity
        await boot.admit_again(office.bench.custodian, seal(release.BOOT_AGAIN, request, *keys))

    await office.attempt("attest again", again())


async def fetch_key(office: Office) -> None:
    """Have an enclave ask for a model's key."""
    enclave, model = office.chance.choice(office.enclaves), office.chance.choice(office.models)
    request = release.ReleaseRequest(
        instance=enclave.instance, request_id=message_id(), model=model, manifest=Digest(office.manifests[model])
    )
    envelope = seal(release.RELEASE_REQUEST, request, enclave.identity)
    await office.attempt("key", key_release.release_key(office.bench.custodian, envelope))


async def _want(office: Office, enclave: Enclave) -> Want:
    good = set(await office.good(PartyRole.CONSUMER))
    own = [name for name, owner in office.owners.items() if owner == enclave.borrower and name in good]
    consumers = own if own and office.chance.random() < 0.97 else sorted(office.owners) or [ConsumerId("nobody")]
    model = office.chance.choice(enclave.models)
    least = UnitVector(inferences=office.chance.choice((1, 1, 3)), compute_ms=40 if model == METERED else 0)
    more = office.chance.choice((0, 5, 300))
    return Want(
        model=model,
        consumer=office.chance.choice(consumers),
        minimum=least,
        target=least.plus(UnitVector(inferences=more, compute_ms=40 * more if model == METERED else 0)),
        ask=office.chance.random() < 0.3,
        request=digest_of(office.chance.randbytes(8)) if office.chance.random() < 0.9 else None,
    )


def _report(office: Office, held: Held) -> Report:
    """Report on a lease, honestly but for one time in fifty."""
    units, chance = held.units, office.chance
    held.seq += 1
    answers = chance.randint(held.used.inferences, units.inferences)
    most = units.compute_ms if answers else 0
    held.used = UnitVector(inferences=answers, compute_ms=chance.randint(held.used.compute_ms, most))
    held.over = chance.random() < 0.6
    said = held.used if chance.random() > 0.02 else UnitVector(inferences=units.inferences + 1)
    return Report(
        lease_id=held.lease_id, seq=held.seq, used=said, ok=said.inferences, err=0, final=held.over, receipts=""
    )


async def renew(office: Office) -> None:
    """Have an enclave report and ask; sometimes it sends the same again, or shows nothing."""
    enclave, chance = office.chance.choice(office.enclaves), office.chance
    live = [one for one in office.enclaves if one.instance not in office.ended]
    enclave = chance.choice(live) if live and chance.random() < 0.95 else enclave
    mine = [held for held in office.held if held.instance == enclave.instance and not held.over]
    reports = [_report(office, held) for held in chance.sample(mine, k=min(len(mine), chance.randint(0, 3)))]
    wants = [await _want(office, enclave) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
    message = Renew(
        instance=enclave.instance,
        request_id=message_id(),
        epoch=chance.choice((0, 0, 0, 7)),
        checkpoint_seen=enclave.checkpoint_seen if chance.random() < 0.9 else "",
        reports=reports,
        wants=wants,
    )
    envelope = seal(messages.RENEW, message, enclave.identity)
    reply: object = None
    for _ in range(chance.choice((1, 1, 1, 2))):
        reply = await office.attempt("renew", renewal.renew(office.bench.custodian, envelope))
    if office.told[-1].endswith(", unknown_instance"):
        office.ended.add(enclave.instance)
    if isinstance(reply, RenewReply):
        answer = open_by_any(reply.answer, messages.ANSWER, Answer, office.bench.command_keys)
        enclave.checkpoint_seen = answer.checkpoint
        office.notes.append(answer.checkpoint)
        for one in answer.results:
            office.counts["granted" if isinstance(one, Grant) else f"denied: {one.code.value}"] += 1
            if getattr(one, "code", None) is DenyCode.REATTEST:
                office.ended.add(enclave.instance)
            if isinstance(one, Grant):
                office.held.append(Held(enclave.instance, LeaseId(one.lease_id), one.units))


async def wipe(office: Office) -> None:
    """Have an enclave say that everything is gone; seldom, because it is."""
    if office.chance.random() < 0.3:
        enclave = office.chance.choice(office.enclaves)
        mine = [held for held in office.held if held.instance == enclave.instance and not held.over]
        statement = messages.Wiped(
            instance=enclave.instance, epoch=0, reports=[_report(office, held) for held in mine[:5]]
        )
        envelope = seal(messages.WIPED, statement, enclave.identity)
        await office.attempt("wiped", renewal.wiped(office.bench.custodian, envelope))


async def wait(office: Office) -> None:
    """Let time pass, to just before or after a window's beginning for example."""
    span_ms = office.chance.choice(_SPANS_MS)
    if office.chance.random() < 0.3:
        edge_ms = office.chance.choice((60_000, 60_000, 900_000, _HOUR_MS, _HOUR_MS, 24 * _HOUR_MS))
        span_ms = edge_ms - office.bench.now_ms % edge_ms + office.chance.choice((-1, 0, 1))
    office.bench.now_ms += max(1, span_ms)
    office.told.append(f"{span_ms} ms pass")


async def set_clock(office: Office) -> None:
    """Have a host's clock leap or step, or be put right."""
    steps = (0, 0, 0, 90_000, -90_000, -_HOUR_MS, 2 * _HOUR_MS, _SEASON_MS)
    office.off_ms[office.chance.randrange(2)] = office.chance.choice(steps)
    office.told.append(f"the clocks are {office.off_ms} ms off")


async def accept(office: Office) -> None:
    """Put the clocks right, or confirm what one shows, with the custodian stopped; then it is right."""
    off_ms = office.off_ms[0]
    if office.chance.random() < 0.5 and off_ms > 0:

        def confirm() -> None:
            with patch.object(timekeeping, "system_time_ms", lambda: office.wall_ms(0)):
                _tolerant(office, "accept time", lambda: accept_time(office.directory))

        office.restart(confirm)
        office.bench.now_ms += off_ms
    office.off_ms = [0, 0]


def _tolerant(office: Office, what: str, act: Callable[[], object]) -> object | None:
    try:
        found = act()
    except AIGovToolError as error:
        office.counts[f"{what}: {error.reason or error.code}"] += 1
        return None
    office.counts[what] += 1
    office.told.append(what)
    return found


async def restart(office: Office) -> None:
    """Stop the custodian and start it."""
    office.restart()
    office.told.append("restarted")


async def back_up(office: Office) -> None:
    """Copy the ledger."""
    office.back_up()
    office.told.append("backed up")


async def restore(office: Office) -> None:
    """Put an old copy in the ledger's place: what was enrolled since is unknown, and others remember more."""
    if office.backups:
        office.restore()
        office.counts["restored"] += 1
        office.told.append("restored")


async def show(office: Office) -> None:
    """Show the custodian a checkpoint that somebody was given."""
    if office.notes:
        note = office.chance.choice([office.notes[-1], office.chance.choice(office.notes)])
        work = views.compare(office.bench.custodian, CheckpointSeen(checkpoint=note))
        await office.attempt("show checkpoint", work)


async def enrol_in_directory(office: Office) -> None:
    """Enrol an operator with the custodian stopped, as who was locked out does."""
    name, path = f"own-{len(office.told)}", office.directory / f"own-{len(office.told)}.json"
    if len(office.operators) > 3:
        return
    office.restart(lambda: _tolerant(office, "add operator", lambda: add_operator(office.directory, name, path)))
    if path.exists():
        office.operators[name] = SigningKey.from_secret(Secret(decode(path.read_bytes(), OperatorFile).key))


async def rotate_log_key(office: Office) -> None:
    """Replace the key that signs the log, and sometimes take the one of before back."""
    root: Path = key_rotation.default_root(office.directory)
    shown = key_rotation.show(office.directory)
    old, revoking = shown.of(Role.LOG, State.IN_USE), office.chance.random() < 0.5

    def change() -> None:
        key_rotation.announce(office.directory, Role.LOG, root, office.bench.now_ms)
        key_rotation.use(office.directory, Role.LOG)
        if revoking:
            key_rotation.revoke(office.directory, old, root, office.bench.now_ms, drop_oldest=False)

    office.restart(lambda: _tolerant(office, "rotate the log key", change))
    custodian = office.bench.custodian
    await office.attempt(
        "publish", custodian.database.run(lambda running: key_sets.publish(custodian, running, custodian.keys))
    )


ACTS: Final[dict[Callable[[Office], Awaitable[None]], int]] = {
    begin: 5,
    attest_again: 2,
    fetch_key: 4,
    renew: 40,
    wipe: 1,
    wait: 12,
    set_clock: 2,
    accept: 3,
    restart: 1,
    back_up: 2,
    restore: 1,
    show: 2,
    enrol_in_directory: 1,
    rotate_log_key: 1,
}
