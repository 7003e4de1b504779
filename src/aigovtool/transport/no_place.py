"""What a newcomer is told that gets no place (`connection.Tally`)."""

from collections.abc import Mapping
from typing import Final

from aigovtool.errors import OverloadedError
from aigovtool.transport.connection import Verdict
from aigovtool.transport.problem import wire_problem

#: Whole answers, ready to be written.
REFUSALS: Final[Mapping[Verdict, bytes]] = {
    Verdict.GREEDY: wire_problem(
        OverloadedError(
            "this client has too many connections",
            reason="connections_of_client",
            fix="use open connections again, or close some",
            retry_after_s=1,
        )
    ),
    Verdict.FULL: wire_problem(OverloadedError("too many connections", retry_after_s=1), status=503),
}
