"""What the gateway knows of itself and its enclaves, for people and programs, and the page that shows it."""

from collections.abc import Iterable
from importlib import resources
from typing import Annotated, Final

from msgspec import Meta
from msgspec.structs import replace
from starlette.responses import Response

from aigovtool.attestation.model import TeeType
from aigovtool.attestation.policy import policy_digest
from aigovtool.codec import Message
from aigovtool.consumer.connect.evidence_log import Line
from aigovtool.consumer.connect.fleet import Fleet
from aigovtool.consumer.connect.kept_receipts import KeptReceipts
from aigovtool.consumer.connect.member import Member, State
from aigovtool.consumer.credential import Credential
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, KeyId, Millis, ModelId, Units
from aigovtool.ledger.units import UnitVector
from aigovtool.transport.routes import Call, Caller, Route

_Text = Annotated[str, Meta(max_length=1000)]
#: Nothing of another origin, nothing inline; and nobody shows it in a frame.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE: Final = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/aigovtool/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/aigovtool/page.css": ("page.css", "text/css; charset=utf-8"),
    "/aigovtool/page.svg": ("page.svg", "image/svg+xml"),
}


class ModelStatus(Message, omit_defaults=True):
    """A model that an enclave serves; `remaining` as the last receipt of this enclave says, if there was one."""

    model: ModelId
    manifest: Digest
    remaining: UnitVector | None = None


class EnclaveStatus(Message, omit_defaults=True):
    """One enclave: what it has proven, or why it is not believed; and how it has answered. Times in milliseconds.

    `latency_ms` is a mean in which the last answers count most; within the other two came half, and 99 of 100, of the
    last thousand.
    """

    enclave: _Text
    state: State
    answered: Units
    refused: Units
    failed: Units
    under_way: Units
    latency_ms: float | None = None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    tee: TeeType | None = None
    instance: InstanceId | None = None
    verified_at_ms: Millis | None = None
    valid_until_ms: Millis | None = None
    memory_encryption: bool = False
    #: All that is asked of it is sealed to it: somebody else may end TLS before it.
    sealed: bool = False
    measurements: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    models: tuple[ModelStatus, ...] = ()
    warnings: tuple[_Text, ...] = ()
    code: _Text = ""
    reason: _Text = ""
    why: _Text = ""
    fix: _Text = ""


class Status(Message):
    """All of it, at one moment."""

    now_ms: Millis
    consumer: ConsumerId
    borrower: BorrowerId
    custodian: KeyId
    appraisal_policy: Digest
    policy_version: Units
    simulated: bool
    receipts_kept: Units
    receipts_lost: Units
    enclaves: tuple[EnclaveStatus, ...]
    #: The last lines of the evidence log.
    seen: tuple[Line, ...] = ()


def status_of(
    fleet: Fleet, credential: Credential, receipts: KeptReceipts, seen: Iterable[Line], *, now_ms: int
) -> Status:
    """Return the present state of everything."""
    enclaves = tuple(_enclave(member) for member in fleet.members)
    return Status(
        now_ms=now_ms,
        consumer=credential.consumer,
        borrower=credential.borrower,
        custodian=credential.custodian_root.key_id,
        appraisal_policy=policy_digest(credential.policy),
        policy_version=credential.policy.version,
        simulated=any(one.tee is TeeType.SIMULATED for one in enclaves),
        receipts_kept=receipts.count,
        receipts_lost=receipts.lost,
        enclaves=enclaves,
        seen=tuple(seen),
    )


def _enclave(member: Member) -> EnclaveStatus:
    session, trouble, tally = member.session, member.trouble, member.tally
    status = EnclaveStatus(
        enclave=member.url,
        state=member.state,
        answered=tally.answered,
        refused=tally.refused,
        failed=tally.failed,
        under_way=tally.under_way,
        latency_ms=_ms(tally.latency_s),
        latency_p50_ms=_ms(tally.within_s(50)),
        latency_p99_ms=_ms(tally.within_s(99)),
        code="" if trouble is None else trouble.code,
        reason="" if trouble is None else trouble.reason or "",
        why="" if trouble is None else trouble.message[:1000],
        fix="" if trouble is None else (trouble.fix or "")[:1000],
    )
    if session is None:
        return status
    body = session.result.body
    return replace(
        status,
        tee=body.tee,
        instance=session.instance,
        verified_at_ms=session.attested_at_ms,
        valid_until_ms=body.valid_until_ms,
        memory_encryption=body.memory_encryption,
        sealed=session.body_key is not None,
        measurements={one.name: one.digest for one in body.measurements},
        models=tuple(
            ModelStatus(model=model, manifest=manifest, remaining=tally.remaining.get(model))
            for model, manifest in sorted(session.models.items())
        ),
        warnings=session.warnings,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)


def page_routes() -> list[Route]:
    """Return the routes of the page, whose parts are read once."""
    return [_page_route(path, name, media) for path, (name, media) in _PAGE.items()]


def _page_route(path: str, name: str, media: str) -> Route:
    content = (resources.files(__package__) / "page" / name).read_bytes()
    headers = {
        "content-type": media,
        "content-security-policy": _POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }

    async def shown(_call: Call) -> Response:
        return Response(content, headers=headers)

    return Route(
        method="GET",
        path=path,
        handler=shown,
        who=(Caller.ANYONE,),
        summary=f"The status page: {name}",
        answer_media=media,
    )
