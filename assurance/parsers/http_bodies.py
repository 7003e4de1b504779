"""What comes behind the heads: bodies, paths, queries and headers of requests, and bodies of answers to inferences.

Three readers: the route tables of custodian and enclave (`route_tables`), the Open Inference Protocol (`inference`),
and the headers that handlers read by themselves.
"""

from typing import Final

from assurance.parsers import documents, inference, route_tables
from assurance.parsers.parser import Kind, Parser


def _make() -> tuple[Kind, ...]:
    return (*inference.kinds(), *route_tables.kinds(), route_tables.header_kind())


PARSER: Final = Parser(
    name="http-bodies",
    claim="No body, query or path is decoded into a value that it does not say, or that breaks a bound.",
    counts="bodies of inferences (JSON, and JSON followed by tensors) and of their answers: shapes, sizes, datatypes, "
    "nesting and elements that do not fit each other, numbers at their edges; and requests to every route in the "
    "tables of custodian and enclave as they stand there, with documents changed as JSON and as bytes, queries and "
    "paths. What is accepted must be what an independent reading finds (JSON by hand, schemas in plain Python, "
    "elements packed by numpy), keep every bound, and come back the same when it is written again.",
    shows_not="bodies near their bounds: 8 MiB of JSON take one to two seconds (in a thread, in their consumer's turn) "
    "and up to 30 times as much memory. What handlers do with what was decoded is tested elsewhere.",
    covers=(
        *documents.COVERS,
        "src/aigovtool/attestation/model.py",
        "src/aigovtool/attestation/policy.py",
        "src/aigovtool/crypto/sign.py",
        "src/aigovtool/custodian/api.py",
        "src/aigovtool/custodian/ledger_api.py",
        "src/aigovtool/custodian/log_api.py",
        "src/aigovtool/custodian/service/packages.py",
        "src/aigovtool/enclave/gateway/api.py",
        "src/aigovtool/enclave/gateway/sealed.py",
        "src/aigovtool/enclave/gateway/sealed_callers.py",
        "src/aigovtool/enclave/id_table.py",
        "src/aigovtool/enclave/spent_ids.py",
        "src/aigovtool/ledger/budget.py",
        "src/aigovtool/protocol",
        "src/aigovtool/transport/body.py",
        "src/aigovtool/transport/whole_body.py",
        "src/aigovtool/transport/connection.py",
        "src/aigovtool/transport/problem.py",
        "src/aigovtool/transport/routes.py",
        "assurance/parsers/http_bodies.py",
        "assurance/parsers/http_reading.py",
        "assurance/parsers/inference.py",
        "assurance/parsers/route_tables.py",
        "assurance/parsers/tensor_reading.py",
    ),
    make=_make,
)
