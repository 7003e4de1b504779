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
        answer="",
        tried="",
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
        answer="",
        tried="",
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
