"""The custodian's routes about its audit log as a tree: checkpoints and proofs, open to whoever wants to check."""

from typing import Final

from aigovtool.codec import Message
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service import proofs, views, witnesses
from aigovtool.ids import LeaseId, Units
from aigovtool.ledger.proof import EntryProof
from aigovtool.protocol import views as shown
from aigovtool.transport.routes import Call, Caller, Route

#: A note of 4,096 characters, escaped.
_MAX_COSIGNED_BYTES: Final = 16 << 10


class LeasePath(Message):
    """Which lease."""

    lease_id: LeaseId


class InclusionQuery(Message):
    """Which entry, in the log of which size."""

    index: Units
    size: Units


class ConsistencyQuery(Message):
    """Which two sizes of the log."""

    old: Units
    size: Units


def log_routes(custodian: Custodian) -> list[Route]:
    """Return the part of the table that is about the audit log as a tree."""
    return [*_checkpoints(custodian), *_proofs(custodian)]


def _checkpoints(custodian: Custodian) -> list[Route]:
    async def compare(call: Call) -> shown.LogHead:
        return await views.compare(custodian, call.body(shown.CheckpointSeen))

    async def head(_call: Call) -> shown.LogHead:
        return await views.show_head(custodian)

    async def cosigned(call: Call) -> shown.WitnessView:
        return await witnesses.receive(custodian, call.body(shown.CosignedCheckpoint))

    async def everyone(_call: Call) -> shown.Witnesses:
        return await witnesses.show_witnesses(custodian)

    return [
        Route(
            method="POST",
            path="/v1/checkpoints",
            handler=compare,
            who=(Caller.ANYONE,),
            summary="Show a checkpoint that you hold, and get the present one",
            body=shown.CheckpointSeen,
            answer=shown.LogHead,
        ),
        Route(
            method="GET",
            path="/v1/checkpoint",
            handler=head,
            who=(Caller.ANYONE,),
            summary="Checkpoint, with the co-signatures of witnesses",
            answer=shown.LogHead,
        ),
        Route(
            method="POST",
            path="/v1/cosignatures",
            handler=cosigned,
            who=(Caller.ANYONE,),
            summary="Hand in an enrolled witness's co-signature of a checkpoint",
            body=shown.CosignedCheckpoint,
            answer=shown.WitnessView,
            max_body_bytes=_MAX_COSIGNED_BYTES,
        ),
        Route(
            method="GET",
            path="/v1/witnesses",
            handler=everyone,
            who=(Caller.ANYONE,),
            summary="Witnesses, and what each co-signed last",
            answer=shown.Witnesses,
        ),
    ]


def _proofs(custodian: Custodian) -> list[Route]:
    async def inclusion(call: Call) -> shown.InclusionProof:
        query = call.query(InclusionQuery)
        return await proofs.inclusion(custodian, query.index, query.size)

    async def consistency(call: Call) -> shown.ConsistencyProof:
        query = call.query(ConsistencyQuery)
        return await proofs.consistency(custodian, query.old, query.size)

    async def lease(call: Call) -> EntryProof:
        return await proofs.lease(custodian, call.caller(), call.path(LeasePath).lease_id)

    return [
        Route(
            method="GET",
            path="/v1/log/inclusion",
            handler=inclusion,
            who=(Caller.ANYONE,),
            summary="Proof that an entry is in the log",
            query_type=InclusionQuery,
            answer=shown.InclusionProof,
        ),
        Route(
            method="GET",
            path="/v1/log/consistency",
            handler=consistency,
            who=(Caller.ANYONE,),
            summary="Proof that the log was only added to",
            query_type=ConsistencyQuery,
            answer=shown.ConsistencyProof,
        ),
        Route(
            method="GET",
            path="/v1/leases/{lease_id}/proof",
            handler=lease,
            who=(Caller.CONSUMER, Caller.BORROWER, Caller.OPERATOR),
            summary="Proof that a lease of the caller's was debited",
            path_type=LeasePath,
            answer=EntryProof,
        ),
    ]
