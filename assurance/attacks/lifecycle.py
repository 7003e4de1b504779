"""Attacks on budget, time and life: restarted, copied, delayed, frozen, cut off, rolled back."""

from assurance.attacks.attack import Attack

ATTACKS: tuple[Attack, ...] = (
    Attack(
        12,
        name="An enclave is restarted to forget what it used",
        answer="",
        tried="",
    ),
    Attack(
        13,
        name="State that an enclave wrote is rolled back",
        answer="",
        tried="",
    ),
    Attack(
        14,
        name="An enclave is copied to spend twice",
        answer="",
        tried="",
    ),
    Attack(
        15,
        name="Messages are sent again, late, or in another order",
        answer="A renewal is carried out once: its copies get the same answer or none. An answer counts for the "
        "request under way only, and from when that was first sent. An older stop state lifts no stop, "
        "and a copy of a request for the stream of stops cuts none.",
        tried="A proxy with the custodian's TLS key, as no host has, sends each renewal four times, all old "
        "ones again in reverse order, old answers and old stop states in place of new ones, and holds "
        "answers for two ttl (a scaled 60 s).",
        refusals=("conflict: request_superseded", "conflict: listen_superseded"),
    ),
    Attack(
        16,
        name="Clocks are slowed, frozen, or stepped",
        answer="",
        tried="",
    ),
    Attack(
        17,
        name="An enclave is suspended across the end of its lease",
        answer="",
        tried="",
    ),
    Attack(
        18,
        name="A host cuts off the custodian, or lets through all but a stop",
        answer="",
        tried="",
    ),
    Attack(
        19,
        name="A host drops reports of use and nothing else",
        answer="Units are debited at the custodian before they are lent and in the enclave before they are used: "
        "without reports the answers are at most the units that were leased, and all of those are "
        "charged.",
        tried="A proxy that ends TLS lets everything pass but renewals and reports, while a consumer asks until "
        "it is refused.",
        refusals=("lease_expired",),
        entries=("lease_expired",),
    ),
    Attack(
        20,
        name="Leases are taken and dropped in a loop",
        answer="",
        tried="",
    ),
    Attack(
        21,
        name="The custodian's ledger is restored from an old copy",
        answer="",
        tried="",
    ),
    Attack(
        22,
        name="Two custodians serve one ledger",
        answer="",
        tried="",
    ),
    Attack(
        23,
        name="The disk is full or fails",
        answer="",
        tried="",
    ),
)
