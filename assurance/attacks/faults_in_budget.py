"""Faults of the predecessor in budget and stop."""

from assurance.attacks.attack import Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        1,
        name="It answered when the budget was used up",
        answer="The enclave itself refuses, with a typed error and no output, however often it is asked.",
        tried="A hundred raw requests on five units: five answers.",
        refusals=("budget_exhausted",),
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
        answer="An order is signed by an enrolled operator, on a connection of its own, names whole units in a range, "
        "and is applied once.",
        tried="A stranger, a consumer, a foreign signature, an old order, and an order signed with each of 43 bad "
        "numbers; the rows of the budget are compared.",
        refusals=(
            "unauthenticated: no_credential",
            "forbidden: wrong_role",
            "bad_signature: wrong_key",
            "bad_signature: stale_command",
        ),
    ),
    Fault(
        4,
        name="Its private keys were in the repository",
        answer="Keys are made where they are used, private from the first moment, and an enclave obeys the custodian "
        "whose root is in its attested configuration. What is published has TEST-ONLY keys of vectors at most.",
        tried="Every content that a file ever had in the repository, and all files of wheel and source archive, are "
        "looked at, and the modes of all files of a new custodian; another root answers an enclave.",
    ),
    Fault(
        5,
        name="Debits at the same time were lost, and its file was torn",
        answer="One writer, one transaction for each step: each unit is used once.",
        tried="64 connections ask 1,920 times on 1,000 units: exactly 1,000 answers, 1,000 posted, no server error.",
    ),
    Fault(
        6,
        name="A restart reset the budget",
        answer="The budget is in the ledger, and a start never writes it.",
        tried="Seven of ten units are used, and the custodian is killed and started five times by the same "
        "command; then three are answered. The campaigns kills and crash-points do it for hours.",
    ),
    Fault(
        7,
        name="Threads passed the check of the budget together",
        answer="A unit is debited in one step, before compute.",
        tried="32 requests at the same moment on one unit: one answer.",
    ),
    Fault(
        8,
        name="It charged before it validated, and again for a repetition",
        answer="What is malformed is refused before anything is reserved, and one request id is charged once.",
        tried="1,000 malformed bodies on one connection, 50 on one unit, which is still there; one id ten times "
        "at once and ten times later.",
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
        answer="A stop is a signed order with an epoch: the enclave refuses at once, ends the process that holds "
        "the weights, waits until it is gone, and says so.",
        tried="An operator stops a serving deployment; afterwards the memory of what is left is searched for "
        "weights and for the model's key.",
        refusals=("stopped",),
        entries=("wiped",),
    ),
    Fault(
        11,
        name="Silence was no event",
        answer="A heartbeat renews all authority; without it there is none within a ttl.",
        tried="The custodian is frozen while an enclave serves.",
        refusals=("lease_expired",),
    ),
    Fault(
        12,
        name="One counter for all models, borrowers and consumers",
        answer="Budgets are kept by model, borrower, consumer, dimension and window.",
        tried="Two borrowers with an enclave each: one uses up its budget, and the other has all of its own.",
    ),
    Fault(
        13,
        name="Nobody could tell who had used what",
        answer="Every effect is an entry of an append-only log whose checkpoints are signed; a changed copy is "
        "refused, with the entry named.",
        tried="A line of an exported log is changed; the campaign tampering changes, drops and moves entries in "
        "every way that it finds.",
    ),
    Fault(
        14,
        name="Anybody could delete a model by its name",
        answer="Each route lets in the roles that it is for, and nobody else.",
        tried="All routes of the OpenAPI description are called by nobody, consumer, borrower, operator and a "
        "revoked operator.",
    ),
    Fault(
        15,
        name="Each call of an open address started threads and another upload",
        answer="Open routes are answered from what is there; a challenge is for an enrolled borrower, and bounded.",
        tried="1,020 calls: health, the signed keys, and challenges for a borrower that never boots; threads "
        "and memory of the custodian are compared.",
        refusals=("overloaded: nonces",),
    ),
    Fault(
        16,
        name="The custodian had to be on the borrower's machine",
        answer="A custodian is a party of its own, reached over the network by its pinned keys; its ledger is nowhere "
        "else.",
        tried="A custodian is served in another network, with one cable to the host of the enclave: a model is lent, "
        "used and stopped across it, and of a thousand ports the one that it was told to open answers.",
    ),
)
