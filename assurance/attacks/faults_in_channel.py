"""Faults of the predecessor in attestation and channel."""

from assurance.attacks.attack import Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        17,
        name="Evidence was made once and served for ever",
        answer="",
        tried="",
    ),
    Fault(
        18,
        name="Evidence went over plain HTTP",
        answer="",
        tried="",
    ),
    Fault(
        19,
        name="The enclave did not know its custodian",
        answer="",
        tried="",
    ),
    Fault(
        20,
        name="The model was bound to nothing but its name",
        answer="",
        tried="",
    ),
    Fault(
        21,
        name="Debug enclaves were accepted",
        answer="",
        tried="",
    ),
    Fault(
        22,
        name="A client's flag and a server's header chose simulation",
        answer="",
        tried="",
    ),
    Fault(
        23,
        name="Every advisory was accepted, and any TCB",
        answer="",
        tried="",
    ),
    Fault(
        24,
        name="The policy was a file without a signature",
        answer="",
        tried="",
    ),
    Fault(
        25,
        name="Half of the report data was not compared",
        answer="",
        tried="",
    ),
    Fault(
        26,
        name="Checks were assertions, which optimised Python leaves out",
        answer="",
        tried="",
    ),
    Fault(
        27,
        name="No time limits, and a certificate for two thousand years",
        answer="",
        tried="",
    ),
    Fault(
        28,
        name="Keys could not be rotated, and the host's clock decided",
        answer="",
        tried="",
    ),
    Fault(
        29,
        name="Collateral was fetched once, by somebody else, and never again",
        answer="",
        tried="",
    ),
)
