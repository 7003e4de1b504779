"""Faults of the predecessor in budget and stop."""

from assurance.attacks.attack import Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        1,
        name="It answered when the budget was used up",
        answer="",
        tried="",
    ),
    Fault(
        2,
        name="It ignored that a debit had failed",
        answer="The debit comes before the lease, and before the work: what is never reported is charged in full.",
        tried="As atk-19: the answers are counted while no report arrives, and the charge is compared when the "
        "lease is over.",
        refusals=("lease_expired",),
    ),
    Fault(
        3,
        name="Anybody could add to the budget",
        answer="",
        tried="",
    ),
    Fault(
        4,
        name="Its private keys were in the repository",
        answer="",
        tried="",
    ),
    Fault(
        5,
        name="Debits at the same time were lost, and its file was torn",
        answer="",
        tried="",
    ),
    Fault(
        6,
        name="A restart reset the budget",
        answer="",
        tried="",
    ),
    Fault(
        7,
        name="Threads passed the check of the budget together",
        answer="",
        tried="",
    ),
    Fault(
        8,
        name="It charged before it validated, and again for a repetition",
        answer="",
        tried="",
    ),
    Fault(
        9,
        name="It crashed on purpose when the custodian was gone",
        answer="An enclave without its custodian refuses within the ttl, with a typed error, in the same "
        "process, and serves when it is back.",
        tried="A proxy that ends TLS answers renewals with abc, -1, nothing, another shape and a very deep one.",
        refusals=("lease_expired",),
    ),
    Fault(
        10,
        name="A stop was to switch the custodian off, and the weights stayed",
        answer="",
        tried="",
    ),
    Fault(
        11,
        name="Silence was no event",
        answer="",
        tried="",
    ),
    Fault(
        12,
        name="One counter for all models, borrowers and consumers",
        answer="",
        tried="",
    ),
    Fault(
        13,
        name="Nobody could tell who had used what",
        answer="",
        tried="",
    ),
    Fault(
        14,
        name="Anybody could delete a model by its name",
        answer="",
        tried="",
    ),
    Fault(
        15,
        name="Each call of an open address started threads and another upload",
        answer="",
        tried="",
    ),
    Fault(
        16,
        name="The custodian had to be on the borrower's machine",
        answer="",
        tried="",
    ),
)
