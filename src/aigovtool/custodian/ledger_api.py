"""The custodian's route that sends a copy of its ledger."""

import base64

from starlette.responses import Response

from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service.backup import copy_ledger
from aigovtool.protocol.backup import CHECKPOINT_HEADER
from aigovtool.transport.routes import Call, Caller, Route
from aigovtool.transport.source import SourceResponse

_MEDIA = "application/octet-stream"


def ledger_routes(custodian: Custodian) -> list[Route]:
    """Return the part of the table that is about the ledger as a whole."""

    async def copy(call: Call) -> Response:
        found = await copy_ledger(custodian, call.caller())
        headers = {
            "content-length": str(found.size_bytes),
            CHECKPOINT_HEADER: base64.b64encode(found.checkpoint.encode()).decode(),
        }
        return SourceResponse(found, headers=headers)

    return [
        Route(
            method="GET",
            path="/v1/ledger",
            handler=copy,
            who=(Caller.OPERATOR,),
            summary="A copy of the ledger (SQLite), with the checkpoint of its log in a header",
            answer_media=_MEDIA,
        )
    ]
