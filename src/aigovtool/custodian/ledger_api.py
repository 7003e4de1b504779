"""The custodian's route that sends a copy of its ledger."""

import base64

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service.backup import LedgerCopy, copy_ledger
from aigovtool.protocol.backup import CHECKPOINT_HEADER
from aigovtool.transport.routes import Call, Caller, Route

_MEDIA = "application/octet-stream"


def ledger_routes(custodian: Custodian) -> list[Route]:
    """Return the part of the table that is about the ledger as a whole."""

    async def copy(call: Call) -> Response:
        return _CopyResponse(await copy_ledger(custodian, call.caller()))

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


class _CopyResponse(StreamingResponse):
    """Sends a copy of the ledger, and frees its space however the sending ends."""

    def __init__(self, copy: LedgerCopy) -> None:
        headers = {
            "content-length": str(copy.size_bytes),
            CHECKPOINT_HEADER: base64.b64encode(copy.checkpoint.encode()).decode(),
        }
        super().__init__(copy.chunks(), headers=headers, media_type=_MEDIA)
        self._copy = copy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._copy.close()
